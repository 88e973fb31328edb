"""`glassworks models`, `info`, `serve` and `smallworld check`: what there is, and what a thing is."""

from pathlib import Path
from typing import Annotated, Any

import typer

from glassworks.cli.options import Json, show
from glassworks.errors import BadArtefact

SHAPE = ("family", "n_layers", "d_model", "n_heads", "n_kv_heads", "d_head", "d_mlp", "vocab_size", "context_length")
KINDS_BY_SUFFIX = {".json": "graph", ".pt": "graph", ".npz": "graph"}


def models(as_json: Json = False) -> None:
    """List the embedded models and the families that can be loaded."""
    from glassworks import hub
    from glassworks.artefacts import read_json
    from glassworks.models import families

    rows = []
    for name in hub.embedded():
        folder = hub.resolve(name)
        config = read_json(folder / "config.json")
        rows.append(
            {
                "name": name,
                "family": config["model_type"].removesuffix("_text"),
                "layers": config["num_hidden_layers"],
                "d_model": config["hidden_size"],
                "MB": sum(file.stat().st_size for file in folder.iterdir()) / 1e6,
                "scope": "yes" if name in hub.embedded("scope") else "no",
            }
        )
    show({"embedded": rows, "default": hub.ALIASES["smallworld"], "families": families()}, as_json)


def info(
    reference: Annotated[str, typer.Argument(help="A model, scope or graph: folder, embedded name, owner/name, JSON.")],
    as_json: Json = False,
) -> None:
    """Say what a model, scope or graph is."""
    from glassworks.artefacts import MANIFEST, is_artefact, read_json

    path, kind = Path(reference), "model"
    if path.is_file():
        kind = KINDS_BY_SUFFIX.get(path.suffix, "unknown")
    elif path.is_dir() and is_artefact(path):
        kind = str(read_json(path / MANIFEST).get("kind"))
    if kind not in DESCRIBE:
        raise BadArtefact(f"{reference} is none of these: a model's folder, a scope, a graph, or a graph's JSON.")
    show(DESCRIBE[kind](reference), as_json)


def serve(
    folder: Annotated[Path, typer.Argument(help="A graph, or a folder with graphs in it.")] = Path("graphs"),
    port: Annotated[int, typer.Option(help="Port on this machine; 0 takes a free one.", min=0, max=65535)] = 8000,
    open_: Annotated[bool, typer.Option("--open", help="Open the browser too.")] = False,
) -> None:
    """Serve the explorer on this machine."""
    from glassworks.server import serve as run

    run(folder, port=port, open_browser=open_)


def check_world(
    name: Annotated[str, typer.Argument(help="An embedded name, or the folder of a model built alike.")] = "smallworld",
    as_json: Json = False,
) -> None:
    """Measure an embedded model: accuracy on every task, and whether its circuit is real."""
    from glassworks import studies

    show(studies.check(name), as_json)


def _model(reference: str) -> dict[str, Any]:
    from glassworks import hub

    hub.resolve(reference)  # a wrong name is reported before anything heavy is imported
    from glassworks.models import load_model

    model = load_model(reference)
    facts: dict[str, Any] = {"model": model.name} | {name: getattr(model, name) for name in SHAPE}
    facts["parameters"] = sum(parameter.numel() for parameter in model.hf.parameters())
    facts["tokenizer"] = "yes" if model.tokenizer is not None else "no"
    facts["sites"] = list(dict.fromkeys(site.kind for site in model.sites()))
    if reference in (*hub.ALIASES, *hub.embedded("scope")):
        facts |= _scope(reference)
    return facts


def _scope(reference: str) -> dict[str, Any]:
    from glassworks.coders import load_scope

    def numbers(facts: dict[str, Any]) -> dict[str, int | float]:
        return {name: value for name, value in facts.items() if isinstance(value, int | float)}

    scope = load_scope(reference)
    rows = [
        {
            "coder": name,
            "kind": type(coder).__name__.lower(),
            "writes": ", ".join(map(str, coder.writes)),
            "latents": coder.d_latent,
            "activation": type(coder.activation).__name__,
            **numbers(scope.metrics.get("coders", {}).get(name, {})),
        }
        for name, coder in scope.coders.items()
    ]
    return {"scope": scope.name, "trained on": scope.model, "measured": numbers(scope.metrics), "coders": rows}


def _graph(reference: str) -> dict[str, Any]:
    from glassworks.circuits import KINDS, load_graph

    graph = load_graph(reference)
    return {
        "graph": reference,
        "model": graph.model,
        "scope": graph.origin.scope,
        "prompt": graph.prompt,
        "tokens": len(graph.tokens),
        "nodes": {kind: int(graph.nodes.of(kind).sum()) for kind in KINDS},
        "edges": graph.n_edges,
        "replacement": graph.replacement,
        "completeness": graph.completeness,
        **({} if graph.residual is None else {"conservation": graph.residual}),
        "groups": {name: len(group) for name, group in graph.supernodes.items()},
    }


def _aggregate(reference: str) -> dict[str, Any]:
    from glassworks.circuits import load_aggregate

    aggregate = load_aggregate(reference)
    return {
        "aggregate": reference,
        "prompts": list(aggregate.prompts),
        "replacement": aggregate.replacement[0],
        "conservation": aggregate.conservation,
        "features": len(aggregate.features),
        "edges": len(aggregate.edges),
    }


DESCRIBE: Any = {"model": _model, "scope": _scope, "graph": _graph, "aggregate": _aggregate}
