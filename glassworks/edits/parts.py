"""Parts: an edit's target as it lies in a model, one part a read site.

A part reads its coordinates from the values of a site and writes changes of them back. This module must not know
which tokens are meant nor what the change is.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.coders import Coder, Latents
from glassworks.edits.refs import FeatureRef
from glassworks.edits.targets import Direction, Features, Heads, Neurons, Target, Whole
from glassworks.errors import BadInput, NotFound, Unsupported
from glassworks.models import Model
from glassworks.sites import Site

Rows = Float[Tensor, "token width"]
"""Values of a site at some tokens, in float32 at least."""


class Part(ABC):
    """Coordinates that are read at one site.

    Attributes:
        site: where they are read.
        count: how many there are; 0 where that depends on the text.
        writes: where changes of them are written.
        columns: their numbers among the target's coordinates; None is all of them.
        positions: for each, the one position of the prompt that it names, or None.
    """

    def __init__(
        self, site: Site, count: int, writes: Sequence[Site] = (), columns: Sequence[int] | None = None
    ) -> None:
        self.site, self.count, self.writes = site, count, tuple(writes) or (site,)
        self.columns = None if columns is None else list(columns)
        self.positions: list[int | None] = []

    @abstractmethod
    def read(self, x: Rows) -> Float[Tensor, "token k"]:
        """The coordinates of values."""

    @abstractmethod
    def written(self, site: Site, value: Rows, change: Float[Tensor, "token k"], x: Rows) -> Rows:
        """The value of a write site with the coordinates changed; `x` is what was read. It may be written to."""


@final
class FeaturePart(Part):
    """Features of one coder; a change is written along their decoder rows, at every write site."""

    def __init__(self, coder: Coder, refs: Sequence[FeatureRef], columns: Sequence[int], keep: bool) -> None:
        super().__init__(coder.reads[0], len(refs), coder.writes, columns)
        self.positions = [ref.position for ref in refs]
        self._coder, self._keep, self._latents = coder, keep, torch.tensor([ref.index for ref in refs])
        self._encode = reader(coder, self._latents)
        self._rows: dict[Site, Tensor] = {}

    def read(self, x: Rows) -> Float[Tensor, "token k"]:
        """Their activations."""
        return self._encode(x)

    def written(self, site: Site, value: Rows, change: Float[Tensor, "token k"], x: Rows) -> Rows:
        """With the change along their rows, on the value itself or on what the coder makes of it."""
        base = value if self._keep else self._rebuilt(site, x)
        return torch.addmm(base.to(value), change.to(value), self._decoder(site, value))

    def _decoder(self, site: Site, value: Tensor) -> Tensor:
        """Their rows, read and widened once."""
        if site not in self._rows:
            self._rows[site] = self._coder.decoder_rows(self._latents.to(value.device), site).to(value)
        return self._rows[site]

    def _rebuilt(self, site: Site, x: Tensor) -> Tensor:
        decoded, skip = self._coder.decode(self._coder.encode(x), site), self._coder.skip(site)
        return decoded if skip is None else decoded + x.to(decoded) @ skip.to(decoded)


@final
class DirectionPart(Part):
    """The component along a vector."""

    def __init__(self, target: Direction) -> None:
        super().__init__(target.site, 1)
        self._vector = torch.tensor(target.vector)

    def read(self, x: Rows) -> Float[Tensor, "token 1"]:
        """How many times the vector is in it: <x, v> / <v, v>."""
        vector = self._vector.to(x)
        return (x @ vector / (vector @ vector))[:, None]

    def written(self, site: Site, value: Rows, change: Float[Tensor, "token k"], x: Rows) -> Rows:
        """With so many times the vector more."""
        return value + change * self._vector.to(value)


@final
class ColumnPart(Part):
    """Some numbers of a site, or (where they are only counted) all of them, as they are."""

    def __init__(self, site: Site, taken: Sequence[int] | int, columns: Sequence[int] | None = None) -> None:
        super().__init__(site, taken if isinstance(taken, int) else len(taken), columns=columns)
        self._taken: Any = slice(None) if isinstance(taken, int) else list(taken)

    def read(self, x: Rows) -> Float[Tensor, "token k"]:
        """The numbers themselves."""
        return x[:, self._taken]

    def written(self, site: Site, value: Rows, change: Float[Tensor, "token k"], x: Rows) -> Rows:
        """With the change added."""
        value[:, self._taken] += change.to(value)
        return value


def reader(coder: Coder, indices: Tensor) -> Callable[[Rows], Float[Tensor, "token k"]]:
    """How to tell the activations of some latents; only these are encoded where each is chosen by itself."""
    activation = coder.activation
    own, column = indices.unique(return_inverse=True)
    try:
        rows, bias = coder.encoder_rows(own), coder.encoder_bias(own)
    except Unsupported:  # it scales every token by itself
        rows = bias = None
    if activation.span != "latent" or rows is None:
        return lambda x: _activations(coder.encode(x), own.to(x.device))[:, column]
    tensors: dict[str, Any] = {name: each[own] for name, each in activation.tensors().items()}
    gate = replace(activation, **tensors)  # pyright: ignore[reportArgumentType]
    ascending = torch.equal(own, indices)

    def encode(x: Rows) -> Float[Tensor, "token k"]:
        read = torch.nn.functional.linear(x.to(rows), rows, bias)
        found = read * gate.active(read)
        return found if ascending else found[:, column]

    return encode


def parts_of(target: Target, model: Model, coders: Mapping[str, Coder], keep: bool = True) -> list[Part]:
    """The parts of a target in a model.

    Args:
        target: what is changed.
        model: where.
        coders: those of its features, by id.
        keep: whether what coders do not explain stays.

    Raises:
        NotFound: the model has no such site, head or neuron.
        BadInput: a vector or coder of another width.
    """
    match target:
        case Features(refs):
            parts: list[Part] = [_features(name, refs, coders, model, keep) for name in _names(refs)]
        case Direction(site, vector):
            _check_width(model, site, len(vector), "vector")
            parts = [DirectionPart(target)]
        case Heads(heads):
            parts = [_heads(layer, heads, model) for layer in sorted({layer for layer, _ in heads})]
        case Neurons(layer, indices):
            _check_count("neuron", max(indices), model.width(Site("mlp_neurons", layer)), layer)
            parts = [ColumnPart(Site("mlp_neurons", layer), indices)]
        case Whole(site):
            parts = [ColumnPart(site, model.width(site))]
    return parts


def _names(refs: Sequence[FeatureRef]) -> list[str]:
    return list(dict.fromkeys(ref.coder_id for ref in refs))


def _features(
    name: str, refs: Sequence[FeatureRef], coders: Mapping[str, Coder], model: Model, keep: bool
) -> FeaturePart:
    coder, columns = coders[name], [number for number, ref in enumerate(refs) if ref.coder_id == name]
    one = torch.tensor([refs[columns[0]].index])
    _check_width(model, coder.reads[0], coder.encoder_rows(one).shape[1], f"coder {name}")
    for site in coder.writes:
        _check_width(model, site, coder.decoder_rows(one, site).shape[1], f"coder {name}")
    return FeaturePart(coder, [refs[number] for number in columns], columns, keep)


def _heads(layer: int, heads: Sequence[tuple[int, int]], model: Model) -> ColumnPart:
    mine, d_head = [number for number, head in enumerate(heads) if head[0] == layer], model.d_head
    site = Site("attn_heads", layer)
    _check_count("head", max(heads[number][1] for number in mine), model.width(site) // d_head, layer)

    def spread(numbers: Sequence[int]) -> list[int]:
        return [number * d_head + each for number in numbers for each in range(d_head)]

    return ColumnPart(site, spread([heads[number][1] for number in mine]), spread(mine))


def _check_width(model: Model, site: Site, width: int, what: str) -> None:
    right = model.width(site)
    if width != right:
        raise BadInput(f"The {what} has the width {width}; {site} of {model.name} has the width {right}.")


def _check_count(what: str, highest: int, count: int, layer: int) -> None:
    if highest >= count:
        raise NotFound(f"There is no {what} {highest} in layer {layer}; there are 0 to {count - 1}.")


def _activations(latents: Latents, wanted: Tensor) -> Float[Tensor, "token k"]:
    """Activations of some latents only (ascending), dense."""
    slot = torch.searchsorted(wanted, latents.indices).clamp(max=len(wanted) - 1)
    found = wanted[slot] == latents.indices
    dense = latents.values.new_zeros(latents.tokens, len(wanted))
    return dense.index_put((latents.positions[found], slot[found]), latents.values[found])
