"""`glassworks patch`: carry one prompt's states into another, place by place, and see where the answer comes from."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from glassworks.cli.editing import Chat, chat_prompt
from glassworks.cli.options import Json, Model, Page, show, status, write_page
from glassworks.errors import BadInput

if TYPE_CHECKING:
    from glassworks.edits import Way

TOP, EDGES_TRIED = 10, 400
WAYS: dict[str, "tuple[Way, ...]"] = {
    "denoising": ("denoising",),
    "noising": ("noising",),
    "both": ("denoising", "noising"),
}


def patch(
    clean: Annotated[str, typer.Argument(help="The prompt whose answer is explained.")],
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
    chat: Chat = False,
    page: Page = None,
    as_json: Json = False,
) -> None:
    """Patch every layer and token (or head) of one prompt's run with the other's, exactly, many at a time."""
    with status("Patching ..."):
        from glassworks import edits
        from glassworks.models import load_model

        loaded = load_model(model)
        one, other = (chat_prompt(loaded, prompt, chat) for prompt in (clean, corrupt))
        measure: Any = metric
        if not metric:
            first, second = (loaded.predict(prompt, k=1)[0] for prompt in (one, other))
            if first.id == second.id:
                raise BadInput(
                    f"Both prompts are answered by {first.token!r}; say with --metric what tells them apart."
                )
            measure = edits.Metric(f"{first.token.strip()} - {second.token.strip()}", first.id, second.id)
        pair = edits.Pair.of(loaded, one, other, measure)
        if way not in WAYS:
            raise BadInput(f"Patching goes in the directions {', '.join(WAYS)}; got {way!r}.")
        kinds, length = site or (["attn_heads"] if heads else ["resid_post"]), len(pair.clean)
        cells = [edits.cells(loaded, kind, length, layers=layer, positions=position, heads=heads) for kind in kinds]
        exact = [edits.sweep(pair, group, one_way) for one_way in WAYS[way] for group in cells]
        estimates, agreements, scored = [], {}, None
        for swept in exact if approximate else []:
            for method in edits.METHODS if len(swept.cells) > 1 else ():
                estimate = edits.approximate(pair, swept.cells, swept.way, method)
                name = f"{estimate.method}, {estimate.cells[0].site.kind}, {estimate.way}"
                agreements[name] = edits.agreement(swept.shares, estimate.shares)
                estimates.append(estimate)
        if edges:
            # agreement with exact scores: of all edges, or of evenly drawn ones where there are many
            scored = edits.edges(pair, WAYS[way][0])
            possible = scored.possible.nonzero().tolist()
            drawn = possible[:: -(-len(possible) // EDGES_TRIED)]
            ends = [(scored.senders[sender], scored.receivers[receiver]) for sender, receiver in drawn]
            scores = scored.scores[tuple(zip(*drawn, strict=True))]
            agreements["eap-ig, edges"] = edits.agreement(edits.exact_edges(pair, ends, scored.way), scores)
        if page is not None:
            write_page(page, edits.sweeps_page([*exact, *estimates], agreements, scored))
    result: dict[str, Any] = {
        "model": loaded.name,
        "tokens": pair.texts,
        "metric": pair.metric.name,
        "sweeps": [swept.plain() for swept in (*exact, *estimates)],
        "agreement": {name: agreement.plain() for name, agreement in agreements.items()},
    }
    result |= {"edges": scored.plain()} if scored else {}
    written = {"page": str(page)} if page else {}
    strongest: dict[str, Any] = {"edges (EAP-IG)": scored.plain(TOP)} if scored else {}
    words = {f"{name}:": str(agreement) for name, agreement in agreements.items()}
    facts = {"tokens": "|".join(pair.texts), "metric": pair.metric.name}
    show(result | written, as_json, facts, *exact, strongest | words | written)
