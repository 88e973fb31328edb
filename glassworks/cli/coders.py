"""`glassworks scope` and `evaluate`: what a release of coders holds, and how faithful and sparse they are."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glassworks.cli.options import Device, Json, Page, held_out_texts, show, status, write_page
from glassworks.errors import BadInput, NotFound, nearest

if TYPE_CHECKING:
    from glassworks.coders import Entry, Scope
    from glassworks.models import Model

TOKENS = 50_000
ONE_BY_ONE = 40
"""Up to this many coders are printed one by one."""


def scope(
    reference: Annotated[
        str | None, typer.Argument(help="A scope: folder, embedded name, or owner/name; all known ones if left out.")
    ] = None,
    site: Annotated[
        str, typer.Option(help="Only coders that read here: resid_post.12, or mlp_in for all layers.")
    ] = "",
    as_json: Json = False,
) -> None:
    """List the coders of a release without loading weights: sites, layers, widths, L0, sizes."""
    from dataclasses import asdict

    from glassworks.coders import RELEASES, grouped, load_scope

    if reference is None:
        return show({"releases": [asdict(release) for release in RELEASES]}, as_json)
    loaded = load_scope(reference)
    chosen = _reading(loaded, site)
    table = grouped(chosen) if len(chosen) > ONE_BY_ONE and not as_json else [entry.row() for entry in chosen]
    formats = sorted({entry.provenance.format for entry in chosen})
    return show({"scope": reference, "trained on": loaded.model, "format": formats, "coders": table}, as_json)


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
    page: Page = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Measure a scope: variance unexplained, sparsity, dead latents, and what the model's prediction loses."""
    with status("Measuring ..."):
        from glassworks import artefacts, experiments
        from glassworks.coders import load_scope
        from glassworks.harvest import Contexts, Corpus, Reading, load_store
        from glassworks.models import load_model

        scope, place = load_scope(reference).to(device), Path(text[0]) if text else None
        if save and scope.folder is None:
            raise BadInput(f"The figures cannot be saved: {scope.name} is no scope of Glassworks in a folder.")
        names = [coders] if coders in scope else [entry.name for entry in _reading(scope, coders)]
        manifest = artefacts.read_json(place / artefacts.MANIFEST) if place and artefacts.is_artefact(place) else {}
        if manifest.get("kind") == "store":
            chosen = {name: scope[name] for name in names}
            meters = experiments.fidelities(chosen, [load_store(str(place))], tokens)
            measured = experiments.fidelity_values(chosen, meters)
        else:
            loaded = load_model(model or scope.model, device=device)
            if text:
                contexts = Contexts(loaded, Corpus(tuple(text)), Reading(untrained=(), rows=tokens))
                documents = [context.tokens for context in contexts]
            else:
                documents = _held_out_documents(loaded, tokens)
            measured = experiments.evaluate(loaded, scope, documents, names=names)
        if save and scope.folder is not None:
            artefacts.replace_fields(scope.folder, "scope", {"metrics": scope.metrics | dict(measured)})
        if page:
            write_page(page, experiments.evaluation_page(measured, f"{reference}: fidelity"))
    rows = experiments.evaluation_rows(measured)
    show({"scope": reference, **measured}, as_json, {"scope": reference, "coders": rows})


def _reading(scope: "Scope", place: str) -> "list[Entry]":
    """The coders that read at a site or at sites of a kind; all where nothing is given."""
    names = [{word for site in entry.reads for word in (site.name, site.kind)} for entry in scope.entries]
    chosen = [entry for entry, own in zip(scope.entries, names, strict=True) if not place or place in own]
    if not chosen:
        known = sorted(set().union(*names))
        raise NotFound(f"The scope {scope.name} has no coder that reads {place}; {nearest(place, known)}.")
    return chosen


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
