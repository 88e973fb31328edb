"""Reports: outcomes, doses and sweeps as pages of one HTML file each."""

from collections.abc import Mapping, Sequence

from glassworks.edits.outcome import Dose, Outcome
from glassworks.edits.patching import Agreement, Edges, Sweep
from glassworks.pages import (
    Linear,
    Point,
    bullets,
    document,
    heading,
    heat,
    paragraph,
    preformatted,
    section,
    side_by_side,
    table,
)

TOP_EDGES = 20


def outcome_page(outcome: Outcome) -> str:
    """What edits did: next tokens, both continuations, divergence by token, and the effect on other text."""
    rows = [
        {"token": repr(choice.token), "clean": choice.clean, "edited": choice.edited, "logit change": choice.logit}
        for choice in outcome.choices
    ]
    body = [bullets(outcome.edits), heading("After the prompt"), preformatted(outcome.prompt), table(rows)]
    if outcome.clean_text or outcome.edited_text:
        body += [heading("Continuations"), side_by_side({"clean": outcome.clean_text, "edited": outcome.edited_text})]
    body.append(heading("Divergence of the prediction after each token, KL in nats"))
    body.append(heat(["KL"], [f"{text} {at}" for at, text in enumerate(outcome.tokens)], [outcome.kl]))
    other = outcome.off_target
    if other is not None:
        losses = {"clean loss": other.clean_loss, "edited loss": other.edited_loss}
        facts = [{"texts": other.texts, "tokens": other.tokens, "KL": other.kl, **losses}]
        body += [heading("On other text, at every token"), table(facts)]
    return document(f"{outcome.model}: edited", body)


def doses_page(prompt: str, edit: str, doses: Sequence[Dose]) -> str:
    """How the answer and other text change with the amount.

    Args:
        prompt: what the model was given.
        edit: in words.
        doses: as `doses` gives them.
    """
    watched = list(doses[0].probabilities)
    chances = {token: [Point(dose.amount, dose.probabilities[token], token) for dose in doses] for token in watched}
    kl = {"after the prompt": [Point(dose.amount, dose.kl, dose.top) for dose in doses]}
    if doses[0].off_target is not None:
        kl["on other text"] = [Point(dose.amount, dose.off_target or 0.0) for dose in doses]
    rows = [
        {"amount": dose.amount, "KL": dose.kl, "KL on other text": dose.off_target, "next": repr(dose.top)}
        | {"continuation": dose.text, **{f"p {token}": p for token, p in dose.probabilities.items()}}
        for dose in doses
    ]
    return document(
        "Dose and response",
        [
            bullets([edit]) + preformatted(prompt),
            section("Probability of the next token", {"": chances}, "amount", "probability", Linear),
            section("Divergence", {"": kl}, "amount", "KL, nats", Linear),
            heading("Figures") + table(rows),
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
    body = [preformatted("".join(pair.texts)), paragraph(f"Metric: {pair.metric.name}.")]
    for sweep in sweeps:
        body.append(heading(f"{sweep.way.capitalize()}, {sweep.cells[0].site.kind}, {sweep.method}"))
        body.append(paragraph(f"{sweep.start:.3g} becomes {sweep.goal:.3g} where a share is 1."))
        body.append(heat(*sweep.grid()))
    if agreements:
        rows = [{"approximation": name, **agreement.plain()} for name, agreement in agreements.items()]
        body += [heading("Agreement with exact patching"), table(rows)]
    if edges is not None:
        rows = [{"from": str(one), "to": str(other), "share": share} for one, other, share in edges.top(TOP_EDGES)]
        body += [heading("Edges (EAP-IG)"), table(rows)]
    return document(f"{pair.model.name}: patching", body)
