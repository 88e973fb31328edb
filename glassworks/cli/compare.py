"""`glassworks compare`: what models have in common, what one has alone, and how features change with depth."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glassworks.cli.options import Json, lines_of, show, write_page
from glassworks.errors import BadInput

if TYPE_CHECKING:
    from glassworks.circuits import Graph
    from glassworks.coders import Scope
    from glassworks.models import Model
    from glassworks.transfer import Comparison, Evolution, PairedText, Sought

COUNT = 2000
SHOWN = 10

Both = tuple["Model", "Scope"]


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
    from rich.console import Console

    scopes = [scope_a or models[0], *(scope_b or models[1:])]
    if len(scopes) != len(models):
        raise BadInput(
            f"There are {len(models)} models and {len(scopes)} scopes; give --scope-b once for each further."
        )
    if len(models) != 2 and (bridge or prompts or crosscoder):
        raise BadInput(f"--bridge, --prompts and --crosscoder are about two models; {len(models)} were given.")
    with Console(stderr=True).status("Comparing ..."):
        loaded = [_loaded(*pair, device) for pair in zip(models, scopes, strict=True)]
        texts = _texts([model for model, _ in loaded], text or [], count)
        if len(loaded) == 1:
            result = _layers(loaded[0], texts, coders, seed, page)
        else:
            extra = {"bridge": bridge, "prompts": prompts, "crosscoder": crosscoder}
            found = [_pair(*pair, texts, coders, seed, extra) for pair in combinations(loaded, 2)]
            result = _models(found, page)
    show(result["plain"] if as_json else result["tables"], as_json)


def _loaded(model: str, scope: str, device: str) -> Both:
    from glassworks.coders import load_scope
    from glassworks.models import load_model

    return load_model(model, device=device), load_scope(scope).to(device)


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


def _layers(one: Both, texts: "list[PairedText]", coders: str, seed: int, page: Path | None) -> dict[str, Any]:
    from glassworks.transfer import evolution_page, evolve

    found = evolve(*one, texts, coders, seed)
    if page:
        write_page(page, evolution_page(found))
    return {"plain": found.plain(), "tables": _followed(found)}


def _pair(
    one: Both, other: Both, texts: "list[PairedText]", coders: str, seed: int, extra: dict[str, Any]
) -> "Comparison":
    from glassworks import transfer
    from glassworks.coders import Crosscoder, load_scope
    from glassworks.transfer import Comparison

    (a, scope_a), (b, scope_b) = one, other
    known = transfer.load_bridge(extra["bridge"]) if extra["bridge"] else None
    joint = list(load_scope(extra["crosscoder"]).coders.values()) if extra["crosscoder"] else []
    if joint and (len(joint) > 1 or not isinstance(joint[0], Crosscoder)):
        raise BadInput(f"The scope {extra['crosscoder']} holds more or other than one crosscoder; give one that does.")
    if known:
        known.check(a, b)
    scopes, tuned = (scope_a, scope_b), transfer.share_basis(a, b)
    found = transfer.match_features(a, b, scopes, texts, coders, seed)
    carry = transfer.over(known) if known else transfer.unchanged if tuned else None
    graphs = _graphs(one, other, extra["prompts"]) if extra["prompts"] else None
    return Comparison(
        matching=found,
        written=None if carry is None else transfer.written(found.forward, carry),
        wiring=None if graphs is None else transfer.wiring(*graphs, found.forward, seed),
        scaling=transfer.scale_features(a, b, scopes, texts, coders) if tuned else None,
        joint=transfer.scale_crosscoder(joint[0], a, b, texts) if joint else None,
    )


def _graphs(one: Both, other: Both, file: Path) -> "tuple[list[Graph], list[Graph]]":
    from glassworks.circuits import traces

    asked = [each for each in lines_of(file) if each.strip()]
    if not asked:
        raise BadInput(f"The file {file} has no prompts; write one a line.")
    first, second = (traces(model, scope, asked) for model, scope in (one, other))
    return first, second


def _models(found: "list[Comparison]", page: Path | None) -> dict[str, Any]:
    from glassworks.transfer import family_page, pair_page

    if page:
        write_page(page, pair_page(found[0]) if len(found) == 1 else family_page(found))
    plain = found[0].plain() if len(found) == 1 else {"pairs": [each.plain() for each in found]}
    return {"plain": plain, "tables": {name: value for each in found for name, value in _shared(each).items()}}


def _shared(found: "Comparison") -> dict[str, Any]:
    """What a terminal holds of one comparison, in tables whose names tell the models apart."""
    both, listed = found.matching, found.matching.forward.matches(SHOWN)
    shown = ("feature", "label", "partner", "partner_label", "r")
    facts: dict[str, Any] = {
        f"{both.a} in {both.b}": _rows(both.forward),
        f"{both.b} in {both.a}": _rows(both.backward),
        f"features of {both.a} and {both.b}": [{name: each[name] for name in shown} for each in listed],
        f"figures of {both.a} and {both.b}": [{"figure": name, "value": value} for name, value in _figures(found)],
    }
    for name, part in (("scaling", found.scaling), ("crosscoder", found.joint)):
        if part:
            facts[f"only in one of {both.a} and {both.b}, by {name}"] = [
                {key: value[0] if isinstance(value, list) else value for key, value in each.items()}
                for each in part.records(SHOWN)
            ]
    return {name: value for name, value in facts.items() if value}


def _figures(found: "Comparison") -> list[tuple[str, str]]:
    """The figures that are one number, each with its interval."""
    told = [("each other's best partners", f"{int(found.matching.mutual.sum()):,}")]
    if found.written:
        told += [("cosine of what they write", _told(found.written.mean))]
        told += [("its rank among all features (chance 0.5)", _told(found.written.mean_rank))]
    if found.wiring:
        wired = found.wiring
        told += [(f"of {wired.edges} edges of A, in B", _told(wired.kept))]
        told += [("with partners dealt at random", f"{wired.chance:.3g}, p {wired.p:.3f}")]
    if found.scaling:
        told += [(f"share new in {found.matching.b}", _told(found.scaling.share))]
    if found.joint:
        told += [("share of the crosscoder's latents of B that are new", _told(found.joint.share))]
    return told


def _rows(side: "Sought") -> list[dict[str, Any]]:
    return [
        {
            "coder": row.coder,
            "alive": row.alive,
            "found": _told(row.found),
            "r": _told(row.r),
            "r of random features": row.chance,
            "r of dealt partners": row.dealt,
        }
        for row in side.rows
    ]


def _followed(found: "Evolution") -> dict[str, Any]:
    steps = [
        {
            "step": f"{each.lower} -> {each.upper}",
            "found above": _told(each.going_on),
            "found below": _told(each.known),
            "chained": each.chained,
            "split": each.split,
            "merged": each.merged,
            "r": each.r,
            "cosine": each.cosine,
        }
        for each in found.steps
    ]
    chains = [
        {"chain": " -> ".join(each.features), "label": each.labels[0], "last label": each.labels[-1]}
        for each in found.chains[:SHOWN]
    ]
    return {"steps": steps} | ({"chains": chains} if chains else {})


def _told(value: tuple[float, float, float]) -> str:
    return f"{value[0]:.3g} [{value[1]:.3g}, {value[2]:.3g}]"
