"""Reports: outcomes, doses and sweeps as pages of one HTML file each. This module must not know how they came about."""

from collections.abc import Mapping, Sequence
from html import escape

from glassworks.edits.outcome import Dose, Outcome
from glassworks.edits.patching import Agreement, Edges, Sweep
from glassworks.pages import Linear, Point, document, heat, section, table

SHOWN_EDGES = 20


def outcome_page(outcome: Outcome) -> str:
    """What edits did: next tokens, both continuations, divergence by token, and the effect on other text."""
    rows = [
        {"token": repr(each.token), "clean": each.clean, "edited": each.edited, "logit change": each.logit}
        for each in outcome.choices
    ]
    changed = table(rows, ("token", "clean", "edited", "logit change"))
    body = [_listed(outcome.edits), f"<h2>After the prompt</h2>{_text(outcome.prompt)}{changed}"]
    if outcome.clean_text or outcome.edited_text:
        body.append(
            f'<h2>Continuations</h2><div class="pair"><div>clean{_text(outcome.clean_text)}</div>'
            f"<div>edited{_text(outcome.edited_text)}</div></div>"
        )
    body.append("<h2>Divergence of the prediction after each token, KL in nats</h2>")
    body.append(heat(["KL"], [f"{text} {at}" for at, text in enumerate(outcome.tokens)], [outcome.kl]))
    other = outcome.off_target
    if other is not None:
        losses = {"clean loss": other.clean_loss, "edited loss": other.edited_loss}
        facts = [{"texts": other.texts, "tokens": other.tokens, "KL": other.kl, **losses}]
        body.append(f"<h2>On other text, at every token</h2>{table(facts, tuple(facts[0]))}")
    return document(f"{outcome.model}: edited", body)


def doses_page(prompt: str, edit: str, doses: Sequence[Dose]) -> str:
    """How the answer and other text change with the amount.

    Args:
        prompt: what was asked.
        edit: in words.
        doses: as `doses` gives them.
    """
    watched = list(doses[0].probabilities)
    chances = {token: [Point(each.amount, each.probabilities[token], token) for each in doses] for token in watched}
    kl = {"after the prompt": [Point(each.amount, each.kl, each.top) for each in doses]}
    if doses[0].off_target is not None:
        kl["on other text"] = [Point(each.amount, each.off_target or 0.0) for each in doses]
    rows = [
        {"amount": each.amount, "KL": each.kl, "KL on other text": each.off_target, "next": repr(each.top)}
        | {"continuation": each.text, **{f"p {token}": p for token, p in each.probabilities.items()}}
        for each in doses
    ]
    return document(
        "Dose and response",
        [
            _listed([edit]) + _text(prompt),
            section("Probability of the next token", {"": chances}, "amount", "probability", Linear),
            section("Divergence", {"": kl}, "amount", "KL, nats", Linear),
            "<h2>Figures</h2>" + table(rows, tuple(rows[0])),
        ],
    )


def sweeps_page(
    sweeps: Sequence[Sweep], agreements: Mapping[str, Agreement] | None = None, edges: Edges | None = None
) -> str:
    """Heat maps of sweeps over the same pair, and how well approximations agree.

    Args:
        sweeps: each becomes a heat map.
        agreements: name of an approximation -> how it agrees with exact patching.
        edges: the strongest of them become a table.
    """
    pair = sweeps[0].pair
    body = [_text("".join(pair.texts)) + f"<p>Metric: {escape(pair.metric.name)}.</p>"]
    for each in sweeps:
        ends = f"{each.start:.3g} becomes {each.goal:.3g} where a share is 1"
        title = f"{each.way.capitalize()}, {each.cells[0].site.kind}, {each.method}"
        body.append(f"<h2>{title}</h2><p>{ends}.</p>{heat(*each.grid())}")
    if agreements:
        rows = [{"approximation": name, **found.plain()} for name, found in agreements.items()]
        body.append(f"<h2>Agreement with exact patching</h2>{table(rows, tuple(rows[0]))}")
    if edges is not None:
        rows = [{"from": str(one), "to": str(other), "share": share} for one, other, share in edges.top(SHOWN_EDGES)]
        body.append(f"<h2>Edges (EAP-IG)</h2>{table(rows, ('from', 'to', 'share'))}")
    return document(f"{pair.model.name}: patching", body)


def _listed(edits: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(each)}</li>' for each in edits)}</ul>"


def _text(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"
