"""Targets: what an edit changes, as values that know no model.

Every target is a few coordinates of the model's state at every token: activations of features, the component along
a direction, the outputs of heads, neurons, or all of a site.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from glassworks.errors import BadInput
from glassworks.sites import Site

FEATURE = re.compile(r"(.+)/(\d+)(?:@(-?\d+))?")
"""How a feature is written: `mlp_in.2/17`, or `mlp_in.2/17@4` at a token."""


@final
@dataclass(frozen=True, order=True)
class FeatureRef:
    """One feature at one position.

    Attributes:
        coder_id: the coder, by its id in the scope: `"mlp_in.2"`.
        position: which token of the prompt, negative from its end; None is every token.
        index: which latent of the coder.
    """

    coder_id: str
    position: int | None
    index: int

    def __str__(self) -> str:
        return f"{self.coder_id}/{self.index}" + ("" if self.position is None else f"@{self.position}")

    @classmethod
    def parse(cls, text: str) -> "FeatureRef":
        """Read it from `mlp_in.2/17`, or `mlp_in.2/17@4` at a token; BadInput where the text is something else."""
        match = FEATURE.fullmatch(text)
        if match is None:
            raise BadInput(f"The text {text!r} is no feature; write CODER/INDEX or CODER/INDEX@POSITION, mlp_in.2/17.")
        coder, index, position = match.groups()
        return cls(coder, None if position is None else int(position), int(index))


@runtime_checkable
class Supernode(Protocol):
    """A named group of features that knows its scope."""

    @property
    def features(self) -> Sequence[Any]:
        """Its features: each with `coder_id`, `position` and `index`."""
        ...

    @property
    def scope(self) -> Any:
        """Gives a coder by id, `scope["mlp_in.2"]`."""
        ...


@final
@dataclass(frozen=True)
class Features:
    """Features of coders; the coordinates are their activations, in this order.

    Attributes:
        refs: which; those that name a position are changed there only.
    """

    refs: tuple[FeatureRef, ...]

    def __post_init__(self) -> None:
        """Raise BadInput where there is none, or one is named twice."""
        if not self.refs:
            raise BadInput("There are no features to change; the supernode or list is empty.")
        _check_unique("feature", self.refs)

    def __str__(self) -> str:
        return f"{len(self.refs)} feature{'s' * (len(self.refs) > 1)} ({shortened(self.refs)})"


@final
@dataclass(frozen=True)
class Direction:
    """A direction at a site; the coordinate is the component along it, in multiples of the vector.

    Attributes:
        site: where.
        vector: of the site's width.
    """

    site: Site
    vector: tuple[float, ...]

    def __post_init__(self) -> None:
        """Raise BadInput where the vector holds something else than finite numbers."""
        if not self.norm < float("inf"):  # also refuses nan
            raise BadInput(f"The vector for {self.site} has the norm {self.norm:g}; it must be finite.")

    @classmethod
    def of(cls, site: str | Site, vector: Float[Tensor, " width"] | Sequence[float]) -> "Direction":
        """Make one from a tensor or numbers."""
        numbers = vector.detach().flatten().tolist() if isinstance(vector, Tensor) else vector
        return cls(Site.parse(site), tuple(float(number) for number in numbers))

    @property
    def norm(self) -> float:
        """The vector's length."""
        return sum(number * number for number in self.vector) ** 0.5

    def __str__(self) -> str:
        return f"the component along a vector of norm {self.norm:.4g} at {self.site}"


@final
@dataclass(frozen=True)
class Heads:
    """Attention heads; the coordinates are their outputs before the output projection, head by head.

    Attributes:
        heads: (layer, head) of each.
    """

    heads: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        """Raise BadInput where there is none, or one is named twice."""
        _check_numbers("head", [number for head in self.heads for number in head])
        _check_unique("head", self.heads)

    def __str__(self) -> str:
        return f"head{'s' * (len(self.heads) > 1)} " + shortened([f"{layer}.{head}" for layer, head in self.heads])


@final
@dataclass(frozen=True)
class Neurons:
    """Neurons of one MLP; the coordinates are their activations, the input of the down projection.

    Attributes:
        layer: of the MLP.
        indices: which.
    """

    layer: int
    indices: tuple[int, ...]

    def __post_init__(self) -> None:
        """Raise BadInput where there is none, or one is named twice."""
        _check_numbers("neuron", [self.layer, *self.indices] if self.indices else [])
        _check_unique("neuron", self.indices)

    def __str__(self) -> str:
        return f"neuron{'s' * (len(self.indices) > 1)} {shortened(self.indices)} of layer {self.layer}"


@final
@dataclass(frozen=True)
class Whole:
    """All of a site's value; the coordinates are its numbers."""

    site: Site

    def __str__(self) -> str:
        return str(self.site)


Target = Features | Direction | Heads | Neurons | Whole


def target_of(given: Any) -> Target:
    """Turn what a user gave into a target; text is a feature, `mlp_in.2/17`, or a site, `resid_post.1`.

    Raises:
        BadInput: it is none, or holds nothing.
        NotFound: there is no such kind of site.
    """
    if isinstance(given, Target):
        return given
    if isinstance(given, Site):
        return Whole(given)
    if isinstance(given, str):
        return Features((FeatureRef.parse(given),)) if "/" in given else Whole(Site.parse(given))
    refs = given.features if isinstance(given, Supernode) else given
    refs = refs if isinstance(refs, Sequence) else [refs]
    if not all(hasattr(ref, "coder_id") for ref in refs):
        raise BadInput(f"An edit changes features, a Direction, Heads, Neurons or a site; got {given!r}.")
    return Features(tuple(FeatureRef(ref.coder_id, ref.position, int(ref.index)) for ref in refs))


def shortened(items: Sequence[Any], most: int = 4) -> str:
    """The first few items as text."""
    return ", ".join(map(str, items[:most])) + (", ..." if len(items) > most else "")


def _check_numbers(kind: str, numbers: Sequence[int]) -> None:
    if not numbers:
        raise BadInput(f"There are no {kind}s to change; name at least one.")
    if min(numbers) < 0:
        raise BadInput(f"A {kind} is named by numbers from 0 on; got {min(numbers)}.")


def _check_unique(kind: str, items: Sequence[Any]) -> None:
    if len(set(items)) < len(items):
        twice = next(item for item in items if items.count(item) > 1)
        raise BadInput(f"The {kind} {twice} is named twice; name each once.")
