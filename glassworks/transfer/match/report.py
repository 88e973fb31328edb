"""Report: what a comparison found, as one value, as tables for a terminal and as a page.

This module must not compute what it shows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, final

from glassworks.pages import document, heat, table
from glassworks.transfer.match import pictures
from glassworks.transfer.match.directions import Written
from glassworks.transfer.match.evolve import Evolution
from glassworks.transfer.match.match import Matching
from glassworks.transfer.match.scaling import MOST, Scaling
from glassworks.transfer.match.sought import Sought
from glassworks.transfer.match.together import Interval
from glassworks.transfer.match.wiring import Wiring

LISTED = 60
CHANCE = 0.05
DOTS = 3000


@final
@dataclass(frozen=True, eq=False)
class Comparison:
    """What two models have in common, and what one has alone.

    Attributes:
        matching: features sought in each other.
        written: whether A's features and their partners write the same; None where no map is known.
        wiring: whether partners are connected alike; None where no prompts were traced.
        scaling: B's features in A; None where one was not trained on from the other.
        joint: latents of a crosscoder over both, where one was given.
    """

    matching: Matching
    written: Written | None = None
    wiring: Wiring | None = None
    scaling: Scaling | None = None
    joint: Scaling | None = None

    def plain(self, most: int = LISTED) -> dict[str, Any]:
        """The figures and the first features of each list as JSON values."""
        found = self.matching.plain()
        found["features"] = {"in_both": _listed(self, most), "a_only": self.matching.forward.matches(most, False)}
        found["features"]["b_only"] = self.matching.backward.matches(most, False)
        parts = {"written": self.written, "wiring": self.wiring, "scaling": self.scaling, "crosscoder": self.joint}
        return found | {name: part.plain() for name, part in parts.items() if part is not None}


def pair_page(found: Comparison) -> str:
    """A page of two models."""
    return document(f"{found.matching.a} and {found.matching.b}", [pictures.STYLE, *_pair(found)])


def family_page(found: Sequence[Comparison]) -> str:
    """A page of several models, each held against each."""
    names = list(dict.fromkeys(name for each in found for name in (each.matching.a, each.matching.b)))
    body = [pictures.STYLE, "<h2>Share of the features of each model (row) that are found in each other (column)</h2>"]
    body.append(_heat(names, names, family(found)))
    for each in found:
        body += [f"<h1>{escape(each.matching.a)} and {escape(each.matching.b)}</h1>", *_pair(each)]
    return document(", ".join(names), body)


def family(found: Sequence[Comparison]) -> list[list[Interval]]:
    """Share of each model's features that are found in each other model; 1 in itself."""
    shares: dict[tuple[str, str], Interval] = {}
    for each in found:
        a, b = each.matching.a, each.matching.b
        shares[a, b], shares[b, a] = each.matching.forward.whole.found, each.matching.backward.whole.found
    names = list(dict.fromkeys(name for pair in shares for name in pair))
    own = (1.0, 1.0, 1.0)
    return [[shares.get((row, column), own) for column in names] for row in names]


def evolution_page(found: Evolution) -> str:
    """A page of one model's layers."""
    steps, known = found.steps, [0.0, *(step.known[0] for step in found.steps)]
    names = [*found.found.home.names]
    going, sizes = [*(step.going_on[0] for step in steps), 0.0], [row.alive for row in found.found.rows]
    layers = list(zip(names, sizes, known, going, strict=False))
    rows = [
        {
            "step": f"{step.lower} -> {step.upper}",
            "found above": pictures.told(step.going_on),
            "found below": pictures.told(step.known),
            "chained": step.chained,
            "split": step.split,
            "merged": step.merged,
            "r": step.r,
            "cosine": step.cosine,
        }
        for step in steps
    ]
    chains = [
        {
            "chain": " -> ".join(each.features),
            "labels": " | ".join(each.labels),
            "r": ", ".join(f"{r:.2f}" for r in each.r),
            "cosine": ", ".join(f"{cosine:.2f}" for cosine in each.cosine),
        }
        for each in found.chains[:LISTED]
    ]
    body = [
        pictures.STYLE,
        '<p class="note">Each column is a layer: dark what is found in the layer below, light what is born. Bands are '
        "features that are each other's best partner; the others die, split or merge.</p>",
        f"<figure>{pictures.flow(layers, [step.chained for step in steps])}</figure>",
        "<h2>From layer to layer</h2>",
        table(rows, list(rows[0])),
        "<h2>Share of each layer's features (row) that are found in each layer (column)</h2>",
        _heat(names, names, found.found.places.shares),
        "<h2>Chains</h2>",
        _words(chains, ("chain", "labels", "r", "cosine")) if chains else "<p>There are none.</p>",
    ]
    return document(f"{found.model}: how features change with depth", body)


def _pair(found: Comparison) -> list[str]:
    matching = found.matching
    body = [
        _sides(each, of, where)
        for each, of, where in ((matching.forward, matching.a, matching.b), (matching.backward, matching.b, matching.a))
    ]
    facts = _facts(found)
    body += [
        "<h2>Figures</h2>",
        table([{"figure": name, "value": value} for name, value in facts.items()], ("figure", "value")),
    ]
    body += _scaled(found.scaling, f"What {matching.b} has that {matching.a} lacks: latent scaling")
    body += _scaled(found.joint, "Latents of the crosscoder")
    columns = ("feature", "label", "partner", "partner_label", "r", "low", "high", "cosine", "rank")
    body += ["<h2>Features of both</h2>", _words(_listed(found, LISTED), columns)]
    body += [f"<h2>Only in {escape(matching.a)}</h2>", _words(matching.forward.matches(LISTED, False), columns)]
    return [*body, f"<h2>Only in {escape(matching.b)}</h2>", _words(matching.backward.matches(LISTED, False), columns)]


def _sides(side: Sought, of: str, where: str) -> str:
    rows = [(row.coder, row.found) for row in side.rows]
    mine = side.alive
    lines = {"partner": side.r[mine].tolist(), "best random feature": side.chance[mine].tolist()}
    table_rows = [
        {
            "coder": row.coder,
            "alive": row.alive,
            "silent": row.silent,
            "found": pictures.told(row.found),
            "r of 0.7 and more": pictures.told(row.strong),
            "r": pictures.told(row.r),
            "r of random features": row.chance,
            "r of dealt partners": row.dealt,
        }
        for row in side.rows
    ]
    return (
        f"<h2>Features of {escape(of)} that are found in {escape(where)}</h2><div class='panels wide'>"
        f"<figure><figcaption>share found; dashed: a random coder</figcaption>{pictures.bars(rows, CHANCE)}</figure>"
        f"<figure><figcaption>correlation with the partner</figcaption>{pictures.histogram(lines, 'r')}</figure></div>"
        f"<figure><figcaption>share found in each coder of {escape(where)} (column) by itself</figcaption>"
        f"{_heat(side.home.names, side.other.names, side.places.shares)}</figure>"
        + table(table_rows, list(table_rows[0]))
    )


def _words(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """A table that is read rather than added up."""
    return f'<div class="words">{table(rows, columns)}</div>'


def _heat(rows: Sequence[str], columns: Sequence[str], shares: Sequence[Sequence[Interval]]) -> str:
    return heat(rows, columns, [[share[0] for share in line] for line in shares])


def _facts(found: Comparison) -> dict[str, Any]:
    plain = found.matching.plain()
    facts: dict[str, Any] = {"tokens": " + ".join(f"{each:,}" for each in found.matching.rows)}
    facts |= {"each other's best partner": plain["mutual"], "one-to-one pairs": plain["one_to_one"]["pairs"]}
    facts["mean r of one-to-one pairs"] = plain["one_to_one"]["r"]
    if found.written is not None:
        facts["cosine of what found features and partners write"] = pictures.told(found.written.mean)
        facts["its rank among all features of the partner's coder (chance 0.5)"] = pictures.told(
            found.written.mean_rank
        )
    if found.wiring is not None:
        wired = found.wiring
        facts["prompts traced"] = wired.prompts
        facts["influence of A's recurring features with a partner"] = wired.matched
        facts["of these, influence of those whose partner recurs in B"] = wired.recurring
        facts[f"of {wired.edges} edges of A, also in B"] = pictures.told(wired.kept)
        facts["the same with partners dealt at random"] = f"{wired.chance:.3g} (p {wired.p:.3f})"
        facts["edges of both with the same sign"] = "" if wired.signs is None else wired.signs
    return facts


def _scaled(found: Scaling | None, heading: str) -> list[str]:
    if found is None:
        return []
    sets: Mapping[str, list[tuple[float, float, str]]] = {"found in both": [], "new": []}
    for each in found.alive.nonzero()[:, 0].tolist()[:DOTS]:
        rebuilt, left = found.ratios[:, each].tolist()
        name = f"{found.features[each]} {found.labels[each]}"
        sets["new" if found.new[each] else "found in both"].append((rebuilt, left, name))
    rows = [
        {name: pictures.told(tuple(value)) if isinstance(value, list) else value for name, value in each.items()}
        for each in found.records(LISTED)
    ]
    note = (
        f"{int((found.alive & found.new).sum()):,} of {int(found.alive.sum()):,} features are new: the ratio of the "
        f"rebuilt part is below {MOST[0]}, that of the leftover below {MOST[1]}; share {pictures.told(found.share)}."
    )
    axes = ("ratio of betas, rebuilt part", "ratio of betas, leftover")
    return [
        f'<h2>{escape(heading)}</h2><p class="note">{note}</p><figure>{pictures.scatter(sets, axes, MOST)}</figure>',
        _words(rows, ("feature", "label", "of", "rebuilt", "leftover", "norm")),
    ]


def _listed(found: Comparison, most: int) -> list[dict[str, Any]]:
    """Features of both, with the cosine and rank of what they write where these are known."""
    side, listed = found.matching.forward, found.matching.forward.matches(most)
    if found.written is None:
        return listed
    chosen = (side.alive & side.found).nonzero()[:, 0]
    order = chosen[side.r[chosen].argsort(descending=True, stable=True)][:most].tolist()
    extra = [(float(found.written.cosine[each]), float(found.written.rank[each])) for each in order]
    known = [{"cosine": round(c, 4), "rank": round(k, 4)} if c == c else {} for c, k in extra]
    return [row | more for row, more in zip(listed, known, strict=True)]
