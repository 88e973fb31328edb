"""`glassworks evaluate`: how faithful and how sparse the coders of a scope are, on text or on stored activations."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glassworks.cli.options import Json, held_out_texts, show, status, write_page
from glassworks.errors import BadInput, NotFound, nearest

if TYPE_CHECKING:
    from glassworks.coders import Scope
    from glassworks.models import Model

TOKENS = 50_000
FIGURES = ("l0", "fvu", "median", "cosine", "dead", "dense")
LOSSES = ("recovered", "recovered_of_zero", "kl", "replaced", "true")


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
    with status("Measuring ..."):
        from glassworks import artefacts, evals
        from glassworks.coders import load_scope
        from glassworks.harvest import Contexts, Corpus, Reading, load_store
        from glassworks.models import load_model

        scope, place = load_scope(reference).to(device), Path(text[0]) if text else None
        names = _coder_names(scope, coders)
        manifest = artefacts.read_json(place / artefacts.MANIFEST) if place and artefacts.is_artefact(place) else {}
        if manifest.get("kind") == "store":
            chosen = {name: scope[name] for name in names}
            measured = evals.described(chosen, evals.fidelities(chosen, [load_store(str(place))], tokens))
        else:
            loaded = load_model(model or scope.model, device=device)
            if text:
                contexts = Contexts(loaded, Corpus(tuple(text)), Reading(untrained=(), rows=tokens))
                documents = [context.tokens for context in contexts]
            else:
                documents = _held_out_documents(loaded, tokens)
            measured = evals.measure(loaded, scope, documents, names=names)
        if save:
            if scope.folder is None:
                raise BadInput(f"The figures cannot be saved into {scope.name}, which is no scope of Glassworks in a "
                               "folder.")  # fmt: skip
            artefacts.replace_fields(scope.folder, "scope", {"metrics": scope.metrics | dict(measured)})
        if page:
            write_page(page, evals.page(measured, f"{reference}: fidelity"))
    show({"scope": reference, **(measured if as_json else _tables(measured))}, as_json)


def _coder_names(scope: "Scope", place: str) -> list[str]:
    """The coder of a name, or those that read at a site or at sites of a kind; all where nothing is given."""
    if place in scope:
        return [place]
    words = {entry.name: {w for site in entry.reads for w in (site.name, site.kind)} for entry in scope.entries}
    names = [name for name, own in words.items() if not place or place in own]
    if not names:
        known = sorted(set().union(*words.values()))
        raise NotFound(f"The scope {scope.name} has no coder that reads {place}; {nearest(place, known)}.")
    return names


def _held_out_documents(model: "Model", tokens: int) -> list[list[int]]:
    tokenizer, documents = model.tokenizer, list[list[int]]()
    if tokenizer is not None:
        for text in held_out_texts(model):
            documents.append([*tokenizer(text)["input_ids"], tokenizer.eos_token_id])
            tokens -= len(documents[-1])
            if tokens <= 0:
                break
    if not documents:
        raise BadInput(f"Say with --text what to measure on; {model.name} is no embedded model, which has its own.")
    return documents


def _tables(measured: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that fit into a terminal."""

    def losses(loss: Mapping[str, Any], count: int) -> dict[str, Any]:
        return {name: loss[name] for name in LOSSES[:count] if name in loss}

    coders = [
        {"coder": name, **{figure: facts[figure] for figure in FIGURES}, **losses(facts.get("loss", {}), 3)}
        for name, facts in measured["coders"].items()
    ]
    sets = [{"set": name, **losses(facts, 5)} for name, facts in measured.get("sets", {}).items()]
    return {"coders": coders} | ({"sets": sets} if sets else {})
