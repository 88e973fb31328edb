"""Operations: how an edit changes coordinates, in one table.

Each gives the change (new - old) of coordinates (token, k). This module must not know what the coordinates are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from glassworks.edits.targets import Direction, Features, Heads, Neurons, Target, Whole

ANY = (Features, Direction, Heads, Neurons, Whole)


@final
@dataclass(frozen=True)
class Operation:
    """One way to change coordinates.

    Attributes:
        change: gives new - old, (token, k), from old (token, k) and the amounts (arity, token or 1, k or 1).
        words: a sentence about it, with `{target}`, `{amounts}` and `{source}`.
        arity: how many amounts each coordinate takes; 0 for none.
        scaled: whether the amounts are sizes that can be told in a unit.
        targets: what it works on.
    """

    change: Callable[[Float[Tensor, "token k"], Float[Tensor, "a #token #k"]], Float[Tensor, "token k"]]
    words: str
    arity: int = 1
    scaled: bool = True
    targets: tuple[type[Target], ...] = ANY


OPERATIONS: dict[str, Operation] = {
    "set": Operation(lambda old, given: given[0] - old, "set {target} to {amounts}"),
    "add": Operation(lambda old, given: given[0].expand_as(old), "add {amounts} to {target}"),
    "scale": Operation(lambda old, given: (given[0] - 1) * old, "scale {target} by {amounts}", scaled=False),
    "zero": Operation(lambda old, _: -old, "ablate {target}", arity=0),
    "mean": Operation(lambda old, given: given[0] - old, "ablate {target} to the mean", scaled=False),
    "resample": Operation(lambda old, given: given[0] - old, "ablate {target} to values of other tokens", scaled=False),
    "clamp": Operation(lambda old, given: old.clamp(given[0], given[1]) - old, "clamp {target} to {amounts}", arity=2),
    "project_out": Operation(lambda old, _: -old, "project {target} out", arity=0, targets=(Direction,)),
    "patch": Operation(lambda old, given: given[0] - old, "patch {target} from {source}", scaled=False),
}
"""Name -> what it does; `patch` gets the values of the other run as its amounts."""

UNITS: dict[str, tuple[type[Target], ...]] = {
    "absolute": ANY,
    "max": (Features,),
    "norm": (Features, Direction),
}
"""Name of a unit -> what it can measure: as it is; times the largest activation seen on the corpus; times the mean
norm of the residual stream there."""

ERRORS = ("keep", "drop")
"""What becomes of the part of a site that the coder does not explain."""

EFFECTS: dict[str, tuple[str, ...]] = {
    "total": (),
    "attention": ("patterns",),
    "attention+norms": ("patterns", "norms"),
    "direct": ("patterns", "norms", "mlps"),
}
"""Name of an effect -> what of the model stays as it is while the edit acts."""

EFFECT_WORDS = {
    "attention": "attention held",
    "attention+norms": "attention and norms held",
    "direct": "direct effect only",
}
