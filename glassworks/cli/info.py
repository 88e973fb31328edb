"""`glassworks models` and `glassworks info`: what there is, and what a thing is."""

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
    describe = DESCRIBE.get(_kind(reference))
    if describe is None:
        raise BadArtefact(f"{reference} is none of these: a model's folder, a scope, a graph, or a graph's JSON.")
    show(describe(reference), as_json)


def _kind(reference: str) -> str:
    """What a reference is: by its manifest, its suffix, or else a model."""
    from glassworks.artefacts import MANIFEST, is_artefact, read_json

    path = Path(reference)
    if path.is_file():
        return KINDS_BY_SUFFIX.get(path.suffix, "unknown")
    if path.is_dir() and is_artefact(path):
        return str(read_json(path / MANIFEST).get("kind"))
    return "model"


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

    scope = load_scope(reference)
    rows = [
        {
            "coder": name,
            "kind": type(coder).__name__.lower(),
            "writes": ", ".join(map(str, coder.writes)),
            "latents": coder.d_latent,
            "activation": type(coder.activation).__name__,
            **_numbers(scope.metrics.get("coders", {}).get(name, {})),
        }
        for name, coder in scope.coders.items()
    ]
    return {"scope": scope.name, "trained on": scope.model, "measured": _numbers(scope.metrics), "coders": rows}


def _numbers(facts: dict[str, Any]) -> dict[str, int | float]:
    return {name: value for name, value in facts.items() if isinstance(value, int | float)}


def _graph(reference: str) -> dict[str, Any]:
    from glassworks.circuits import KINDS, load_graph

    graph = load_graph(reference)
    counts = {kind: int(graph.nodes.of(kind).sum()) for kind in KINDS}
    facts = {"graph": reference, "model": graph.model, "scope": graph.origin.scope, "prompt": graph.prompt}
    scores = {"replacement": graph.replacement, "completeness": graph.completeness}
    scores |= {} if graph.residual is None else {"conservation": graph.residual}
    groups = {name: len(group) for name, group in graph.supernodes.items()}
    return facts | {"tokens": len(graph.tokens), "nodes": counts, "edges": graph.n_edges} | scores | {"groups": groups}


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
