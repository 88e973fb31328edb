"""Coders that are a sum of others, each of which reads one site and writes several.

A cross-layer transcoder (CLT; Ameisen et al. 2025, "Circuit Tracing") has one set of latents a layer, which reads
that layer's MLP input and writes at its MLP output and all later ones; a weakly causal crosscoder is the same on one
kind of site.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glassworks.coders.activations import Activation, JumpReLU
from glassworks.coders.coder import Coder
from glassworks.coders.crosscoder import Crosscoder, Values, stacked, unstacked
from glassworks.coders.latents import Latents
from glassworks.errors import BadInput, Unsupported
from glassworks.sites import Site


@final
class CrossLayer(Coder):
    """The sum of its parts: `y_w = sum over parts l: decode_l(encode_l(x_l))_w (+ x_l @ w_skip_l.w)`.

    Latents are numbered on from part to part. A bias belongs to a write site, so exactly one part carries it; a skip
    belongs to the part that reads its input.

    Args:
        parts: coders of one read site each, all different.
        name: the coder's id; parts are named `<name>/<read site>`.

    Raises:
        BadInput: no parts, or two that read the same site.
    """

    def __init__(self, parts: Sequence[Crosscoder], name: str = "clt") -> None:
        reads = [site for part in parts for site in part.reads]
        if not parts or len(set(reads)) != len(parts):
            raise BadInput("A cross-layer coder is a sum of at least one part, each of which reads another site.")
        writes = sorted({site for part in parts for site in part.writes})
        super().__init__(reads, writes, sum(part.d_latent for part in parts), _joined(parts))
        self._parts = nn.ModuleList(parts)
        self._starts = [0, *accumulate(part.d_latent for part in parts)]
        self.rename(name)

    @property
    def parts(self) -> tuple[Crosscoder, ...]:
        """The coders of one read site each whose sum it is."""
        return tuple(self._parts)  # pyright: ignore[reportReturnType]

    @property
    def activation(self) -> Activation:
        """Which latents are on: of each part's latents, as all parts have the same kind."""
        return _joined(self.parts)

    @activation.setter
    def activation(self, value: Activation) -> None:
        """The parts hold it."""

    def rename(self, name: str) -> None:
        """Change the ids of the coder and of its parts."""
        for part in self.parts:
            part.rename(f"{name}/{part.reads[0]}")
        super().rename(name)

    def load(self) -> None:
        """Read into memory what still lies in files."""
        for part in self.parts:
            part.load()

    def prefix(self, width: int) -> "CrossLayer":
        """The sum of the parts' prefixes: the first latents of each part; see `LinearCoder.prefix`."""
        return CrossLayer([part.prefix(width) for part in self.parts], self.id).requires_grad_(False)

    def preactivations(self, x: Values) -> Float[Tensor, "*token d_latent"]:
        """The pre-activations of all parts, side by side."""
        return torch.cat([part.preactivations(each) for part, each in self._shared(x)], dim=-1)

    def encode(self, x: Values) -> Latents:
        """Turn activations at the read sites into sparse latents; gradients flow through the values."""
        return Latents.side_by_side([part.encode(each) for part, each in self._shared(x)])

    def decode(self, latents: Latents, write: Site | None = None) -> Float[Tensor, "*token d_out"]:
        """Turn latents into activations at a write site, or stacked over all of them by default; no skip."""
        if write is None:
            return torch.stack([self.decode(latents, site) for site in self.writes], dim=-2)
        self.check_write(write)
        ends = zip(self.parts, self._starts, self._starts[1:], strict=False)
        found = [part.decode(latents.run(a, b), write) for part, a, b in ends if write in part.writes]
        return torch.stack(found).sum(0)

    def forward(self, x: Values) -> Values:
        """Reconstruct the activations at the write sites, stacked or by name as the input is."""
        return unstacked(self.reconstruct(self.encode(x), x), self.writes, x)

    def reconstruct(self, latents: Latents, x: Values, write: Site | None = None) -> Float[Tensor, "*token d_out"]:
        """What is written at a site, skips included, or stacked over all of them by default."""
        if write is None:
            return torch.stack([self.reconstruct(latents, x, site) for site in self.writes], dim=-2)
        total = self.decode(latents, write)
        for part, own in self._shared(x):
            skip = part.skip(write) if write in part.writes else None
            total = total if skip is None else total + own.to(skip.dtype) @ skip
        return total

    def encoder_rows(self, indices: Int[Tensor, " k"]) -> Float[Tensor, "k d_in"]:
        """The directions that latents read, each at the site of its part."""
        return self._gather(indices, lambda part, local: part.encoder_rows(local))

    def encoder_bias(self, indices: Int[Tensor, " k"]) -> Float[Tensor, " k"]:
        """The biases of latents' pre-activations."""
        return self._gather(indices, lambda part, local: part.encoder_bias(local))

    def decoder_rows(self, indices: Int[Tensor, " k"], write: Site | None = None) -> Float[Tensor, "k d_out"]:
        """The directions that latents write at a site (the first by default); zeros where a part does not write."""
        site = self.check_write(write)
        width = self.bias(site).shape[0]

        def rows(part: Crosscoder, local: Tensor) -> Tensor:
            inside = site in part.writes
            return part.decoder_rows(local, site) if inside else torch.zeros(len(local), width, device=local.device)

        return self._gather(indices, rows)

    def bias(self, write: Site | None = None) -> Float[Tensor, " d_out"]:
        """What is written at a write site (the first by default) with all latents silent and no skip."""
        site = self.check_write(write)
        return torch.stack([part.bias(site) for part in self.parts if site in part.writes]).sum(0)

    def skip(self, write: Site | None = None) -> None:
        """None where no part has a skip; Unsupported otherwise, as the parts read different inputs: ask them."""
        site = self.check_write(write)
        if any(part.skip(site) is not None for part in self.parts if site in part.writes):
            raise Unsupported(f"The skip paths of {self.id} start at different sites; take them from its parts.")

    def extra_repr(self) -> str:
        """What it reads and writes, and its size."""
        return f"{len(self.parts)} parts, {self.d_latent} latents"

    def _shared(self, x: Values) -> list[tuple[Crosscoder, Tensor]]:
        """Each part with its input."""
        joined = stacked(x, self.reads)
        if len(self.parts) == 1 and not (joined.ndim > 1 and joined.shape[-2] == 1):
            return [(self.parts[0], joined)]
        if joined.ndim < 2 or joined.shape[-2] != len(self.parts):
            raise BadInput(
                f"The coder {self.id} reads {len(self.parts)} sites; stack them on the last axis but one, "
                f"or give them by name: the activations have shape {tuple(joined.shape)}."
            )
        return list(zip(self.parts, joined.unbind(-2), strict=True))

    def _gather(self, indices: Tensor, get: Callable[[Crosscoder, Tensor], Tensor]) -> Tensor:
        """Ask each part for its own latents, and put the answers in the order of the indices."""
        part_of = torch.bucketize(indices, torch.tensor(self._starts[1:], device=indices.device), right=True)
        found = [get(part, indices[part_of == n] - self._starts[n]) for n, part in enumerate(self.parts)]
        order = torch.cat([(part_of == n).nonzero()[:, 0] for n in range(len(self.parts))])
        return torch.cat(found)[order.argsort()]


def _joined(parts: Sequence[Crosscoder]) -> Activation:
    values = [part.activation for part in parts]
    if len({type(value) for value in values}) > 1:
        raise BadInput("The parts of a cross-layer coder have activations of different kinds; they must agree.")
    thresholds = [value.threshold for value in values if isinstance(value, JumpReLU)]
    return JumpReLU(torch.cat(thresholds)) if thresholds else values[0]
