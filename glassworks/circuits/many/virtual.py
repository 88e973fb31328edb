"""Global weights: how one feature feeds another on every prompt, through the residual stream alone.

A virtual weight is the product of what a source writes and what a target reads, no attention between them, so most of
them are interference: features that are never active together. Ameisen et al. 2025 ("Circuit Tracing", global
weights) correct for co-activation on data: expected residual attribution ERA = E[1(t active) a_s V scale], and the
target-weighted TWERA = E[a_t a_s V scale] / E[a_t]. `scale` is the frozen scale of the norm before the target's read,
so both are means of true edges. This module must not know graphs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks.circuits.engine.chosen import MLP_READS, replacement
from glassworks.circuits.engine.freeze import Read, fold_read, read_place
from glassworks.coders import Coder, Scope
from glassworks.errors import BadInput, NotFound, Unsupported
from glassworks.models import Model, Prompt
from glassworks.sites import Site


@final
@dataclass(frozen=True)
class Weight:
    """A source that feeds the target.

    Attributes:
        coder: id of its coder.
        index: its latent.
        label: its label.
        weight: virtual weight: what a unit of its activation adds to the target's pre-activation before the norm's
            scale.
        era: expected residual attribution, a token.
        twera: target-weighted expected residual attribution.
        together: share of the target's active tokens at which the source is active too.
    """

    coder: str
    index: int
    label: str
    weight: float
    era: float
    twera: float
    together: float


@final
@dataclass(frozen=True)
class Inputs:
    """What feeds a feature, over many prompts.

    Attributes:
        target: coder and latent, `mlp_in.2/17`.
        label: its label.
        tokens: how many tokens were seen, masked ones left out.
        active: at how many of them the target is active.
        sources: the strongest by absolute TWERA.
    """

    target: str
    label: str
    tokens: int
    active: int
    sources: tuple[Weight, ...]

    def plain(self) -> dict[str, Any]:
        """The values as JSON holds them."""
        return asdict(self)


@torch.no_grad()
def inputs_of(model: Model, scope: Scope, target: str, prompts: Sequence[Prompt], most: int = 20) -> Inputs:
    """Find which features feed a feature through the residual stream, weighted by how they occur in text.

    Args:
        model: gives the norm before the target's read.
        scope: its replacement coders are the sources.
        target: the feature, `mlp_in.2/17`.
        prompts: text to see activations on; a few hundred tokens of the target's own kind are better than many others.
        most: how many sources to tell.

    Raises:
        NotFound: there is no such feature, or it is active on none of the prompts.
        BadInput: no prompts.
        Unsupported: the target reads no residual stream.
    """
    name, _, number = target.rpartition("/")
    if not name or not number.isdecimal():
        raise NotFound(f"The feature {target!r} is none; write coder and latent, like 'mlp_in.2/17'.")
    if not prompts:
        raise BadInput("There are no prompts; global weights are weighted by what is active in text.")
    reader, index = scope[name], int(number)
    if index >= reader.d_latent:
        raise NotFound(f"The coder {name} has features 0 to {reader.d_latent - 1}; there is no {index}.")
    below = {coder: _sites_below(coder, reader.reads[0]) for coder in replacement(model, scope)}
    writers = {coder: sites for coder, sites in below.items() if sites}
    if reader.reads[0].kind not in MLP_READS or not writers:
        raise Unsupported(
            f"Nothing feeds {target} through the stream: no coder writes below it, or it reads no stream."
        )
    sums = _Sums(model, scope, reader, index, tuple(writers))
    for prompt in prompts:
        sums.add(prompt)
    if not sums.active:
        raise NotFound(f"The feature {target} is active on none of {sums.tokens} tokens; give other text.")
    found = [weight for coder, sites in writers.items() for weight in _weights(sums, coder, sites, most)]
    found.sort(key=lambda each: -abs(each.twera))
    return Inputs(target, scope.label(name, index), sums.tokens, sums.active, tuple(found[:most]))


def _sites_below(coder: Coder, read: Site) -> list[Site]:
    """Where a coder writes MLP outputs below a read site."""
    return [site for site in coder.writes if site.kind == "mlp_out" and _layer(site) < _layer(read)]


def _layer(site: Site) -> int:
    return -1 if site.layer is None else site.layer


@final
class _Sums:
    """Expectations over tokens: of sources, with the target active, and weighted by the target."""

    def __init__(self, model: Model, scope: Scope, reader: Coder, index: int, coders: tuple[Coder, ...]) -> None:
        self.coders, self.scope, self.tokens, self.active, self.weight = coders, scope, 0, 0, 0.0
        self._model, self._reader, self._index = model, reader, index
        self.plain, self.weighted, self.together = (
            {coder: torch.zeros(coder.d_latent, dtype=torch.float64) for coder in coders} for _ in range(3)
        )
        place = read_place(model, reader.reads[0], {})
        assert isinstance(place, Read)
        normed = place.norm is not None and "mlp" in reader.reads[0].kind
        self._scale = Site("mlp_norm_scale", _layer(reader.reads[0])) if normed else None
        self.covector = fold_read(place.norm, reader.encoder_rows(torch.tensor([index])).float())[0][0].cpu()

    def add(self, prompt: Prompt) -> None:
        """See one prompt."""
        site, scales = self._reader.reads[0], [] if self._scale is None else [self._scale]
        sites = [site, *(coder.reads[0] for coder in self.coders), *scales]
        captured = self._model.capture(prompt, list(dict.fromkeys(sites)))
        first = self.scope.masked([self._model.token_text(each) for each in self._model.tokens(prompt).tolist()])
        target = self._dense(self._reader, captured)[first:, self._index]
        scale = torch.ones(len(target)) if self._scale is None else captured[self._scale.name][first:, 0].cpu()
        on, scale = (target > 0).double(), scale.double()
        self.tokens, self.active = self.tokens + len(on), self.active + int(on.sum())
        self.weight += float(target.sum())
        for coder in self.coders:
            values = self._dense(coder, captured)[first:]
            self.plain[coder] += (on * scale) @ values
            self.weighted[coder] += (target * scale) @ values
            self.together[coder] += on @ (values > 0).double()

    @staticmethod
    def _dense(coder: Coder, captured: Mapping[str, Tensor]) -> Float[Tensor, "token d_latent"]:
        return coder.encode(captured[coder.reads[0].name].float()).dense().double().cpu()


def _weights(sums: _Sums, coder: Coder, sites: list[Site], most: int) -> list[Weight]:
    """The strongest sources of one coder."""
    seen = sums.plain[coder].nonzero()[:, 0]
    virtual = sum(_product(coder, seen, site, sums.covector) for site in sites)
    assert isinstance(virtual, Tensor)
    twera = virtual * sums.weighted[coder][seen] / sums.weight
    best = twera.abs().topk(min(most, len(seen))).indices
    return [
        Weight(
            coder=coder.id,
            index=int(seen[each]),
            label=sums.scope.label(coder.id, int(seen[each])),
            weight=float(virtual[each]),
            era=float(virtual[each] * sums.plain[coder][seen[each]] / sums.tokens),
            twera=float(twera[each]),
            together=float(sums.together[coder][seen[each]]) / sums.active,
        )
        for each in best.tolist()
    ]


def _product(
    coder: Coder, indices: Int[Tensor, " k"], site: Site, covector: Float[Tensor, " d_model"]
) -> Float[Tensor, " k"]:
    return (coder.decoder_rows(indices, site).float().cpu() @ covector).double()
