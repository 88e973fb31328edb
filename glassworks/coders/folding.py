"""Folding: put the scalings that training used into the weights, so that a coder takes raw activations.

Training wants inputs of unit size; users want a coder that reads a site as it is. Folding is exact: a folded
coder gives the same latents and, in raw units, the same reconstruction.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.coders.activations import JumpReLU, ReLU
from glassworks.coders.crosscoder import Crosscoder
from glassworks.coders.crosslayer import CrossLayer
from glassworks.coders.transcoder import Transcoder
from glassworks.errors import Unsupported
from glassworks.sites import Site


@dataclass(frozen=True, eq=False)
class Affine:
    """How raw activations become what a coder was trained on: `(raw - centre) * scale`.

    Attributes:
        centre: subtracted first.
        scale: one number for the site.
    """

    centre: Float[Tensor, " d"]
    scale: float

    @classmethod
    def none(cls, width: int) -> "Affine":
        """The scaling that changes nothing."""
        return cls(torch.zeros(width), 1.0)

    def __call__(self, raw: Float[Tensor, "*token d"]) -> Float[Tensor, "*token d"]:
        """Scale raw activations."""
        return (raw - self.centre) * self.scale

    def undo(self, scaled: Float[Tensor, "*token d"]) -> Float[Tensor, "*token d"]:
        """Turn scaled activations back into raw ones."""
        return scaled / self.scale + self.centre


Foldable = TypeVar("Foldable", Transcoder, Crosscoder, CrossLayer)


Scalings = Affine | Mapping[str, Affine]
"""One for all sites, or one for each by the site's name; sites that are left out are not scaled."""


def fold(coder: Foldable, read: Scalings, write: Scalings) -> Foldable:
    """Make a coder of scaled activations into the same coder of raw ones.

    Args:
        coder: works on `read(x)` and gives `write(y)`.
        read: the scaling of its read sites.
        write: the scaling of its write sites.

    Returns:
        A new coder with `folded.encode(x) == coder.encode(read(x))` and `folded(x) == write.undo(coder(read(x)))`,
        its weights rounded once from float64.
    """
    if not isinstance(coder, CrossLayer):
        return _folded(coder, read, write, set(coder.writes))
    last = {site: part for part in coder.parts for site in part.writes}  # a centre is added once, by one part
    parts = [_folded(part, read, write, {site for site in last if last[site] is part}) for part in coder.parts]
    return CrossLayer(parts, coder.id).requires_grad_(False)


def _folded(coder: Any, read: Scalings, write: Scalings, centred: set[Site]) -> Any:
    """Fold one coder; of its write sites, those in `centred` get their centre back."""
    old = coder.weights()
    weights = {name: value.double() for name, value in old.items()}
    width = coder.d_in // len(coder.reads)
    reads = [_scaling(read, site, width) for site in coder.reads]
    scale_in = torch.cat([torch.full((width,), each.scale, dtype=torch.float64) for each in reads])
    centre_in = torch.cat([each.centre.double() for each in reads])
    folded = {"w_enc": weights["w_enc"] * scale_in}
    folded["b_enc"] = weights["b_enc"] - folded["w_enc"] @ centre_in
    for site in coder.writes:
        end = "" if isinstance(coder, Transcoder) else f".{site}"
        d_out = weights["w_dec" + end].shape[1]
        out = _scaling(write, site, d_out)
        folded["w_dec" + end] = weights["w_dec" + end] / out.scale
        bias = weights.get("b_dec" + end, torch.zeros(d_out, dtype=torch.float64)) / out.scale
        bias = bias + out.centre.double() if site in centred else bias
        if "w_skip" + end in weights:
            folded["w_skip" + end] = weights["w_skip" + end] * scale_in[:, None] / out.scale
            bias = bias - centre_in @ folded["w_skip" + end]
        folded["b_dec" + end] = bias
    rounded = {name: value.to(old.get(name, old["b_enc"]).dtype) for name, value in folded.items()}
    return coder.like(coder.activation, rounded, coder.prefixes).requires_grad_(False)


def _scaling(scalings: Scalings, site: Site, width: int) -> Affine:
    return scalings if isinstance(scalings, Affine) else scalings.get(site.name) or Affine.none(width)


def gated(
    w_enc: Float[Tensor, "d_latent d_in"],
    b_gate: Float[Tensor, " d_latent"],
    b_mag: Float[Tensor, " d_latent"],
    r_mag: Float[Tensor, " d_latent"],
) -> tuple[Float[Tensor, "d_latent d_in"], Float[Tensor, " d_latent"], JumpReLU]:
    """Turn a gated encoder into the JumpReLU encoder that it is (Rajamanoharan et al. 2024, 2404.16014, section 3.2).

    A latent is on where `w x + b_gate > 0`; its activation is `relu(exp(r_mag) w x + b_mag)`. In terms of that
    pre-activation the gate is a threshold, `b_mag - exp(r_mag) b_gate`.

    Returns:
        Encoder, bias and activation, rounded once from float64.
    """
    scale = r_mag.double().exp()
    threshold = (b_mag.double() - scale * b_gate.double()).clamp(min=0)
    rows = (w_enc.double() * scale[:, None]).to(w_enc.dtype)
    return rows, b_mag, JumpReLU(threshold.to(b_mag.dtype))


def unit_decoder(coder: Foldable) -> Foldable:
    """Rescale every latent so that its decoder row has length 1; what the coder computes stays the same.

    Activations are then the lengths that latents write, and can be compared with each other. Of a coder with several
    write sites it is the length of the rows side by side.

    Raises:
        Unsupported: the activation's choice would change with the scale (TopK, BatchTopK).
    """
    kept = coder.activation
    if not isinstance(kept, JumpReLU | ReLU):
        raise Unsupported(
            f"Rescaling the latents of a {kept.kind} coder changes its choice; export it to JumpReLU first."
        )
    if isinstance(coder, CrossLayer):
        return CrossLayer([unit_decoder(part) for part in coder.parts], coder.id).requires_grad_(False)
    return _rescaled(coder, kept)


def _rescaled(coder: Any, kept: JumpReLU | ReLU) -> Any:
    """Rescale the latents of one coder of one input."""
    old = coder.weights()
    weights = {name: value.double() for name, value in old.items()}
    rows = torch.cat([value for name, value in weights.items() if name.startswith("w_dec")], dim=1)
    length = rows.norm(dim=1)
    length = torch.where(length > 0, length, torch.ones_like(length))
    for name, value in weights.items():
        if name.startswith(("w_enc", "b_enc")):
            weights[name] = value * length.reshape(-1, *[1] * (value.ndim - 1))
        elif name.startswith("w_dec"):
            weights[name] = value / length[:, None]
    if isinstance(kept, JumpReLU):
        kept = JumpReLU((kept.threshold.double() * length).to(kept.threshold.dtype))
    rounded = {name: value.to(old[name].dtype) for name, value in weights.items()}
    found = coder.like(kept, rounded, coder.prefixes).requires_grad_(False)
    found.rename(coder.id)
    return found
