"""Change features: set, scale or ablate latents of coders while the model runs.

A feature edit reads its coder's read site, encodes, and adds (new - old activation) times the feature's decoder
row at every write site. What the coder does not explain, its error, stays as it is. This module must not know
graphs: a supernode is anything with features and a scope.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks.coders import Coder, Latents
from glassworks.edits.positions import resolved
from glassworks.errors import BadInput, NotFound, Unsupported
from glassworks.models import Model, Tap
from glassworks.sites import Site


@final
@dataclass(frozen=True, order=True)
class FeatureRef:
    """One feature at one position.

    Attributes:
        coder_id: the coder, by its id in the scope: `"mlp_in.2"`.
        position: which token, negative from the end; None is every token.
        index: which latent of the coder.
    """

    coder_id: str
    position: int | None
    index: int

    def __str__(self) -> str:
        return f"{self.coder_id}/{self.index}" + ("" if self.position is None else f"@{self.position}")


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
@dataclass(frozen=True, eq=False)
class FeatureEdit:
    """Gives features new activations, factor * old + value; made by `set_features`, `scale_features` and `ablate`.

    Attributes:
        features: what is changed.
        factor: of the old activation.
        values: one per feature.
        coders: the coders of the features by id.
    """

    features: tuple[FeatureRef, ...]
    factor: float
    values: tuple[float, ...]
    coders: Mapping[str, Coder]

    def __repr__(self) -> str:
        return f"FeatureEdit({self})"

    def __str__(self) -> str:
        names = ", ".join(map(str, self.features[:4])) + (", ..." if len(self.features) > 4 else "")
        many = f"{len(self.features)} feature{'s' if len(self.features) > 1 else ''} ({names})"
        if self.factor:
            return f"scale {many} by {self.factor:g}"
        if not any(self.values):
            return f"ablate {many}"
        return f"set {many} to {', '.join(f'{each:g}' for each in self.values[:4])}{'...' * (len(self.values) > 4)}"

    @property
    def reads(self) -> Sequence[Site]:
        """The sites that its coders read."""
        return [coder.reads[0] for coder in self.coders.values()]

    def taps(self, model: Model, clean: Mapping[Site, Tensor] | None) -> Mapping[Site, Tap]:
        """The taps that do it; see `glassworks.models.Edit`."""
        acting: dict[Site, list[Tap]] = {}
        for coder_id, coder in self.coders.items():
            mine = [each for each, ref in enumerate(self.features) if ref.coder_id == coder_id]
            change = _Change(coder, [self.features[i] for i in mine], self.factor, [self.values[i] for i in mine])
            acting.setdefault(coder.reads[0], []).append(change.reader(clean))
            for write in coder.writes:
                acting.setdefault(write, []).append(change.writer(write))
        return {site: _in_turn(taps) for site, taps in acting.items()}


def set_features(
    features: "Supernode | FeatureRef | Sequence[FeatureRef]",
    values: float | int | Sequence[float | int],
    scope: Any = None,
) -> FeatureEdit:
    """Make an edit that gives features these activations, whatever they were.

    Args:
        features: a supernode, a feature, or several.
        values: one for all, or one for each.
        scope: gives the coders by id; a supernode brings its own.

    Raises:
        BadInput: no features, a feature named twice, another number of values, or no scope.
        NotFound: the scope lacks a coder, or the coder has no such feature.
    """
    refs = _refs(features)
    numbers = [float(each) for each in values] if isinstance(values, Sequence) else [float(values)] * len(refs)
    if len(numbers) != len(refs):
        raise BadInput(f"There are {len(refs)} features and {len(numbers)} values; give one value, or one for each.")
    return FeatureEdit(refs, 0.0, tuple(numbers), _coders(refs, features, scope))


def scale_features(
    features: "Supernode | FeatureRef | Sequence[FeatureRef]", factor: float | int, scope: Any = None
) -> FeatureEdit:
    """Make an edit that multiplies features' activations; a silent feature stays silent. See `set_features`."""
    refs = _refs(features)
    return FeatureEdit(refs, float(factor), (0.0,) * len(refs), _coders(refs, features, scope))


def ablate(features: "Supernode | FeatureRef | Sequence[FeatureRef]", scope: Any = None) -> FeatureEdit:
    """Make an edit that silences features, activation 0. See `set_features`."""
    return scale_features(features, 0.0, scope)


@final
class _Change:
    """What one coder's features change in one forward: read first, then written at every write site."""

    def __init__(self, coder: Coder, refs: Sequence[FeatureRef], factor: float, values: Sequence[float]) -> None:
        self._coder, self._refs, self._factor, self._values = coder, refs, factor, values
        self._latents = torch.tensor([ref.index for ref in refs]).unique()
        self._positions: list[int] = []
        self._difference = torch.empty(0)

    def reader(self, clean: Mapping[Site, Tensor] | None) -> Tap:
        """Encode the live value (or the clean one) and remember new - old (batch, position, latent)."""

        def read(value: Tensor) -> None:
            x = value if clean is None else clean[self._coder.reads[0]]
            everywhere = any(ref.position is None for ref in self._refs)
            named = None if everywhere else [ref.position for ref in self._refs if ref.position is not None]
            self._positions = sorted(set(resolved(named, x.shape[1])))
            latents = self._latents.to(x.device)
            old = _activations(self._coder.encode(x[:, self._positions]), latents)
            chosen, target = self._targets(x.shape[1])
            new = self._factor * old + target.to(old)
            self._difference = torch.where(chosen.to(old.device), new - old, torch.zeros_like(old))

        return read

    def writer(self, site: Site) -> Tap:
        """Add the difference times the decoder's rows, in float32 at least."""

        def write(value: Tensor) -> Tensor:
            wide = value.to(torch.promote_types(value.dtype, torch.float32), copy=True)
            rows = self._coder.decoder_rows(self._latents.to(value.device), site)
            wide[:, self._positions] += self._difference.to(wide) @ rows.to(wide)
            return wide

        return write

    def _targets(self, tokens: int) -> tuple[Tensor, Tensor]:
        """Which (position, latent) are changed, and the value that each gets."""
        chosen = torch.zeros(len(self._positions), len(self._latents), dtype=torch.bool)
        target = torch.zeros(chosen.shape)
        for ref, value in zip(self._refs, self._values, strict=True):
            here = slice(None) if ref.position is None else self._positions.index(ref.position % tokens)
            latent = int(torch.searchsorted(self._latents, ref.index))
            chosen[here, latent], target[here, latent] = True, value
        return chosen, target


def _activations(latents: Latents, wanted: Int[Tensor, " k"]) -> Float[Tensor, "*token k"]:
    """Activations of some latents only (ascending), dense."""
    slot = torch.searchsorted(wanted, latents.indices).clamp(max=len(wanted) - 1)
    found = wanted[slot] == latents.indices
    dense = latents.values.new_zeros(latents.tokens, len(wanted))
    dense = dense.index_put((latents.positions[found], slot[found]), latents.values[found])
    return dense.reshape(*latents.shape[:-1], len(wanted))


def _in_turn(taps: Sequence[Tap]) -> Tap:
    def tap(value: Tensor) -> Tensor:
        for each in taps:
            replacement = each(value)
            value = value if replacement is None else replacement
        return value

    return tap


def _refs(features: Any) -> tuple[FeatureRef, ...]:
    listed = features.features if isinstance(features, Supernode) else features
    listed = listed if isinstance(listed, Sequence) else [listed]
    refs = tuple(FeatureRef(each.coder_id, each.position, int(each.index)) for each in listed)
    if not refs:
        raise BadInput("There are no features to change; the supernode or list is empty.")
    twice = [ref for ref in refs if refs.count(ref) > 1]
    if twice:
        raise BadInput(f"The feature {twice[0]} is named twice; name each once.")
    return refs


def _coders(refs: Sequence[FeatureRef], features: Any, scope: Any) -> dict[str, Coder]:
    scope = features.scope if scope is None and isinstance(features, Supernode) else scope
    if scope is None:
        raise BadInput("Editing features needs their coders; pass the scope as well.")
    coders = {coder_id: scope[coder_id] for coder_id in dict.fromkeys(ref.coder_id for ref in refs)}
    for ref in refs:
        coder = coders[ref.coder_id]
        if not 0 <= ref.index < coder.d_latent:
            raise NotFound(f"There is no feature {ref}; the coder {ref.coder_id} has 0 to {coder.d_latent - 1}.")
        if len(coder.reads) > 1:
            raise Unsupported(f"The coder {ref.coder_id} reads several sites; only features of one site can be edited.")
    return coders
