"""Targets: what an edit changes, as values.

Every target is a few coordinates of the model's state at every token: activations of features, the component along
a direction, the outputs of heads, neurons, or all of a site. This module must not know a model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from jaxtyping import Float
from torch import Tensor

from glassworks.edits.refs import FeatureRef, Supernode
from glassworks.errors import BadInput
from glassworks.sites import Site


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
        _once("feature", self.refs)

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
        return cls(Site.parse(site), tuple(float(each) for each in numbers))

    @property
    def norm(self) -> float:
        """The vector's length."""
        return sum(each * each for each in self.vector) ** 0.5

    def __str__(self) -> str:
        return f"the component along a vector of norm {self.norm:.4g} at {self.site}"


@final
@dataclass(frozen=True)
class Heads:
    """Attention heads; the coordinates are what they hand to the output projection, head by head.

    Attributes:
        heads: (layer, head) of each.
    """

    heads: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        """Raise BadInput where there is none, or one is named twice."""
        _some("head", [index for head in self.heads for index in head])
        _once("head", self.heads)

    def __str__(self) -> str:
        return f"head{'s' * (len(self.heads) > 1)} " + shortened([f"{layer}.{head}" for layer, head in self.heads])


@final
@dataclass(frozen=True)
class Neurons:
    """Neurons of one MLP; the coordinates are what they hand to the down projection.

    Attributes:
        layer: of the MLP.
        indices: which.
    """

    layer: int
    indices: tuple[int, ...]

    def __post_init__(self) -> None:
        """Raise BadInput where there is none, or one is named twice."""
        _some("neuron", [self.layer, *self.indices] if self.indices else [])
        _once("neuron", self.indices)

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
Named = Target | Supernode | FeatureRef | Sequence[FeatureRef] | str
"""What a user may give for a target; text is a feature, `mlp_in.2/17`, or a site, `resid_post.1`."""


def target_of(named: Any) -> Target:
    """Turn what a user gave into a target.

    Raises:
        BadInput: it is none, or holds nothing.
        NotFound: there is no such kind of site.
    """
    if isinstance(named, Target):
        return named
    if isinstance(named, Site):
        return Whole(named)
    if isinstance(named, str):
        return Features((FeatureRef.parse(named),)) if "/" in named else Whole(Site.parse(named))
    listed = named.features if isinstance(named, Supernode) else named
    listed = listed if isinstance(listed, Sequence) else [listed]
    if not all(hasattr(each, "coder_id") for each in listed):
        raise BadInput(f"An edit changes features, a Direction, Heads, Neurons or a site; got {named!r}.")
    return Features(tuple(FeatureRef(each.coder_id, each.position, int(each.index)) for each in listed))


def plain_target(target: Target) -> dict[str, Any]:
    """A target as JSON values; `read_target` reads it back."""
    match target:
        case Features(refs):
            return {"features": [str(ref) for ref in refs]}
        case Direction(site, vector):
            return {"direction": list(vector), "site": str(site)}
        case Heads(heads):
            return {"heads": [list(head) for head in heads]}
        case Neurons(layer, indices):
            return {"neurons": list(indices), "layer": layer}
        case Whole(site):
            return {"whole": str(site)}


def read_target(plain: Mapping[str, Any]) -> Target:
    """Read a target back; KeyError or TypeError where it is none."""
    if "features" in plain:
        return Features(tuple(FeatureRef.parse(str(each)) for each in plain["features"]))
    if "direction" in plain:
        return Direction.of(str(plain["site"]), [float(each) for each in plain["direction"]])
    if "heads" in plain:
        return Heads(tuple((int(layer), int(head)) for layer, head in plain["heads"]))
    if "neurons" in plain:
        return Neurons(int(plain["layer"]), tuple(int(each) for each in plain["neurons"]))
    return Whole(Site.parse(str(plain["whole"])))


def shortened(items: Sequence[Any], most: int = 4) -> str:
    """The first few items as text."""
    return ", ".join(map(str, items[:most])) + (", ..." if len(items) > most else "")


def _some(kind: str, numbers: Sequence[int]) -> None:
    if not numbers:
        raise BadInput(f"There are no {kind}s to change; name at least one.")
    if min(numbers) < 0:
        raise BadInput(f"A {kind} is named by numbers from 0 on; got {min(numbers)}.")


def _once(kind: str, items: Sequence[Any]) -> None:
    if len(set(items)) < len(items):
        twice = next(each for each in items if items.count(each) > 1)
        raise BadInput(f"The {kind} {twice} is named twice; name each once.")
