"""Layers: which layer of one model does what which layer of another does.

Depth only grows, so the partners of later layers are not earlier ones; of all such assignments the one with the
largest total score is found by dynamic programming. This module must not know where scores come from.
"""

from jaxtyping import Float
from torch import Tensor


def monotone_path(scores: Float[Tensor, "layer_a layer_b"]) -> list[int]:
    """Give each layer of A a layer of B, never an earlier one than the layer before has.

    Args:
        scores: how well each layer of A goes with each of B; -inf where they must not be partners.

    Returns:
        B's layer for each of A's; of equally good assignments the one with the earliest partners.
    """
    best, back = scores[0].double().tolist(), []
    for row in scores[1:].double().tolist():
        before, chosen = 0, []
        for layer in range(len(row)):
            before = layer if best[layer] > best[before] else before
            chosen.append(before)
        best = [score + best[start] for score, start in zip(row, chosen, strict=True)]
        back.append(chosen)
    path = [max(range(len(best)), key=lambda layer: best[layer])]
    for chosen in reversed(back):
        path.append(chosen[path[-1]])
    return path[::-1]
