"""Trace: from a model, a scope and a prompt to an attribution graph.

One forward pass, then linear algebra (Ameisen et al. 2025, "Circuit Tracing"). It binds the room's parts together
and computes nothing itself.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from glassworks.circuits.engine.freeze import Weights
from glassworks.circuits.engine.jacobian import collect_cuts, derivatives, record
from glassworks.circuits.engine.local import LocalModel, folded_weights, localise, run
from glassworks.circuits.engine.rows import Budget, Progress, Rows, explore
from glassworks.circuits.engine.sources import Sources, approximate, masked_positions, part_of, replacement
from glassworks.circuits.graph import Graph
from glassworks.circuits.nodes import EMBEDDING, ERROR, FEATURE, Nodes, Origin
from glassworks.circuits.targets import Outcome, Outcomes, choose, resolve
from glassworks.coders import Scope
from glassworks.errors import BadInput
from glassworks.models import Model, Prompt


def trace(
    model: Model,
    scope: Scope | None,
    prompt: Prompt,
    *,
    targets: Outcome | Sequence[Outcome] | None = None,
    budget: Budget | None = None,
    progress: Progress | None = None,
    resume: Graph | None = None,
) -> Graph:
    """Attribute a prompt's next token to features, errors and embeddings; nothing is pruned.

    Args:
        model: the model that is explained.
        scope: its replacement coders. A layer without one is one error node a position; with no scope at all,
            embeddings and attention have to explain everything.
        prompt: text, or token ids that are used as given.
        targets: what to explain: tokens (text or id) that may come next, each exactly one of the vocabulary; pairs
            of tokens, whose difference of logits is meant; a `FeatureRef`; or `Logit`, `Likely`, `Feature`,
            `Direction` (at any position) and `Continuation` (tokens that follow) of `glassworks.circuits`. By default
            the smallest set of next tokens with a probability of 0.95, at most 10.
        budget: how much to compute; by default all rows. Ctrl-C ends the work early and keeps what is done.
        progress: called while rows are computed; see `rows.Progress`.
        resume: an unfinished graph of the same prompt, whose rows are not computed again.

    Returns:
        The graph. Its edges, biases and rest sum up to every target's value (`Graph.conservation`).

    Raises:
        NotFound: a target is not one token of the vocabulary, or a feature that the scope does not have.
        BadInput: the prompt is empty, too long, or the scope does not fit the model; the budget does not suffice for
            the outcomes' rows; or the graph to resume is of something else.
        Unsupported: a coder reads or writes sites that a trace does not know.

    Example:
        ```python
        graph = trace(model, scope, "The opposite of big is", targets=["small", ("small", "large")])
        ```
    """
    began, budget = time.perf_counter(), budget or Budget()
    if names := approximate(replacement(model, scope)):
        if resume is not None or not budget.all:
            raise BadInput(f"The coders {', '.join(names)} have approximate edges only: no budgets and no resuming.")
        return _approximate(_Run(model, scope, prompt, targets), names, began)
    start = _Run(model, scope, prompt, targets).start(folded_weights(model))
    rows = Rows(start.local, budget)
    if resume is not None:
        _adopt(rows, start, resume)
    interrupted = explore([rows], budget, began, progress)
    return _graph(start, rows, scope, {"seconds": time.perf_counter() - began, "interrupted": interrupted})


def traces(
    model: Model,
    scope: Scope | None,
    prompts: Sequence[Prompt],
    *,
    targets: Outcome | Sequence[Outcome] | None = None,
    budget: Budget | None = None,
    progress: Progress | None = None,
) -> list[Graph]:
    """Trace several prompts at once: they share the products with the model's weights.

    Args:
        model: see `trace`.
        scope: see `trace`.
        prompts: several.
        targets: of every prompt.
        budget: rows and memory are of each prompt, seconds of all.
        progress: see `trace`.
    """
    if approximate(replacement(model, scope)):
        return [trace(model, scope, prompt, targets=targets, budget=budget) for prompt in prompts]
    began, budget, weights = time.perf_counter(), budget or Budget(), folded_weights(model)
    starts = [_Run(model, scope, prompt, targets).start(weights) for prompt in prompts]
    rows = [Rows(start.local, budget) for start in starts]
    interrupted = explore(rows, budget, began, progress)
    facts = {"seconds": (time.perf_counter() - began) / max(1, len(prompts)), "interrupted": interrupted}
    return [_graph(start, done, scope, facts) for start, done in zip(starts, rows, strict=True)]


@final
@dataclass(frozen=True, eq=False)
class _Start:
    """A prompt before its rows are computed."""

    local: LocalModel
    origin: Origin
    nodes: Nodes


@final
class _Run:
    """A prompt and the model's run on it."""

    @torch.no_grad()
    def __init__(self, model: Model, scope: Scope | None, prompt: Prompt, targets: Any) -> None:
        self.model, self.scope, self.coders = model, scope, replacement(model, scope)
        self.tokens, reads = resolve(model, prompt, targets)
        sites = [site for read in reads for site in read.sites(scope)]
        self.captured = run(model, self.coders, self.tokens, sites)
        self.outcomes = choose(model, scope, self.captured, reads)
        texts = tuple(map(model.token_text, self.tokens.tolist()))
        self.masked = masked_positions(scope, texts).to(model.device)
        best = self.captured["logits"][-1].float().softmax(0).topk(min(10, model.vocab_size))
        predictions = [
            {"token": model.token_text(token), "id": token, "probability": probability}
            for token, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        more = "".join(texts[len(model.tokens(prompt)) :])
        self.origin = Origin(
            model=model.name,
            scope="" if scope is None else scope.name,
            prompt=prompt + more if isinstance(prompt, str) else "".join(texts),
            tokens=tuple(self.tokens.tolist()),
            token_texts=texts,
            coders={f"{part_of(coder.writes[0])}.{coder.reads[0].layer}": coder.id for coder in self.coders},
            facts={"predictions": predictions, "targets": list(self.outcomes.plain)},
        )

    def start(self, weights: Sequence[Weights]) -> _Start:
        """Freeze the model on the prompt."""
        local = localise(self.model, self.coders, self.captured, self.masked, self.outcomes, weights)
        return _Start(local, self.origin, node_table(self.model, self.scope, self.tokens, local.sources, self.outcomes))


def _approximate(run: _Run, names: Sequence[str], began: float) -> Graph:
    """A graph by derivatives; none of its values are known to be the sum of its edges."""
    with torch.no_grad():
        sources, writes = collect_cuts(run.coders, run.captured, run.masked)
    recorded = record(run.model, run.coders, run.tokens, run.outcomes.targets)
    matrix = derivatives(run.model, recorded, sources, writes, run.outcomes.targets)
    facts = {"seconds": time.perf_counter() - began, "interrupted": False, "approximate": list(names)}
    origin = replace(run.origin, facts={**facts, **run.origin.facts})
    nodes = node_table(run.model, run.scope, run.tokens, sources, run.outcomes)
    bias, unknown = torch.zeros(len(matrix)), torch.full((len(matrix),), torch.nan)
    return Graph.build(origin, nodes, matrix, bias, unknown, run.scope)


def _adopt(rows: Rows, start: _Start, graph: Graph) -> None:
    """Take over the rows of an unfinished graph; BadInput where it is of something else."""
    columns = graph.matrix.shape[1]
    names = ("kinds", "layer", "part", "position", "index")
    same = len(graph.nodes) == len(start.nodes) and columns == start.local.sources.columns
    same = same and not bool(graph.rest_size.any())
    same = same and graph.origin.tokens == start.origin.tokens and graph.origin.coders == start.origin.coders
    same = same and all(torch.equal(getattr(graph.nodes, name), getattr(start.nodes, name)) for name in names)
    features = start.local.sources.features
    targets = torch.where(graph.rows < features, graph.rows, graph.rows - columns + features)
    if not same or not torch.allclose(start.local.values[targets], graph.values, rtol=1e-2, atol=1e-4):
        raise BadInput(
            f"The graph of {graph.prompt!r} cannot be resumed: it is of another prompt, model, scope or targets, "
            "or nodes were cut from it; trace anew."
        )
    rows.adopt(targets, graph.matrix)


def _graph(start: _Start, rows: Rows, scope: Scope | None, facts: dict[str, Any]) -> Graph:
    local, (targets, matrix) = start.local, rows.ordered()
    features = local.sources.features
    nodes = torch.where(targets < features, targets, targets - features + local.sources.columns)
    origin = replace(start.origin, facts={**facts, **start.origin.facts})
    bias = local.biases().cpu()[targets]
    return Graph.build(origin, start.nodes, matrix, bias, local.values[targets], scope, nodes)


def node_table(model: Model, scope: Scope | None, tokens: Tensor, sources: Sources, outcomes: Outcomes) -> Nodes:
    """The nodes of a whole graph: every source in the order of its column, then the outcomes."""
    parts = []
    for active in sources.active:
        columns = {name: torch.full_like(active.index, getattr(active, name)) for name in ("layer", "part")}
        columns |= {"position": active.position, "index": active.index, "activation": active.value}
        labels = [scope.label(active.coder.id, index) if scope else "" for index in active.index.tolist()]
        parts.append(Nodes.build(FEATURE, columns, labels))
    layers, part, positions = sources.errors.unbind(1)
    columns = {"layer": layers, "part": part, "position": positions}
    parts.append(Nodes.build(ERROR, columns, [""] * len(layers)))
    texts = [model.token_text(token) for token in tokens.tolist()]
    columns = {"position": torch.arange(len(tokens)), "index": tokens}
    parts.append(Nodes.build(EMBEDDING, columns, texts))
    return Nodes.cat([*parts, outcomes.nodes(model.n_layers)])
