"""The graphs of circuit-tracer: their `.pt` files are read, their order of nodes and their arrays written.

Their matrix is square (row: target, column: source) over the nodes: selected features by layer, position and index;
errors of every layer and position, masked ones too; tokens; logits. We write it as `.npz`, never as a pickle. Nothing
in their pickles is run: PyTorch's weights-only reader makes tensors and plain values, objects of their libraries become
inert records, and any other name is refused.
"""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks.circuits.nodes import EMBEDDING, ERROR, FEATURE, LOGIT, Nodes, Origin
from glassworks.errors import BadArtefact, Unsupported

LIBRARIES = ("circuit_tracer", "transformer_lens")
Parsed = tuple[Origin, Nodes, Float[Tensor, "t source"]]


@final
class Record:
    """Replaces an object of another library: what it was made of, never what it does."""

    parts: tuple[Any, ...]
    state: Any

    def __new__(cls, *parts: Any) -> "Record":
        """Keep what it was made of."""
        self = super().__new__(cls)
        self.parts, self.state = parts, {}
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state


def arranged(origin: Origin, nodes: Nodes) -> tuple[Int[Tensor, " n"], Nodes]:
    """Where our nodes stand in their order, and the table in that order, with the nodes that only they have.

    Args:
        origin: gives the prompt's tokens.
        nodes: our table; it has logits.

    Raises:
        Unsupported: the graph has errors that are not an MLP's.
    """
    tokens, layers = len(origin.tokens), int(nodes.layer[nodes.of(LOGIT)].max())
    features = int(nodes.of(FEATURE).sum())
    embeddings = features + layers * tokens
    where = torch.arange(len(nodes))
    where[nodes.of(LOGIT)] = embeddings + tokens + torch.arange(int(nodes.of(LOGIT).sum()))
    where[nodes.of(EMBEDDING)] = embeddings + nodes.position[nodes.of(EMBEDDING)]
    error = nodes.of(ERROR)
    where[error] = features + nodes.layer[error] * tokens + nodes.position[error]
    if len(where.unique()) < len(where):
        raise Unsupported("circuit-tracer's order has one error node a layer and token; this graph has more.")
    every = torch.cartesian_prod(torch.arange(layers), torch.arange(tokens))
    errors = Nodes.build(ERROR, {"layer": every[:, 0], "position": every[:, 1]}, [""] * len(every))
    index = {"position": torch.arange(tokens), "index": torch.tensor(origin.tokens)}
    starts = Nodes.build(EMBEDDING, index, origin.token_texts)
    own = [nodes.select(nodes.of(kind).nonzero()[:, 0]) for kind in (FEATURE, LOGIT)]
    return where, Nodes.cat([own[0], errors, starts, own[1]])


def square(
    where: Int[Tensor, " n"], size: int, rows: Int[Tensor, " t"], matrix: Float[Tensor, "t source"]
) -> Float[Tensor, "size size"]:
    """The edges as a square matrix in their order."""
    whole = matrix.new_zeros(size, size)
    whole[where[rows][:, None], where[: matrix.shape[1]]] = matrix
    return whole


def write(path: Path, origin: Origin, nodes: Nodes, adjacency: Float[Tensor, "n n"]) -> None:
    """Write a graph's arrays as `.npz`: under their names, no pickle.

    Args:
        path: the file.
        origin: where it comes from.
        nodes: the table in their order.
        adjacency: the matrix in their order.
    """
    feature, logit = nodes.of(FEATURE), nodes.of(LOGIT)
    facts = {"input_string": origin.prompt, "scan": origin.scope, "model": origin.model}
    facts |= {"token_texts": list(origin.token_texts), "targets": list(origin.facts.get("targets", []))}
    facts |= {"logit_texts": [node.label for node in nodes.select(logit.nonzero()[:, 0])]}
    arrays: dict[str, Any] = {
        "facts": np.array(json.dumps(facts)),
        "adjacency_matrix": adjacency,
        "active_features": torch.stack([nodes.layer, nodes.position, nodes.index], 1)[feature],
        "activation_values": nodes.activation[feature],
        "selected_features": torch.arange(int(feature.sum())),
        "input_tokens": torch.tensor(origin.tokens),
        "logit_ids": nodes.index[logit],
        "logit_probabilities": nodes.probability[logit],
    }
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **{name: np.asarray(array) for name, array in arrays.items()})


def read(path: Path) -> Parsed:
    """Read a `.pt` of circuit-tracer, or a `.npz` that `write` wrote.

    Returns:
        Origin, nodes, and edges (features and logits by sources).

    Raises:
        BadArtefact: it is something else, or contradicts itself.
    """
    plain = _npz(path) if path.suffix == ".npz" else _pt(path)
    try:
        return _parse(_facts(plain), plain)
    except BadArtefact as error:
        raise BadArtefact(f"The graph {path} is damaged: {error}") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        raise BadArtefact(f"The file {path} is no graph of circuit-tracer, or is damaged ({error!r}).") from error


def _npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
            facts = json.loads(str(arrays.pop("facts")))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise BadArtefact(f"The file {path} is not a graph's readable .npz file ({error}).") from error
    return {name: torch.from_numpy(value) for name, value in arrays.items()} | {"facts": facts}


def _pt(path: Path) -> Any:
    """Read a file that `torch.save` wrote, objects of their libraries as records."""
    try:
        with ZipFile(path) as file:
            packed = [entry.filename for entry in file.infolist() if entry.compress_type != ZIP_STORED]
        if packed:
            raise BadArtefact(f"The file {path} is damaged (its member {packed[0]} is compressed).")
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        other = [name for name in names if name.partition(".")[0] not in LIBRARIES]
        if other:
            raise BadArtefact(f"The file names {other[0]}, which such a file does not need; it is not read further.")
        with torch.serialization.safe_globals([(Record, name) for name in names]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, BadZipFile) as error:
        raise BadArtefact(f"The file {path} is not a readable .pt file ({error}).") from error
    except (
        pickle.UnpicklingError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
    ) as error:
        first = str(error).partition("\n")[0]
        raise BadArtefact(f"The file {path} is damaged ({first}).") from error


def _facts(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Text and names of the file: of a `.npz` its facts, of a `.pt` its entries and its configuration."""
    if "facts" in plain:
        return plain["facts"] | {"logit_ids": plain["logit_ids"].tolist()}
    config = plain["cfg"].state if isinstance(plain["cfg"], Record) else {}
    pairs = [pair.parts if isinstance(pair, Record) else tuple(pair) for pair in plain["logit_targets"]]
    return {
        "input_string": plain["input_string"],
        "scan": str(plain.get("scan") or ""),
        "model": str(config.get("model_name", "")),
        "token_texts": [f"#{token}" for token in plain["input_tokens"].tolist()],
        "logit_texts": [str(text) for text, _ in pairs],
        "logit_ids": [int(number) for _, number in pairs],
    }


def _parse(facts: dict[str, Any], plain: Mapping[str, Any]) -> Parsed:
    tokens = plain["input_tokens"].flatten().tolist()
    selected = plain["selected_features"].long()
    features, ids = plain["active_features"].long()[selected], facts["logit_ids"]
    values, whole = plain["activation_values"].float()[selected], plain["adjacency_matrix"].float()
    left = len(whole) - len(features) - len(tokens) - len(ids)
    layers = left // len(tokens)
    if whole.shape != (len(whole), len(whole)) or left < 0 or left % len(tokens) or not bool(whole.isfinite().all()):
        raise BadArtefact(f"its matrix of {tuple(whole.shape)} does not fit its nodes, or holds what is not finite.")
    every = torch.cartesian_prod(torch.arange(layers), torch.arange(len(tokens)))
    at = dict(zip(("layer", "position", "index"), features.unbind(1), strict=True))
    probability = plain["logit_probabilities"].float().flatten()
    last = {"layer": torch.full((len(ids),), layers), "position": torch.full((len(ids),), len(tokens) - 1)}
    index = {"position": torch.arange(len(tokens)), "index": torch.tensor(tokens)}
    unsorted = Nodes.cat(
        [
            Nodes.build(FEATURE, at | {"activation": values}, [""] * len(features)),
            Nodes.build(ERROR, {"layer": every[:, 0], "position": every[:, 1]}, [""] * len(every)),
            Nodes.build(EMBEDDING, index, facts["token_texts"]),
            Nodes.build(LOGIT, last | {"index": torch.tensor(ids), "probability": probability}, facts["logit_texts"]),
        ]
    )
    nodes = unsorted.select(order := unsorted.order())
    feature = nodes.of(FEATURE)
    inside = (nodes.layer[feature] >= 0) & (nodes.layer[feature] < layers) & (nodes.index[feature] >= 0)
    if not bool((inside & (nodes.position[feature] >= 0) & (nodes.position[feature] < len(tokens))).all()):
        raise BadArtefact(f"it has features outside its {layers} layers and {len(tokens)} tokens.")
    whole = whole[order][:, order]
    rows = nodes.of(FEATURE) | nodes.of(LOGIT)
    upward = nodes.layer[:, None] > nodes.layer[None]
    if bool(whole[~rows].any()) or bool(whole[~upward].any()):
        raise BadArtefact("it has edges that do not lead from a node to a feature or logit of a higher layer.")
    origin = Origin(
        model=facts["model"],
        scope=facts["scan"],
        prompt=facts["input_string"],
        tokens=tuple(tokens),
        token_texts=tuple(map(str, facts["token_texts"])),
        facts={"targets": facts["targets"]} if facts.get("targets") else {},
    )
    return origin, nodes, whole[rows][:, : nodes.sources]
