"""Report: the results of a comparison as one value, as JSON and as pages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from glassworks.pages import (
    document,
    facts,
    figure,
    flow,
    heading,
    heat,
    histogram,
    interval_bars,
    panels,
    paragraph,
    scatter,
    table,
    with_interval,
)
from glassworks.transfer.coactivation import Interval
from glassworks.transfer.depth import Evolution
from glassworks.transfer.match import FeatureMatches, Matching
from glassworks.transfer.partners import Wiring, WriteSimilarity
from glassworks.transfer.scaling import MOST, Scaling

LISTED, PRINTED = 60, 10
CHANCE = 0.05
DOTS = 3000


@final
@dataclass(frozen=True, eq=False)
class Comparison:
    """What two models have in common, and what one has alone.

    Attributes:
        matching: features matched in both directions.
        written: whether A's features and their partners write the same; None where no map is known.
        wiring: whether partners are connected alike; None where no prompts were traced.
        scaling: B's features in A; None where one was not trained on from the other.
        joint: latents of a crosscoder over both, where one was given.
    """

    matching: Matching
    written: WriteSimilarity | None = None
    wiring: Wiring | None = None
    scaling: Scaling | None = None
    joint: Scaling | None = None

    def __rich__(self) -> Any:
        both, columns = self.matching, ("feature", "label", "partner", "partner_label", "r")
        figures = {"each other's best partners": f"{int(both.mutual.sum()):,}"}
        if self.written:
            figures["cosine of what they write"] = with_interval(self.written.mean)
            figures["its rank among all features (chance 0.5)"] = with_interval(self.written.mean_rank)
        if self.wiring:
            figures[f"of {self.wiring.edges} edges of A, in B"] = with_interval(self.wiring.kept)
            figures["with partners permuted at random"] = f"{self.wiring.chance:.3g}, p {self.wiring.p:.3f}"
        if self.scaling:
            figures[f"share new in {both.b}"] = with_interval(self.scaling.share)
        if self.joint:
            figures["share of the crosscoder's latents of B that are new"] = with_interval(self.joint.share)

        def rows(side: FeatureMatches) -> list[dict[str, Any]]:
            return [
                {
                    "coder": row.coder,
                    "alive": row.alive,
                    "found": with_interval(row.found),
                    "r": with_interval(row.r),
                    "r of random features": row.chance,
                    "r of permuted partners": row.permuted,
                }
                for row in side.summaries
            ]

        tables: dict[str, Any] = {
            f"{both.a} in {both.b}": rows(both.forward),
            f"{both.b} in {both.a}": rows(both.backward),
            f"features of {both.a} and {both.b}": [
                {name: match[name] for name in columns} for match in both.forward.matches(PRINTED)
            ],
            f"figures of {both.a} and {both.b}": [{"figure": name, "value": text} for name, text in figures.items()],
        }
        for name, part in (("scaling", self.scaling), ("crosscoder", self.joint)):
            if part:
                tables[f"only in one of {both.a} and {both.b}, by {name}"] = [
                    {key: value[0] if isinstance(value, list) else value for key, value in record.items()}
                    for record in part.records(PRINTED)
                ]
        return facts({name: value for name, value in tables.items() if value})

    def plain(self, most: int = LISTED) -> dict[str, Any]:
        """The figures and the first features of each list as JSON values."""
        matching, parts = self.matching, {"written": self.written, "wiring": self.wiring, "scaling": self.scaling}
        features = {"in_both": self.shared(most), "a_only": matching.forward.matches(most, False)}
        features["b_only"] = matching.backward.matches(most, False)
        plain = matching.plain() | {"features": features}
        return plain | {name: part.plain() for name, part in (parts | {"crosscoder": self.joint}).items() if part}

    def shared(self, most: int = LISTED) -> list[dict[str, Any]]:
        """Features of both, with the cosine and rank of what they write where these are known."""
        side, rows = self.matching.forward, self.matching.forward.matches(most)
        for row, feature in zip(rows, side.order(most), strict=True):
            if self.written is not None and bool(self.written.cosine[feature].isfinite()):
                row["cosine"] = round(float(self.written.cosine[feature]), 4)
                row["rank"] = round(float(self.written.rank[feature]), 4)
        return rows


def pair_page(comparison: Comparison) -> str:
    """A page of two models."""
    return document(f"{comparison.matching.a} and {comparison.matching.b}", _pair(comparison))


def family_page(comparisons: Sequence[Comparison]) -> str:
    """A page of several models, each compared with each."""
    names = list(dict.fromkeys(name for pair in comparisons for name in (pair.matching.a, pair.matching.b)))
    body = [heading("Share of the features of each model (row) that are found in each other (column)")]
    body.append(_heat(names, names, found_shares(comparisons)))
    for pair in comparisons:
        body += [heading(f"{pair.matching.a} and {pair.matching.b}", 1), *_pair(pair)]
    return document(", ".join(names), body)


def found_shares(comparisons: Sequence[Comparison]) -> list[list[Interval]]:
    """Share of each model's features that are found in each other model; 1 in itself."""
    shares: dict[tuple[str, str], Interval] = {}
    for pair in comparisons:
        a, b = pair.matching.a, pair.matching.b
        shares[a, b], shares[b, a] = pair.matching.forward.whole.found, pair.matching.backward.whole.found
    names = list(dict.fromkeys(name for pair in shares for name in pair))
    return [[shares.get((row, column), (1.0, 1.0, 1.0)) for column in names] for row in names]


def evolution_page(evolution: Evolution) -> str:
    """A page of one model's layers."""
    steps, names = evolution.steps, [*evolution.matches.home.names]
    known, going = [0.0, *(step.known[0] for step in steps)], [*(step.going_on[0] for step in steps), 0.0]
    layers = list(zip(names, [row.alive for row in evolution.matches.summaries], known, going, strict=False))
    chains = [
        {
            "chain": " -> ".join(chain.features),
            "labels": " | ".join(chain.labels),
            "r": ", ".join(f"{r:.2f}" for r in chain.r),
            "cosine": ", ".join(f"{cosine:.2f}" for cosine in chain.cosine),
        }
        for chain in evolution.chains[:LISTED]
    ]
    body = [
        paragraph(
            "Each column is a layer: dark the share that is found in the layer below, light the share that is born. "
            "Bands are features that are each other's best partner; the others die, split or merge.",
            note=True,
        ),
        figure(flow(layers, [step.chained for step in steps])),
        heading("From layer to layer"),
        table(evolution.rows()),
        heading("Share of each layer's features (row) that are found in each layer (column)"),
        _heat(names, names, evolution.matches.shares),
        heading("Chains"),
        table(chains, words=True) if chains else paragraph("There are none."),
    ]
    return document(f"{evolution.model}: how features change with depth", body)


def _pair(comparison: Comparison) -> list[str]:
    matching = comparison.matching
    body = _side(matching.forward, matching.a, matching.b) + _side(matching.backward, matching.b, matching.a)
    plain = matching.plain()
    facts: dict[str, Any] = {
        "tokens": " + ".join(f"{count:,}" for count in matching.rows),
        "each other's best partner": plain["mutual"],
        "one-to-one pairs": plain["one_to_one"]["pairs"],
        "mean r of one-to-one pairs": plain["one_to_one"]["r"],
    }
    if comparison.written is not None:
        facts |= {
            "cosine of what found features and partners write": with_interval(comparison.written.mean),
            "its rank among all features of the partner's coder (chance 0.5)": with_interval(
                comparison.written.mean_rank
            ),
        }
    if (edges := comparison.wiring) is not None:
        facts |= {
            "prompts traced": edges.prompts,
            "influence of A's recurring features with a partner": edges.matched,
            "of these, influence of those whose partner recurs in B": edges.recurring,
            f"of {edges.edges} edges of A, also in B": with_interval(edges.kept),
            "the same with partners permuted at random": f"{edges.chance:.3g} (p {edges.p:.3f})",
            "edges of both with the same sign": "" if edges.signs is None else edges.signs,
        }
    rows = [{"figure": name, "value": value} for name, value in facts.items()]
    body += [heading("Figures"), table(rows)]
    body += _scaled(comparison.scaling, f"What {matching.b} has that {matching.a} lacks: latent scaling")
    body += _scaled(comparison.joint, "Latents of the crosscoder")
    columns = ("feature", "label", "partner", "partner_label", "r", "low", "high", "cosine", "rank")
    lists = {"Features of both": comparison.shared(), f"Only in {matching.a}": matching.forward.matches(LISTED, False)}
    lists[f"Only in {matching.b}"] = matching.backward.matches(LISTED, False)
    for title, features in lists.items():
        body += [heading(title), table(features, columns, words=True)]
    return body


def _side(side: FeatureMatches, of: str, where: str) -> list[str]:
    lines = {"partner": side.r[side.alive].tolist(), "best random feature": side.chance[side.alive].tolist()}
    rows = [
        {
            "coder": row.coder,
            "alive": row.alive,
            "silent": row.silent,
            "found": with_interval(row.found),
            "r of 0.7 and more": with_interval(row.strong),
            "r": with_interval(row.r),
            "r of random features": row.chance,
            "r of permuted partners": row.permuted,
        }
        for row in side.summaries
    ]
    shares = interval_bars([(row.coder, row.found) for row in side.summaries], CHANCE)
    pictures = [
        figure(shares, "share found; dashed: a random coder"),
        figure(histogram(lines, "r"), "correlation with the partner"),
    ]
    each_coder = _heat(side.home.names, side.other.names, side.shares)
    return [
        heading(f"Features of {of} that are found in {where}"),
        panels(pictures, wide=True),
        figure(each_coder, f"share found in each coder of {where} (column) by itself"),
        table(rows),
    ]


def _scaled(scaling: Scaling | None, title: str) -> list[str]:
    if scaling is None:
        return []
    sets: Mapping[str, list[tuple[float, float, str]]] = {"found in both": [], "new": []}
    for feature in scaling.alive.nonzero()[:, 0].tolist()[:DOTS]:
        rebuilt, left = scaling.ratios[:, feature].tolist()
        name = f"{scaling.features[feature]} {scaling.labels[feature]}"
        sets["new" if scaling.new[feature] else "found in both"].append((rebuilt, left, name))
    rows = [
        {name: with_interval(tuple(value)) if isinstance(value, list) else value for name, value in row.items()}
        for row in scaling.records(LISTED)
    ]
    note = (
        f"{int((scaling.alive & scaling.new).sum()):,} of {int(scaling.alive.sum()):,} features are new: the ratio of "
        f"the rebuilt part is below {MOST[0]}, of the leftover below {MOST[1]}; share {with_interval(scaling.share)}."
    )
    axes = ("ratio of betas, rebuilt part", "ratio of betas, leftover")
    columns = ("feature", "label", "of", "rebuilt", "leftover", "norm")
    return [
        heading(title),
        paragraph(note, note=True),
        figure(scatter(sets, axes, MOST)),
        table(rows, columns, words=True),
    ]


def _heat(rows: Sequence[str], columns: Sequence[str], shares: Sequence[Sequence[Interval]]) -> str:
    return heat(rows, columns, [[share[0] for share in line] for line in shares])
