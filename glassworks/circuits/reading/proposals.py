"""Supernode proposals: features that play the same role in a graph.

Two features are alike by the mean of what can be compared: the cosine of their inputs' shares, the cosine of what
their outputs do (edges weighted by what flows on), the shared words of their labels, and, with the scope at hand, the
cosines of their encoder and decoder rows. Groups are joined from the most alike pair on, by the mean over their
pairs, while that is high enough. No draw is made: the same graph gives the same groups. This module must not know how
a graph is made.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from glassworks.circuits.nodes import FEATURE
from glassworks.circuits.reading.paths import Groups, words
from glassworks.circuits.traced import Traced
from glassworks.edits import FeatureRef
from glassworks.errors import NotFound

MOST = 256
"""How many features are grouped, the most influential."""
ALIKE = 0.5
"""Mean similarity down to which groups are joined."""

Compared = tuple[Float[Tensor, "k k"], Bool[Tensor, "k k"]]  # similarities, and which are known


def by_roles(graph: Traced) -> Groups:
    """Group the most influential features by their role; the most influential group first.

    Returns:
        Name (label of its most influential feature) and node numbers of each group.
    """
    feature = graph.nodes.of(FEATURE)
    order = torch.where(feature, graph.influence, torch.full((), -1.0)).argsort(descending=True, stable=True)
    chosen = order[: min(MOST, int(feature.sum()))]
    if not len(chosen):
        return []
    parts = [_inputs(graph, chosen), _outputs(graph, chosen), _labels(graph, chosen), *_directions(graph, chosen)]
    known = sum(mask.float() for _, mask in parts)
    alike = sum(torch.where(mask, value, torch.zeros(())) for value, mask in parts)
    assert isinstance(alike, Tensor)
    assert isinstance(known, Tensor)
    groups = [[int(chosen[each]) for each in group] for group in _joined(alike / known.clamp(min=1))]
    groups.sort(key=lambda group: -float(graph.influence[group].sum()))
    return [(_name(graph, group[0]), group) for group in groups]


def _name(graph: Traced, number: int) -> str:
    return graph.nodes.labels[number] or f"feature {int(graph.nodes.index[number])}"


def _cosines(profiles: Float[Tensor, "k d"]) -> Compared:
    some = profiles.abs().sum(1) > 0
    unit = functional.normalize(profiles, dim=1)
    return unit @ unit.T, some[:, None] & some


def _inputs(graph: Traced, chosen: Int[Tensor, " k"]) -> Compared:
    """Cosines of the signed shares of their inputs; unknown for features without a row."""
    rows = {int(node): row for row, node in enumerate(graph.rows)}
    profiles = torch.zeros(len(chosen), graph.matrix.shape[1])
    for place, node in enumerate(chosen.tolist()):
        if node in rows:
            profiles[place] = graph.matrix[rows[node]]
    return _cosines(profiles)


def _outputs(graph: Traced, chosen: Int[Tensor, " k"]) -> Compared:
    """Cosines of their outputs: the signed part of each target's flow that comes through them."""
    flow = (graph.influence + graph.edges.weights)[graph.rows] / graph.edges.sizes()
    return _cosines((graph.matrix[:, chosen] * flow[:, None]).T)


def _labels(graph: Traced, chosen: Int[Tensor, " k"]) -> Compared:
    """Shared words of their labels over the shorter label's words; unknown without labels."""
    told = [words(graph.nodes.labels[each]) for each in chosen.tolist()]
    value = [[len(a & b) / max(1, min(len(a), len(b))) for b in told] for a in told]
    some = torch.tensor([bool(each) for each in told])
    return torch.tensor(value), some[:, None] & some


def _directions(graph: Traced, chosen: Int[Tensor, " k"]) -> list[Compared]:
    """Cosines of what they read, and of what they write; nothing where the scope is not at hand."""
    refs = graph.supernode("", chosen.tolist()).features
    if graph.scope is None or any(not _has(graph, ref) for ref in refs):
        return []
    reads, writes = [], []
    for ref in refs:
        coder, index = graph.scope[ref.coder_id], torch.tensor([ref.index])
        reads.append(coder.encoder_rows(index)[0].float().cpu())
        writes.append(coder.decoder_rows(index)[0].float().cpu())
    same = len({len(each) for each in [*reads, *writes]}) == 1  # heads side by side have another width
    return [_cosines(torch.stack(each).detach()) for each in (reads, writes)] if same else []


def _has(graph: Traced, ref: FeatureRef) -> bool:
    try:
        return graph.scope is not None and bool(graph.scope[ref.coder_id].d_latent)
    except NotFound:
        return False


def _joined(alike: Float[Tensor, "k k"]) -> list[list[int]]:
    """Average linkage: join the two groups whose pairs are most alike on the average, while they are alike enough."""
    size = len(alike)
    sums, counts = alike.double().clone(), torch.ones(size, dtype=torch.float64)
    groups = [[each] for each in range(size)]
    alive = ~torch.eye(size, dtype=torch.bool)
    while True:
        mean = (sums / (counts[:, None] * counts)).masked_fill(~alive, -2)
        best = int(mean.argmax())
        first, second = sorted((best // size, best % size))
        if size < 2 or float(mean[first, second]) < ALIKE:
            return [sorted(group) for group in groups if group]
        sums[first] += sums[second]
        sums[:, first] += sums[:, second]
        counts[first] += counts[second]
        groups[first] += groups[second]
        groups[second] = []
        alive[second], alive[:, second] = False, False
