"""`glassworks train`: coders from a store, or straight from a model and text."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glassworks.cli.options import Json, show

if TYPE_CHECKING:
    from glassworks.harvest import Stream
    from glassworks.train import Request


KINDS = ("resid_post", "mlp_in", "mlp_out", "attn_out", "attn_heads")
"""Where a model can be read without a store; `sites=` chooses among them, resid_post if unset."""
FIGURES = ("l0", "fvu", "dead", "dense")


def train(
    source: Annotated[str, typer.Argument(help="A store; or a model, with --text.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value: width=4k,16k l0=10,50 sites=mlp_out.")
    ] = None,
    recipe: Annotated[str, typer.Option("--recipe", "-r", help="How to train.")] = "batchtopk",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the scope.")] = Path("scope"),
    text: Annotated[list[str] | None, typer.Option("--text", "-t", help="No store: text for the model.")] = None,
    start: Annotated[str, typer.Option(help="A scope whose coders to begin with.")] = "",
    layers: Annotated[str, typer.Option(help="A scope of one-layer coders that joint ones begin from.")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    journal: Annotated[list[str] | None, typer.Option(help="Send metrics to tensorboard or wandb too.")] = None,
    device: Annotated[str, typer.Option(help="Where the coders train.")] = "cpu",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and train nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Train coders with a published recipe: every layer, site, width and sparsity in one pass."""
    from glassworks.artefacts import check_output
    from glassworks.coders import load_scope, save_scope
    from glassworks.train import Request, Trainer, adopt, estimate, fit, stack

    request = Request.parse(recipe, [*(["sites=resid_post,mlp_in"] if text else []), *(settings or [])])
    check_output(out, "scope")
    stream, model, untrained = _stream(source, text or [], request)
    specs = request.specs(stream)
    if dry_run:
        return show({"source": source, "recipe": recipe} | estimate(specs, stream), as_json)
    trainer = Trainer(specs, stream, device)
    if start and not resume:
        adopt(trainer, load_scope(start))
    if layers and not resume:
        stack(trainer, load_scope(layers))
    beside = out.with_name(out.name + ".training")
    fit(trainer, beside, resume, show=not as_json, journals=journal or [])
    scope = trainer.scope(out.name, model, untrained)
    scope.metrics |= {"recipe": recipe, "settings": settings or [], "coders": trainer.measure(scope)}
    save_scope(scope, out)
    shutil.rmtree(beside / "checkpoints", ignore_errors=True)
    rows = [
        {"coder": name} | {figure: facts[figure] for figure in FIGURES}
        for name, facts in scope.metrics["coders"].items()
    ]
    return show({"scope": str(out), "coders": rows, "failed": trainer.failed, "metrics": str(beside)}, as_json)


def _stream(source: str, text: list[str], request: "Request") -> "tuple[Stream, str, tuple[str, ...]]":
    """Where batches come from, the model's name, and the positions that are left out."""
    from glassworks.harvest import Contexts, Corpus, Live, Reading, Rows, Shuffled, load_store
    from glassworks.models import load_model

    if text:
        model, reading = load_model(source), Reading()
        known = [site.name for kind in KINDS for site in model.sites(kind)]
        stream = Live(Contexts(model, Corpus(tuple(text)), reading), request.chosen(known), request.batch)
        return stream, model.name, reading.untrained
    store = load_store(source)
    sites = [site.name for site in request.chosen(store.sites)]
    if request.flatten:
        return Rows(store, request.batch, request.flatten, 0, sites), store.model, store.untrained
    return Shuffled(store, request.batch, 0, sites), store.model, store.untrained
