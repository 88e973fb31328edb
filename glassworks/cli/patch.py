"""`glassworks patch`: carry one prompt's states into another, place by place, and see where the answer comes from."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glassworks.cli import editing
from glassworks.cli.options import Json, Model, show, write_page
from glassworks.errors import BadInput

if TYPE_CHECKING:
    from glassworks.edits import Agreement, Edges, Pair, Sweep, Way

SHOWN, EDGES_TRIED = 10, 400
CHOICES: dict[str, "tuple[Way, ...]"] = {
    "denoising": ("denoising",),
    "noising": ("noising",),
    "both": ("denoising", "noising"),
}


def patch(
    clean: Annotated[str, typer.Argument(help="The prompt with the answer that is asked for.")],
    corrupt: Annotated[str, typer.Argument(help="The same but for what should change the answer; as many tokens.")],
    site: Annotated[list[str] | None, typer.Option(help="Kind of site, resid_post if unset; repeatable.")] = None,
    metric: Annotated[str, typer.Option(help="'A - B', a difference of logits; or 'A', a log-probability.")] = "",
    way: Annotated[str, typer.Option(help="denoising, noising, or both.")] = "denoising",
    heads: Annotated[bool, typer.Option("--heads", help="Patch heads (attn_heads) at all tokens.")] = False,
    layer: Annotated[list[int] | None, typer.Option(help="Only these layers; repeatable.")] = None,
    position: Annotated[list[int] | None, typer.Option(help="Only these tokens, negative from the end.")] = None,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="Attribution patching too, and agreement.")
    ] = False,
    edges: Annotated[bool, typer.Option("--edges", help="Score edges between heads and MLPs (EAP-IG) too.")] = False,
    model: Model = "smallworld",
    chat: editing.Chat = False,
    page: Annotated[Path | None, typer.Option(help="Write heat maps to this HTML file.")] = None,
    as_json: Json = False,
) -> None:
    """Patch every layer and token (or head) of one prompt's run with the other's, exactly, many at a time."""
    from rich.console import Console

    with Console(stderr=True).status("Patching ..."):
        from glassworks.edits import edges as edge_scores

        pair = _pair(model, clean, corrupt, metric, chat)
        if way not in CHOICES:
            raise BadInput(f"Patching goes in the directions {', '.join(CHOICES)}; got {way!r}.")
        kinds = site or (["attn_heads"] if heads else ["resid_post"])
        sweeps = _swept(pair, kinds, layer, position, heads, CHOICES[way])
        estimates = _estimates(sweeps) if approximate else []
        agreements = {_named(each): _agreement(exact, each) for exact, each in estimates}
        found = edge_scores(pair, CHOICES[way][0]) if edges else None
        if found:
            agreements["eap-ig, edges"] = _tried(found)
        if page is not None:
            from glassworks.edits import sweeps_page

            write_page(page, sweeps_page([*sweeps, *(each for _, each in estimates)], agreements, found))
    result: dict[str, Any] = {"model": pair.model.name, "tokens": pair.texts, "metric": pair.metric.name}
    result["sweeps"] = [each.plain() for each in (*sweeps, *(each for _, each in estimates))]
    result["agreement"] = {name: each.plain() for name, each in agreements.items()}
    result |= {"edges": found.plain()} if found else {}
    result |= {"page": str(page)} if page else {}
    print(json.dumps(result, ensure_ascii=False)) if as_json else _tell(sweeps, agreements, result)


def _pair(model: str, clean: str, corrupt: str, metric: str, chat: bool) -> "Pair":
    """The prompts, and as a metric the two answers where none was given."""
    from glassworks.edits import Metric, Pair
    from glassworks.models import load_model

    loaded = load_model(model)
    one, other = (editing.worded(loaded, each, chat) for each in (clean, corrupt))
    if metric:
        return Pair.of(loaded, one, other, metric)
    first, second = (loaded.predict(each, k=1)[0] for each in (one, other))
    if first.id == second.id:
        raise BadInput(f"Both prompts are answered by {first.token!r}; say with --metric what tells them apart.")
    return Pair.of(loaded, one, other, Metric(f"{first.token.strip()} - {second.token.strip()}", first.id, second.id))


def _swept(
    pair: "Pair",
    kinds: list[str],
    layers: list[int] | None,
    positions: list[int] | None,
    heads: bool,
    ways: "tuple[Way, ...]",
) -> "list[Sweep]":
    from glassworks.edits import cells, sweep

    many = len(pair.clean)
    listed = [cells(pair.model, kind, many, layers=layers, positions=positions, heads=heads) for kind in kinds]
    return [sweep(pair, each, way) for way in ways for each in listed]


def _estimates(sweeps: "list[Sweep]") -> "list[tuple[Sweep, Sweep]]":
    """Every exact sweep with each of its approximations."""
    from glassworks.edits import METHODS, approximate

    many = [each for each in sweeps if len(each.cells) > 1]
    return [(each, approximate(each.pair, each.cells, each.way, method)) for each in many for method in METHODS]


def _agreement(exact: "Sweep", estimate: "Sweep") -> "Agreement":
    from glassworks.edits import agreement

    return agreement(exact.shares, estimate.shares)


def _named(estimate: "Sweep") -> str:
    return f"{estimate.method}, {estimate.cells[0].site.kind}, {estimate.way}"


def _tried(found: "Edges") -> "Agreement":
    """How scores of edges agree with exact ones: of all edges, or evenly drawn where there are many."""
    from glassworks.edits import agreement, exact_edges

    pairs = found.possible.nonzero().tolist()
    drawn = pairs[:: -(-len(pairs) // EDGES_TRIED)]
    wanted = [(found.senders[one], found.receivers[other]) for one, other in drawn]
    scores = found.scores[[one for one, _ in drawn], [other for _, other in drawn]]
    return agreement(exact_edges(found.pair, wanted, found.way), scores)


def _tell(sweeps: "list[Sweep]", agreements: "dict[str, Agreement]", result: dict[str, Any]) -> None:
    facts: dict[str, Any] = {"tokens": "|".join(result["tokens"]), "metric": result["metric"]}
    for each in sweeps:
        rows = [{"cell": str(cell), "share": share} for cell, share in each.top(SHOWN)]
        ends = f"{each.start:.3g} to {each.goal:.3g}"
        facts[f"{each.way}, {each.cells[0].site.kind}: {len(each.cells)} cells, {ends}"] = rows
    if "edges" in result:
        facts["edges (EAP-IG)"] = result["edges"][:SHOWN]
    facts |= {f"{name}:": str(each) for name, each in agreements.items()}
    show(facts | ({"page": result["page"]} if "page" in result else {}), False)
