"""The control for any claim about a group of features: other active features that are as strong.

This module must not know edges.
"""

from random import Random

from jaxtyping import Int
from torch import Tensor

from glassworks.circuits.nodes import FEATURE, Nodes
from glassworks.errors import BadInput

NEAREST = 10
"""Each feature is drawn from so many of like activation."""


def matched(nodes: Nodes, group: Int[Tensor, " k"], random: Random) -> list[int]:
    """Draw as many other active features, each of the same layer as one of the group and of like activation.

    Args:
        nodes: the node table.
        group: numbers of the nodes that are to be matched; those that are no features are passed over.
        random: draws one of the `NEAREST` features that come closest in log activation.

    Returns:
        Numbers of other nodes, none of them twice.

    Raises:
        BadInput: a layer has too few other features.
    """
    free = nodes.of(FEATURE)
    free[group] = False
    chosen: list[int] = []
    for number in group[nodes.of(FEATURE)[group]].tolist():
        candidates = (free & (nodes.layer == nodes.layer[number]) & (nodes.part == nodes.part[number])).nonzero()[:, 0]
        if not len(candidates):
            layer = int(nodes.layer[number])
            raise BadInput(f"Layer {layer} has too few other active features to match the group; take a smaller group.")
        distance = (nodes.activation[candidates].log() - nodes.activation[number].log()).abs()
        nearest = candidates[distance.argsort(stable=True)[:NEAREST]].tolist()
        chosen.append(random.choice(nearest))
        free[chosen[-1]] = False
    return chosen
