"""Summary: a graph in plain sentences, for readers and for programs that read text.

Every sentence states a number of the graph; nothing is guessed. This module must not know how a graph is made.
"""

from collections.abc import Sequence

from glassworks.circuits.nodes import EMBEDDING, ERROR, LOGIT
from glassworks.circuits.reading.paths import Path, propose
from glassworks.circuits.scores import Scores
from glassworks.circuits.traced import Traced

GROUPS, TOKENS, PATHS = 6, 4, 4
SMALL = 0.01  # share of the influence below which nothing is told


def summarise(graph: Traced, scores: Scores, paths: Sequence[Path]) -> str:
    """Tell a graph in sentences: what was asked, what the answer rests on, how it gets there, what is missing.

    Args:
        graph: what is told.
        scores: its scores.
        paths: its strongest paths, see `paths`.
    """
    paragraphs = [_answer(graph), _tokens(graph), _features(graph), _ways(paths), _gaps(graph, scores)]
    return "\n".join(each for each in paragraphs if each)


def _answer(graph: Traced) -> str:
    outcomes = [graph.nodes[each] for each in graph.nodes.of(LOGIT).nonzero()[:, 0].tolist()]
    outcomes.sort(key=lambda node: -(node.probability or 0.0))
    told = [f"{node.label.strip() or node.label!r} ({node.probability or 0.0:.0%})" for node in outcomes[:TOKENS]]
    more = f" and {len(outcomes) - TOKENS} more" if len(outcomes) > TOKENS else ""
    return f"After {graph.origin.prompt!r} {graph.origin.model} is explained for {_list(told)}{more}."


def _tokens(graph: Traced) -> str:
    weight = float(graph.edges.weights.sum()) or 1.0
    numbers = graph.nodes.of(EMBEDDING).nonzero()[:, 0]
    order = graph.influence[numbers].argsort(descending=True, stable=True)[:TOKENS]
    found = [(graph.nodes[number], float(graph.influence[number]) / weight) for number in numbers[order].tolist()]
    told = [f"{node.label.strip() or node.label!r} ({part:.0%})" for node, part in found if part >= SMALL]
    return f"Of the influence on the outcome, tokens give: {_list(told)}." if told else ""


def _features(graph: Traced) -> str:
    weight = float(graph.edges.weights.sum()) or 1.0
    told = []
    for name, numbers in propose(graph.nodes, graph.influence)[:GROUPS]:
        node, part = graph.nodes[numbers[0]], float(graph.influence[numbers].sum()) / weight
        where = f"layer {node.layer} at {graph.origin.token_texts[node.position].strip()!r}"
        many = f"{len(numbers)} features" if len(numbers) > 1 else "1 feature"
        if part >= SMALL:
            told.append(f"[{name}] ({many}, {where}, {part:.0%})")
    return f"The strongest features: {_list(told)}." if told else ""


def _ways(paths: Sequence[Path]) -> str:
    """The strongest paths; what lowers the outcome is said to."""
    told = []
    for path in paths[:PATHS]:
        verb = "raises" if path.weight > 0 else "lowers"
        told.append(f"{path} {verb} it by {abs(path.weight):.1%} of its input")
    return "The strongest paths: " + "; ".join(told) + "." if told else ""


def _gaps(graph: Traced, scores: Scores) -> str:
    weight = float(graph.edges.weights.sum()) or 1.0
    error = float(graph.influence[graph.nodes.of(ERROR)].sum()) / weight
    told = [
        f"{scores.replacement:.0%} of what is explained starts in tokens and not in errors (replacement), "
        f"{scores.completeness:.0%} of all input is no error (completeness), errors carry {error:.0%}"
    ]
    if scores.unexplored >= SMALL:
        told.append(f"{scores.unexplored:.0%} of the influence was not explored")
    finite = graph.conservation[graph.conservation.isfinite()]
    told.append(f"rows add up to within {float(finite.max()):.0e}" if len(finite) else "whether rows add up is unknown")
    return f"What is missing: {'; '.join(told)}."


def _list(parts: Sequence[str]) -> str:
    return ", ".join(parts)
