"""Global weights: how one feature feeds another on every prompt, through the residual stream alone.

A virtual weight is the product of what a source writes and what a target reads, no attention between them, so most of
them are interference: features that are never active together. Ameisen et al. 2025 ("Circuit Tracing", global
weights) correct for co-activation on data: expected residual attribution ERA = E[1(t active) a_s V scale], and the
target-weighted TWERA = E[a_t a_s V scale] / E[a_t]. `scale` is the frozen scale of the norm before the target's read,
so both are means of true edges.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.circuits.engine.freeze import Read, fold_read, read_place
from glassworks.circuits.engine.sources import MLP_READS, layer_of, replacement
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
        era: expected residual attribution per token.
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
        tokens: how many tokens were read, masked ones left out.
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
        prompts: text to read activations from; a few hundred tokens of the target's own kind serve best.
        most: how many sources to return.

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
    read = reader.reads[0]
    below = {
        coder: [site for site in coder.writes if site.kind == "mlp_out" and layer_of(site) < layer_of(read)]
        for coder in replacement(model, scope)
    }
    writers = {coder: sites for coder, sites in below.items() if sites}
    if read.kind not in MLP_READS or not writers:
        raise Unsupported(
            f"Nothing feeds {target} through the stream: no coder writes below it, or it reads no stream."
        )
    place = read_place(model, read, {})
    assert isinstance(place, Read)
    scale_site = Site("mlp_norm_scale", layer_of(read)) if place.norm is not None and "mlp" in read.kind else None
    covector = fold_read(place.norm, reader.encoder_rows(torch.tensor([index])).float())[0][0].cpu()

    # Sums over tokens of each source: while the target is active, weighted by the target, and how often both are.
    sums = {coder: torch.zeros(3, coder.d_latent, dtype=torch.float64) for coder in writers}
    tokens, active, weight = 0, 0, 0.0
    for prompt in prompts:
        sites = [read, *(coder.reads[0] for coder in writers), *([] if scale_site is None else [scale_site])]
        captured = model.capture(prompt, list(dict.fromkeys(sites)))
        first = scope.masked([model.token_text(token) for token in model.tokens(prompt).tolist()])

        def dense(coder: Coder, captured: dict[str, Tensor] = captured) -> Float[Tensor, "token d_latent"]:
            return coder.encode(captured[coder.reads[0].name].float()).dense().double().cpu()

        values = dense(reader)[first:, index]
        scale = torch.ones(len(values)) if scale_site is None else captured[scale_site.name][first:, 0].cpu()
        on, scale = (values > 0).double(), scale.double()
        tokens, active, weight = tokens + len(on), active + int(on.sum()), weight + float(values.sum())
        for coder in writers:
            latents = dense(coder)[first:]
            sums[coder] += torch.stack(
                [(on * scale) @ latents, (values * scale) @ latents, on @ (latents > 0).double()]
            )
    if not active:
        raise NotFound(f"The feature {target} is active on none of {tokens} tokens; give other text.")

    sources = []
    for coder, sites in writers.items():
        seen = sums[coder][0].nonzero()[:, 0]
        rows = [(coder.decoder_rows(seen, site).float().cpu() @ covector).double() for site in sites]
        virtual = torch.stack(rows).sum(0)
        plain, weighted, together = sums[coder][:, seen]
        twera = virtual * weighted / weight
        for place in twera.abs().topk(min(most, len(seen))).indices.tolist():
            latent, value = int(seen[place]), float(virtual[place])
            figures = value, value * float(plain[place]) / tokens, float(twera[place]), float(together[place]) / active
            sources.append(Weight(coder.id, latent, scope.label(coder.id, latent), *figures))
    sources.sort(key=lambda source: -abs(source.twera))
    return Inputs(target, scope.label(name, index), tokens, active, tuple(sources[:most]))
