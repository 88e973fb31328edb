"""Crosscoders: several sites read or written by one set of latents.

The values of several sites come and go either stacked, (..., site, d), in the order of `reads` and `writes`, or by
name as a model's `capture` gives them.
"""

from collections.abc import Mapping, Sequence
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks.coders.activations import Activation
from glassworks.coders.latents import Latents
from glassworks.coders.linear import LinearCoder, check_shapes, wide, widened
from glassworks.coders.weights import Matrix
from glassworks.errors import BadInput
from glassworks.sites import Site

Values = Tensor | Mapping[str, Tensor]
"""Activations at several sites: stacked, or by name."""


@final
class Crosscoder(LinearCoder):
    """Every latent reads all read sites and writes at all write sites (Lindsey et al. 2024, acausal crosscoders).

        z = sum over reads r: w_enc[r] x_r + b_enc;   y_w = activation(z) @ w_dec.w + b_dec.w (+ x @ w_skip.w)

    With one read site it is a layer of a cross-layer transcoder or of a weakly causal crosscoder: see `CrossLayer`.

    Args:
        reads: the sites that it encodes.
        writes: the sites that it reconstructs.
        activation: which latents are on.
        weights: `w_enc (d_latent, reads * d_in)`, the reads side by side, `b_enc (d_latent)`; for each write site
            `w_dec.<site> (d_latent, d_out)` and perhaps `b_dec.<site> (d_out)`, 0 where it is not given; with one
            read site perhaps `w_skip.<site> (d_in, d_out)`. The matrices `w_enc` and `w_dec` may be `Stored`.
        prefixes: widths of the nested dictionaries that a Matryoshka coder was trained as, ascending.

    Raises:
        BadInput: a weight is missing, unknown, or of a shape that does not fit the others.
    """

    @staticmethod
    def check(reads: Sequence[Site], writes: Sequence[Site], weights: Mapping[str, Matrix]) -> None:
        """Raise BadInput where a weight is missing, unknown, or of a shape that does not fit the others."""
        decoders = {f"w_dec.{site}" for site in writes}
        skips = {f"w_skip.{site}" for site in writes} if len(reads) == 1 else set()
        needed = {"w_enc", "b_enc"} | decoders
        if not needed <= set(weights) <= needed | {f"b_dec.{site}" for site in writes} | skips:
            raise BadInput(
                f"A crosscoder has the weights {', '.join(sorted(needed))} and perhaps b_dec and w_skip "
                f"of a write site; these are {', '.join(sorted(weights))}."
            )
        if any(weights[name].ndim != 2 for name in ("w_enc", *decoders)):
            raise BadInput("A crosscoder's w_enc and w_dec must be matrices, one w_dec for each write site.")
        d_latent, d_in = weights["w_enc"].shape
        if d_in % len(reads):
            raise BadInput(f"A crosscoder of {len(reads)} read sites cannot have w_enc of shape {(d_latent, d_in)}.")
        right: dict[str, tuple[int, ...]] = {"w_enc": (d_latent, d_in), "b_enc": (d_latent,)}
        for site in writes:
            d_out = weights[f"w_dec.{site}"].shape[1]
            right |= {f"w_dec.{site}": (d_latent, d_out), f"b_dec.{site}": (d_out,), f"w_skip.{site}": (d_in, d_out)}
        check_shapes(weights, right)

    def like(self, activation: Activation, weights: Mapping[str, Matrix], prefixes: Sequence[int] = ()) -> "Crosscoder":
        """A crosscoder between the same sites with other weights."""
        return Crosscoder(self.reads, self.writes, activation, weights, prefixes)

    def preactivations(self, x: Values) -> Float[Tensor, "*token d_latent"]:
        """`x @ w_enc.T + b_enc` on the read sites side by side, in float32 or wider."""
        return super().preactivations(self._joined(x))

    def encode(self, x: Values) -> Latents:
        """Turn activations at the read sites into sparse latents; gradients flow through the values."""
        return super().encode(self._joined(x))

    def decode(self, latents: Latents, write: Site | None = None) -> Float[Tensor, "*token d_out"]:
        """Turn latents into activations at a write site, or stacked over all of several by default; no skip."""
        if write is None and len(self.writes) > 1:
            return torch.stack([self.decode(latents, site) for site in self.writes], dim=-2)
        total = latents.total(self._matrix(f"w_dec.{self.check_write(write)}")) + self.bias(write)
        return total.reshape(*latents.shape[:-1], total.shape[-1])

    def forward(self, x: Values) -> Values:
        """Reconstruct the activations at the write sites, stacked or by name as the input is."""
        latents, joined = self.encode(x), self._joined(x)
        written = [self.reconstruct(latents, joined, site) for site in self.writes]
        return unstacked(torch.stack(written, dim=-2), self.writes, x)

    def reconstruct(self, latents: Latents, x: Values, write: Site | None = None) -> Float[Tensor, "*token d_out"]:
        """What is written at a site, skip included, or stacked over all of several by default."""
        if write is None and len(self.writes) > 1:
            return torch.stack([self.reconstruct(latents, x, site) for site in self.writes], dim=-2)
        return super().reconstruct(latents, self._joined(x), write)

    def decoder_rows(self, indices: Int[Tensor, " k"], write: Site | None = None) -> Float[Tensor, "k d_out"]:
        """Rows of `w_dec.<write>`."""
        return widened(self._matrix(f"w_dec.{self.check_write(write)}")[indices])

    def bias(self, write: Site | None = None) -> Float[Tensor, " d_out"]:
        """`b_dec.<write>`, or zeros."""
        site = self.check_write(write)
        bias = getattr(self, f"b_dec.{site}".replace(".", "/"), None)
        if bias is None:
            return torch.zeros(self._matrix(f"w_dec.{site}").shape[1], device=self.b_enc.device)
        return widened(bias.detach())

    def skip(self, write: Site | None = None) -> Float[Tensor, "d_in d_out"] | None:
        """`w_skip.<write>`, where there is one."""
        skip = getattr(self, f"w_skip.{self.check_write(write)}".replace(".", "/"), None)
        return None if skip is None else skip.to(wide(skip.dtype))

    def extra_repr(self) -> str:
        """What it reads and writes, and its size."""
        return f"{_names(self.reads)} -> {_names(self.writes)}, {self.d_in} -> {self.d_latent}"

    def _joined(self, x: Values) -> Tensor:
        stacked_, single = stacked(x, self.reads), len(self.reads) == 1
        return stacked_ if single or stacked_.shape[-1] == self.d_in else stacked_.flatten(-2)


def stacked(x: Values, sites: Sequence[Site]) -> Tensor:
    """Activations by name as one tensor (..., site, d), or (..., d) for one site; a tensor is returned as it is.

    Raises:
        BadInput: a site is missing.
    """
    if isinstance(x, Tensor):
        return x
    missing = [site.name for site in sites if site.name not in x]
    if missing:
        raise BadInput(f"The activations at {', '.join(missing)} are missing; there are {', '.join(x) or 'none'}.")
    values = [x[site.name] for site in sites]
    return values[0] if len(values) == 1 else torch.stack(values, dim=-2)


def unstacked(y: Float[Tensor, "*token site d"], sites: Sequence[Site], like: Values) -> Values:
    """Reconstructions in the form that the input had: by name, or stacked, one site without its axis."""
    if isinstance(like, Tensor):
        return y.squeeze(-2) if len(sites) == 1 else y
    return dict(zip((site.name for site in sites), y.unbind(-2), strict=True))


def _names(sites: Sequence[Site]) -> str:
    return sites[0].name if len(sites) == 1 else f"{sites[0]} .. {sites[-1]}"
