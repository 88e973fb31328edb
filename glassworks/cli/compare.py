"""`glassworks compare`: what models have in common, what one has alone, and how features change with depth."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glassworks.cli.options import Device, Json, Page, Seed, lines_of, show, status, write_page
from glassworks.errors import BadInput

if TYPE_CHECKING:
    from glassworks.coders import Scope
    from glassworks.models import Model
    from glassworks.transfer import Comparison, PairedText

COUNT = 2000


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
    seed: Seed = 0,
    page: Page = None,
    device: Device = "cpu",
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
            results: list[Any] = [transfer.evolve(*loaded[0], texts, coders, seed)]
        else:
            results = [
                _pair(one, other, texts, coders, seed, bridge, prompts, crosscoder)
                for one, other in combinations(loaded, 2)
            ]
        if page:
            pages = {1: transfer.evolution_page, 2: transfer.pair_page}
            write_page(page, pages[len(loaded)](*results) if len(loaded) in pages else transfer.family_page(results))
    plain = [result.plain() for result in results]
    show(plain[0] if len(plain) == 1 else {"pairs": plain}, as_json, *results)


def _texts(models: "Sequence[Model]", text: Sequence[str], count: int) -> "list[PairedText]":
    """What to read: the user's text, or documents of the small world that no model was trained on."""
    from itertools import islice

    from glassworks import hub, smallworld
    from glassworks.harvest import Corpus
    from glassworks.transfer import readable

    if text:
        return list(readable(models[0], models[-1], Corpus(tuple(text), documents=count)))
    others = [model.name for model in models if model.name not in (*hub.ALIASES, *hub.embedded())]
    if others:
        raise BadInput(f"Say with --text what to read; {others[0]} is no embedded model, which has its own.")
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
        lines = lines_of(prompts)
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
