"""Trace: from a model, a scope and a prompt to an attribution graph.

One forward pass, then linear algebra (Ameisen et al. 2025, "Circuit Tracing"). It binds the room's parts together
and computes nothing itself.
"""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from glassworks.circuits.graph import Graph
from glassworks.circuits.local import localise, run
from glassworks.circuits.nodes import EMBEDDING, ERROR, FEATURE, Nodes
from glassworks.circuits.origin import Origin
from glassworks.circuits.outcomes import Outcome, Outcomes, choose
from glassworks.circuits.sources import Sources, masked_positions, replacement
from glassworks.coders import Scope
from glassworks.models import Model, Prompt


def trace(model: Model, scope: Scope | None, prompt: Prompt, *, targets: Sequence[Outcome] | None = None) -> Graph:
    """Attribute a prompt's next token to features, errors and embeddings: all rows, nothing pruned.

    Args:
        model: the model that is explained.
        scope: its replacement coders. A layer without one is one error node a position; with no scope at all,
            embeddings and attention have to explain everything.
        prompt: text, or token ids that are used as given.
        targets: what to explain at the last token: tokens (text or id), each exactly one of the vocabulary, or
            pairs of tokens, whose difference of logits is meant. By default the smallest set of tokens with a
            probability of 0.95, at most 10.

    Returns:
        The graph. Its edges and biases sum up to every target's value (`Graph.conservation`).

    Raises:
        NotFound: a target is not one token of the vocabulary.
        BadInput: the prompt is empty, too long, or the scope does not fit the model.
        Unsupported: a coder reads or writes sites that a trace does not know.

    Example:
        ```python
        graph = trace(model, scope, "The opposite of big is", targets=["small", ("small", "large")])
        ```
    """
    began = time.perf_counter()
    tokens = model.tokens(prompt)
    coders = replacement(model, scope)
    captured = run(model, coders, tokens)
    outcomes = choose(model, captured["logits"][-1].float(), targets)
    texts = tuple(map(model.token_text, tokens.tolist()))
    local = localise(model, coders, captured, masked_positions(scope, texts), outcomes)
    matrix, bias = local.edges(), local.biases()
    best = captured["logits"][-1].float().softmax(0).topk(min(10, model.vocab_size))
    predictions = [
        {"token": model.token_text(token), "id": token, "probability": probability}
        for token, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    origin = Origin(
        model=model.name,
        scope="" if scope is None else scope.name,
        prompt=prompt if isinstance(prompt, str) else "".join(texts),
        tokens=tuple(tokens.tolist()),
        token_texts=texts,
        coders={active.layer: active.coder.id for active in local.sources.active},
        facts={"seconds": time.perf_counter() - began, "predictions": predictions},
    )
    nodes = _nodes(model, scope, tokens, local.sources, outcomes)
    return Graph.build(origin, nodes, matrix, bias, local.values, scope)


def _nodes(model: Model, scope: Scope | None, tokens: Tensor, sources: Sources, outcomes: Outcomes) -> Nodes:
    parts = []
    for active in sources.active:
        columns = {"layer": torch.full_like(active.index, active.layer), "position": active.position}
        columns |= {"index": active.index, "activation": active.value}
        labels = [scope.label(active.coder.id, index) if scope else "" for index in active.index.tolist()]
        parts.append(Nodes.build(FEATURE, columns, labels))
    layers, positions = sources.errors.unbind(1)
    parts.append(Nodes.build(ERROR, {"layer": layers, "position": positions}, [""] * len(layers)))
    texts = [model.token_text(token) for token in tokens.tolist()]
    parts.append(Nodes.build(EMBEDDING, {"position": torch.arange(len(tokens)), "index": tokens}, texts))
    return Nodes.cat([*parts, outcomes.nodes(model.n_layers, len(tokens) - 1)])
