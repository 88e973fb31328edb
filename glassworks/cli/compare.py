"""`glassworks compare`: what models have in common, what one has alone, and how features change with depth."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glassworks.cli.options import Json, lines_of, show, status, write_page
from glassworks.errors import BadInput

if TYPE_CHECKING:
    from glassworks.coders import Scope
    from glassworks.models import Model
    from glassworks.transfer import Comparison, FeatureMatches, PairedText

COUNT = 2000
LISTED = 10


def compare(
    models: Annotated[
        list[str], typer.Argument(help="One model: its layers. Two: what they share. More: every two of them.")
    ],
    scope_a: Annotated[str, typer.Option(help="Scope of the first model; its own if unset.")] = "",
    scope_b: Annotated[
        list[str] | None, typer.Option(help="Scope of the second model, and once more for each further one.")
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", "-t", help="Text files, folders or hf: data sets; an embedded world's own if unset."),
    ] = None,
    count: Annotated[int, typer.Option(help="How many documents at the most.", min=8)] = COUNT,
    coders: Annotated[str, typer.Option(help="Only coders of this name, site or kind: mlp_in, resid_post.2.")] = "",
    bridge: Annotated[
        Path | None, typer.Option(help="A bridge between two models, to compare what they write.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts, one a line, that both models are traced on, to compare edges.")
    ] = None,
    crosscoder: Annotated[
        str, typer.Option(help="A scope with a crosscoder over both models, to compare what its latents write.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    page: Annotated[Path | None, typer.Option(help="Write tables and pictures to this HTML file.")] = None,
    device: Annotated[str, typer.Option(help="Where to compute.")] = "cpu",
    as_json: Json = False,
) -> None:
    """Compare models feature by feature, or the layers of one model, with chance and intervals beside every share."""
    scopes = [scope_a or models[0], *(scope_b or models[1:])]
    if len(scopes) != len(models):
        raise BadInput(
            f"There are {len(models)} models and {len(scopes)} scopes; give --scope-b once for each further."
        )
    if len(models) != 2 and (bridge or prompts or crosscoder):
        raise BadInput(f"--bridge, --prompts and --crosscoder are about two models; {len(models)} were given.")
    with status("Comparing ..."):
        from glassworks import transfer
        from glassworks.coders import load_scope
        from glassworks.models import load_model

        loaded = [
            (load_model(model, device=device), load_scope(scope).to(device))
            for model, scope in zip(models, scopes, strict=True)
        ]
        texts = _texts([model for model, _ in loaded], text or [], count)
        if len(loaded) == 1:
            grown = transfer.evolve(*loaded[0], texts, coders, seed)
            plain, html = grown.plain(), transfer.evolution_page(grown) if page else ""
            chains = [
                {"chain": " -> ".join(chain.features), "label": chain.labels[0], "last label": chain.labels[-1]}
                for chain in grown.chains[:LISTED]
            ]
            tables = {"steps": transfer.step_rows(grown)} | ({"chains": chains} if chains else {})
        else:
            comparisons = [
                _pair(one, other, texts, coders, seed, bridge, prompts, crosscoder)
                for one, other in combinations(loaded, 2)
            ]
            tables = {name: value for comparison in comparisons for name, value in _shared(comparison).items()}
            if len(comparisons) == 1:
                plain, html = comparisons[0].plain(), transfer.pair_page(comparisons[0]) if page else ""
            else:
                plain = {"pairs": [comparison.plain() for comparison in comparisons]}
                html = transfer.family_page(comparisons) if page else ""
        if page:
            write_page(page, html)
    show(plain if as_json else tables, as_json)


def _texts(models: "Sequence[Model]", text: Sequence[str], count: int) -> "list[PairedText]":
    """What to read: the user's text, or documents of the small world that no model was trained on."""
    from itertools import islice

    from glassworks import hub, smallworld
    from glassworks.harvest import Corpus
    from glassworks.transfer import readable

    if text:
        return list(readable(models[0], models[-1], Corpus(tuple(text), documents=count)))
    strangers = [model.name for model in models if model.name not in (*hub.ALIASES, *hub.embedded())]
    if strangers:
        raise BadInput(f"Say with --text what to read; {strangers[0]} is no embedded model, which has its own.")
    chats = any(getattr(model.tokenizer, "chat_template", None) for model in models)
    stream = smallworld.finetuning if chats else smallworld.stream
    return [document.text for document in islice(stream(1001, 0, "held_out"), count)]


def _pair(
    one: "tuple[Model, Scope]",
    other: "tuple[Model, Scope]",
    texts: "list[PairedText]",
    coders: str,
    seed: int,
    bridge: Path | None,
    prompts: Path | None,
    crosscoder: str,
) -> "Comparison":
    from glassworks import transfer
    from glassworks.circuits import traces
    from glassworks.coders import Crosscoder, load_scope

    (a, scope_a), (b, scope_b) = one, other
    known = transfer.load_bridge(bridge) if bridge else None
    joint = list(load_scope(crosscoder).coders.values()) if crosscoder else []
    if joint and (len(joint) > 1 or not isinstance(joint[0], Crosscoder)):
        raise BadInput(f"The scope {crosscoder} holds more or other than one crosscoder; give one that does.")
    if known:
        known.check(a, b)
    scopes, tuned = (scope_a, scope_b), transfer.share_basis(a, b)
    matching = transfer.match_features(a, b, scopes, texts, coders, seed)
    carry = transfer.carry_over(known) if known else transfer.carry_unchanged if tuned else None
    edges = None
    if prompts:
        lines = [line for line in lines_of(prompts) if line.strip()]
        if not lines:
            raise BadInput(f"The file {prompts} has no prompts; write one a line.")
        edges = transfer.wiring(traces(a, scope_a, lines), traces(b, scope_b, lines), matching.forward, seed)
    return transfer.Comparison(
        matching=matching,
        written=None if carry is None else transfer.compare_writes(matching.forward, carry),
        wiring=edges,
        scaling=transfer.scale_features(a, b, scopes, texts, coders) if tuned else None,
        joint=transfer.scale_crosscoder(joint[0], a, b, texts) if joint else None,
    )


def _shared(comparison: "Comparison") -> dict[str, Any]:
    """The tables that a terminal shows of one comparison; their names hold those of the models."""
    from glassworks.pages import with_interval

    both, columns = comparison.matching, ("feature", "label", "partner", "partner_label", "r")
    figures = {"each other's best partners": f"{int(both.mutual.sum()):,}"}
    if comparison.written:
        figures["cosine of what they write"] = with_interval(comparison.written.mean)
        figures["its rank among all features (chance 0.5)"] = with_interval(comparison.written.mean_rank)
    if comparison.wiring:
        figures[f"of {comparison.wiring.edges} edges of A, in B"] = with_interval(comparison.wiring.kept)
        figures["with partners permuted at random"] = f"{comparison.wiring.chance:.3g}, p {comparison.wiring.p:.3f}"
    if comparison.scaling:
        figures[f"share new in {both.b}"] = with_interval(comparison.scaling.share)
    if comparison.joint:
        figures["share of the crosscoder's latents of B that are new"] = with_interval(comparison.joint.share)

    def rows(side: "FeatureMatches") -> list[dict[str, Any]]:
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
            {name: match[name] for name in columns} for match in both.forward.matches(LISTED)
        ],
        f"figures of {both.a} and {both.b}": [{"figure": name, "value": value} for name, value in figures.items()],
    }
    for name, part in (("scaling", comparison.scaling), ("crosscoder", comparison.joint)):
        if part:
            tables[f"only in one of {both.a} and {both.b}, by {name}"] = [
                {key: value[0] if isinstance(value, list) else value for key, value in record.items()}
                for record in part.records(LISTED)
            ]
    return {name: value for name, value in tables.items() if value}
