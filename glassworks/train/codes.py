"""Codes: what one encoder matrix makes of a batch, with gradients, in a sparse or a dense form.

Of tokens x latents pre-activations nearly all are of no account to a loss. Only the encoder product must be dense;
everything after it works on the entries that a `Touch` keeps. A loss term is written once, for entries: in the
dense form they are a matrix (token, latent), in the sparse form a list. This module must not know what a loss is.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from glassworks.coders import Latents
from glassworks.train.kernels import Kernels, Pattern, kept, kernels, total
from glassworks.train.touches import Chosen, Touch

BLOCK, NARROW = 1 << 24, 1 << 22
"""About so many pre-activations stand in memory at a time. A float32 product packs the weights anew for each block, so
there should be few (64 MB each); one in fewer bits gains more from what the cache still has (8 MB)."""
LEAST = 128
"""Fewer rows would not keep a matrix product busy."""


class Codes(ABC):
    """The touched pre-activations of a batch.

    "Entries" below are tensors that broadcast against `pre`: (token, latent) in the dense form, (entry,) in the sparse.

    Attributes:
        pre: the pre-activations; gradients flow to the encoder.
        tokens: how many rows were encoded.
        d_latent: how many latents the encoder has.
    """

    pre: Tensor
    tokens: int
    d_latent: int

    @property
    def density(self) -> float:
        """Which share of tokens x latents is kept."""
        return self.pre.numel() / max(self.tokens * self.d_latent, 1)

    @abstractmethod
    def of_latent(self, values: Float[Tensor, " latent"]) -> Tensor:
        """A number of each latent, as entries; gradients flow back."""

    @abstractmethod
    def of_token(self, values: Float[Tensor, " token"]) -> Tensor:
        """A number of each token, as entries; gradients flow back."""

    @abstractmethod
    def by_token(self, values: Tensor) -> Float[Tensor, " token"]:
        """Entries summed over each token."""

    @abstractmethod
    def by_latent(self, values: Tensor) -> Float[Tensor, " latent"]:
        """Entries summed over each latent."""

    @abstractmethod
    def below(self, width: int) -> Tensor:
        """Entries that say whether their latent is one of the first `width` (a Matryoshka prefix)."""

    @abstractmethod
    def decode_prefixes(
        self, values: Tensor, w_dec: Float[Tensor, "latent d_out"], widths: Sequence[int]
    ) -> Float[Tensor, "prefix token d_out"]:
        """Decoder rows summed with entries as weights, once for each prefix of the latents.

        Args:
            values: entries; gradients flow to them and to the decoder.
            w_dec: one row per latent.
            widths: ascending; each prefix is the latents below.
        """

    @abstractmethod
    def latents(self, values: Tensor) -> Latents:
        """The entries that are positive, detached."""

    def decode(self, values: Tensor, w_dec: Float[Tensor, "latent d_out"]) -> Float[Tensor, "token d_out"]:
        """Decoder rows summed with entries as weights.

        Args:
            values: entries; gradients flow to them and to the decoder.
            w_dec: one row per latent.
        """
        return self.decode_prefixes(values, w_dec, (self.d_latent,))[0]


@final
class Dense(Codes):
    """Every pre-activation, as a matrix (token, latent).

    Args:
        pre: the matrix.
    """

    def __init__(self, pre: Float[Tensor, "token latent"]) -> None:
        self.pre = pre
        self.tokens, self.d_latent = pre.shape

    def of_latent(self, values: Float[Tensor, " latent"]) -> Tensor:
        """The numbers as one row."""
        return values[None]

    def of_token(self, values: Float[Tensor, " token"]) -> Tensor:
        """The numbers as one column."""
        return values[:, None]

    def by_token(self, values: Tensor) -> Float[Tensor, " token"]:
        """Sums of rows."""
        return values.expand_as(self.pre).sum(1)

    def by_latent(self, values: Tensor) -> Float[Tensor, " latent"]:
        """Sums of columns."""
        return values.expand_as(self.pre).sum(0)

    def below(self, width: int) -> Tensor:
        """One row."""
        return (torch.arange(self.d_latent, device=self.pre.device) < width)[None]

    def decode_prefixes(
        self, values: Tensor, w_dec: Float[Tensor, "latent d_out"], widths: Sequence[int]
    ) -> Float[Tensor, "prefix token d_out"]:
        """The products of the runs between the widths, added up."""
        bounds = list(zip((0, *widths), widths, strict=False))
        return torch.stack([values[:, start:stop] @ w_dec[start:stop] for start, stop in bounds]).cumsum(0)

    def latents(self, values: Tensor) -> Latents:
        """The entries that are positive, detached."""
        return Latents.from_dense(values.detach(), values > 0)


@final
class Sparse(Codes):
    """Some pre-activations, as a list in the order of tokens, and of latents within a token.

    Args:
        pre: the list.
        pattern: where they are: tokens are its bags, latents its rows.
    """

    def __init__(self, pre: Float[Tensor, " entry"], pattern: Pattern) -> None:
        self.pre, self.pattern = pre, pattern
        self.tokens, self.d_latent = pattern.bags, pattern.rows

    def of_latent(self, values: Float[Tensor, " latent"]) -> Tensor:
        """The number of each entry's latent."""
        return values.index_select(0, self.pattern.indices)

    def of_token(self, values: Float[Tensor, " token"]) -> Tensor:
        """The number of each entry's token."""
        return values.index_select(0, self.pattern.positions)

    def by_token(self, values: Tensor) -> Float[Tensor, " token"]:
        """Sums of the entries of each token."""
        return values.new_zeros(self.tokens).index_add(0, self.pattern.positions, values)

    def by_latent(self, values: Tensor) -> Float[Tensor, " latent"]:
        """Sums of the entries of each latent."""
        return values.new_zeros(self.d_latent).index_add(0, self.pattern.indices, values)

    def below(self, width: int) -> Tensor:
        """Whether each entry's latent lies in the prefix."""
        return self.pattern.indices < width

    def decode_prefixes(
        self, values: Tensor, w_dec: Float[Tensor, "latent d_out"], widths: Sequence[int]
    ) -> Float[Tensor, "prefix token d_out"]:
        """Each entry's row is added once, in the run between two widths where it lies; the runs are added up."""
        if tuple(widths) == (self.d_latent,):
            return total(values, w_dec, self.pattern)[None]
        ends = [*widths, self.d_latent]
        runs = total(values, w_dec, self.pattern.split(ends)).unflatten(0, (self.tokens, len(ends)))
        return runs.cumsum(1)[:, :-1].transpose(0, 1)

    def latents(self, values: Tensor) -> Latents:
        """The entries that are positive, detached."""
        kept = values > 0
        places = self.pattern.positions[kept], self.pattern.indices[kept]
        return Latents(*places, values.detach()[kept], (self.tokens, self.d_latent))


def encode(
    x: Float[Tensor, "token d_in"],
    w_enc: Float[Tensor, "latent d_in"],
    b_enc: Float[Tensor, " latent"],
    touches: Sequence[Touch],
    products: torch.dtype = torch.float32,
    centre: Float[Tensor, " d_in"] | None = None,
) -> list[Codes]:
    """Pre-activations (x - centre) @ w_enc.T + b_enc, of the entries that each touch keeps.

    Gradients flow to whatever asks for one. One product serves all touches; it is made some rows at a time.

    Args:
        x: rows of activations.
        w_enc: the encoder, one row per latent.
        b_enc: its bias.
        touches: which entries to keep; there is one result for each.
        products: bfloat16 chooses the entries by a product in bfloat16 and computes those that are kept anew,
            exactly; the dense form is left as that product gives it.
        centre: subtracted from every row.
    """
    rows = x if centre is None else x - centre
    kind = x.dtype if products is torch.float32 else products
    entries = _entries(rows, w_enc, b_enc, touches, kind)
    found = iter(kept(x, w_enc, b_enc, centre, [each for each in entries if each]))
    codes = [Sparse(next(found), each[1]) if each else None for each in entries]
    if None not in codes:
        return [each for each in codes if each]
    dense = Dense(functional.linear(rows.to(kind), w_enc.to(kind), b_enc.to(kind)).to(x.dtype))
    return [each or dense for each in codes]


@torch.no_grad()
def _entries(
    rows: Tensor, w_enc: Tensor, b_enc: Tensor, touches: Sequence[Touch], kind: torch.dtype
) -> list[tuple[Tensor, Pattern] | None]:
    """The values and places that each touch keeps, None for the dense form."""
    engine = kernels(rows.device.type)
    weights, bias, entries = w_enc.to(kind).T, b_enc.to(kind), []
    for chosen in _choose(lambda: _blocks(rows.to(kind), weights, bias), touches, engine):
        if chosen is None:
            entries.append(None)
            continue
        pattern = Pattern.from_counts(chosen.counts, chosen.indices, len(w_enc), engine)
        exact = chosen.values.dtype == rows.dtype
        values = chosen.values if exact else pattern.dots(rows, w_enc) + b_enc[chosen.indices]
        entries.append((values, pattern))
    return entries


def _blocks(rows: Tensor, weights: Tensor, bias: Tensor) -> Iterator[Tensor]:
    """The product, some rows at a time, each in the place of the last."""
    size = max((BLOCK if rows.dtype.itemsize > 2 else NARROW) // len(bias), LEAST)
    place = rows.new_empty(min(size, len(rows)), len(bias))
    for some in rows.split(size):
        yield torch.addmm(bias, some, weights, out=place[: len(some)])


def _choose(blocks: Callable[[], Iterator[Tensor]], touches: Sequence[Touch], engine: Kernels) -> list[Chosen | None]:
    """What each touch keeps; the product is made again for those that have taken too little."""
    found: list[Chosen | None] = [None] * len(touches)
    left = set(range(len(touches)))
    while left:
        taken: dict[int, list[Chosen]] = {each: [] for each in sorted(left)}
        for pre in blocks():
            for each in list(taken):
                some = touches[each].take(pre, engine)
                if some is None:
                    left.remove(each)
                    del taken[each]
                else:
                    taken[each].append(some)
            if not taken:
                break
        for each, pieces in taken.items():
            found[each] = touches[each].settle(Chosen.in_turn(pieces))
            left -= {each} if found[each] else set()
    return found
