"""`glassworks evaluate`: how faithful and how sparse the coders of a scope are, on text or on stored activations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glassworks.cli.options import Json, show, write_page
from glassworks.errors import BadInput, NotFound, nearest

if TYPE_CHECKING:
    from glassworks.coders import Scope
    from glassworks.models import Model

TOKENS = 50_000
FIGURES = ("l0", "fvu", "median", "cosine", "dead", "dense")
OF_LOSS = ("recovered", "recovered_of_zero", "kl", "replaced", "true")


def evaluate(
    reference: Annotated[str, typer.Argument(help="A scope: folder, embedded name, or owner/name on the hub.")],
    text: Annotated[
        list[str] | None,
        typer.Option(help="Text files, folders, hf: data sets, or one store; an embedded world's own if unset."),
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="The model, where not the one it was trained on.")] = "",
    coders: Annotated[
        str, typer.Option(help="Only the coder of this name, or those that read here: mlp_in, or mlp_in.2.")
    ] = "",
    tokens: Annotated[int, typer.Option(help="How many tokens, about.", min=2)] = TOKENS,
    save: Annotated[bool, typer.Option("--save", help="Write the figures into the scope's metrics.")] = False,
    page: Annotated[Path | None, typer.Option(help="Write curves and tables to this HTML file.")] = None,
    device: Annotated[str, typer.Option(help="Where to compute.")] = "cpu",
    as_json: Json = False,
) -> None:
    """Measure a scope: variance unexplained, sparsity, dead latents, and what the model's prediction loses."""
    from rich.console import Console

    with Console(stderr=True).status("Measuring ..."):
        from glassworks.coders import load_scope
        from glassworks.models import load_model

        scope = load_scope(reference).to(device)
        names = _chosen(scope, coders)
        sources = text or []
        if _is_store(sources):
            measured = _on_store(scope, names, sources[0], tokens)
        else:
            measured = _on_text(scope, names, sources, load_model(model or scope.model, device=device), tokens)
        if save:
            _save(scope, measured)
        if page:
            from glassworks import evals

            write_page(page, evals.page(measured, f"{reference}: fidelity"))
    show({"scope": reference, **(measured if as_json else _tables(measured))}, as_json)


def _chosen(scope: "Scope", place: str) -> list[str]:
    if place in scope:
        return [place]
    words = {entry.name: {w for site in entry.reads for w in (site.name, site.kind)} for entry in scope.entries}
    found = [name for name, said in words.items() if not place or place in said]
    if not found:
        known = sorted(set().union(*words.values()))
        raise NotFound(f"The scope {scope.name} has no coder that reads {place}; {nearest(place, known)}.")
    return found


def _is_store(text: Sequence[str]) -> bool:
    from glassworks.artefacts import MANIFEST, is_artefact, read_json

    return bool(text) and is_artefact(Path(text[0])) and read_json(Path(text[0]) / MANIFEST).get("kind") == "store"


def _on_store(scope: "Scope", names: Sequence[str], place: str, tokens: int) -> dict[str, Any]:
    from glassworks.evals import described, fidelities
    from glassworks.harvest import load_store

    chosen = {name: scope[name] for name in names}
    return described(chosen, fidelities(chosen, [load_store(place)], tokens))


def _on_text(scope: "Scope", names: Sequence[str], text: Sequence[str], model: "Model", tokens: int) -> dict[str, Any]:
    from glassworks import evals

    documents = _documents(model, text, tokens) if text else _world(model, tokens)
    return evals.measure(model, scope, documents, names=names)


def _documents(model: "Model", text: Sequence[str], tokens: int) -> list[list[int]]:
    from glassworks.harvest import Contexts, Corpus, Reading

    return [each.tokens for each in Contexts(model, Corpus(tuple(text)), Reading(untrained=(), rows=tokens))]


def _world(model: "Model", tokens: int) -> list[list[int]]:
    """Held-out documents of the small world, for the models that learned it."""
    from glassworks import hub, smallworld

    if model.name not in (*hub.ALIASES, *hub.embedded()) or model.tokenizer is None:
        raise BadInput(f"Say with --text what to measure on; {model.name} is no embedded model, which has its own.")
    documents: list[list[int]] = []
    for document in smallworld.stream(1001, 0, "held_out"):
        documents.append([*model.tokenizer(document.text)["input_ids"], model.tokenizer.eos_token_id])
        tokens -= len(documents[-1])
        if tokens <= 0:
            break
    return documents


def _save(scope: "Scope", measured: Mapping[str, Any]) -> None:
    from glassworks import artefacts

    if scope.folder is None:
        raise BadInput(f"The figures cannot be saved into {scope.name}, which is no scope of Glassworks in a folder.")
    artefacts.replace_fields(scope.folder, "scope", {"metrics": scope.metrics | dict(measured)})


def _tables(measured: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that fit into a terminal."""
    coders = [
        {"coder": name, **{each: facts[each] for each in FIGURES}, **_of_loss(facts.get("loss", {}), 3)}
        for name, facts in measured["coders"].items()
    ]
    sets = [{"set": name, **_of_loss(facts, 5)} for name, facts in measured.get("sets", {}).items()]
    return {"coders": coders} | ({"sets": sets} if sets else {})


def _of_loss(loss: Mapping[str, Any], count: int) -> dict[str, Any]:
    return {name: loss[name] for name in OF_LOSS[:count] if name in loss}
