"""Sparse selection: what one encoder matrix makes of a batch, kept only where a loss looks, with gradients.

Of tokens x latents pre-activations nearly all are of no account to a loss. Only the encoder product must be dense;
everything after it works on the entries that a `Selector` keeps. A loss term is written once, for entries: in the
dense form they are a matrix (token, latent), in the sparse form a list.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from glassworks.coders import Latents
from glassworks.train.kernels import Kernels, Pattern, kept, kernels, total

SAMPLED = 17
"""One in so many entries is sampled; prime, so that all latents take part."""
MARGIN = 0.9
"""The next batch's cut is searched from this share of the last one's."""
BLOCK, NARROW = 1 << 24, 1 << 22
"""About so many pre-activations stand in memory at a time. A float32 product packs the weights anew for each block, so
there should be few (64 MB each); one in fewer bits gains more from what the cache still has (8 MB)."""
LEAST = 128
"""Fewer rows would not keep a matrix product busy."""


@final
class Entries(NamedTuple):
    """Entries of some tokens.

    Attributes:
        counts: how many each token has.
        indices: the latent of each, ascending within a token.
        values: its pre-activation, in the precision of the product.
    """

    counts: Int[Tensor, " token"]
    indices: Int[Tensor, " entry"]
    values: Float[Tensor, " entry"]


class Selector(ABC):
    """Says which entries of the pre-activations are kept."""

    @abstractmethod
    def select(self, pre: Float[Tensor, "token latent"], kernels: Kernels) -> Entries | None:
        """The entries to keep of some of the batch's tokens, or None to ask for the dense form.

        Args:
            pre: their pre-activations.
            kernels: what chooses.
        """

    def finish(self, entries: Entries) -> Entries | None:
        """The entries to keep of the whole batch, or None where too few were selected and it must be seen again.

        Args:
            entries: what was selected, all tokens in order.
        """
        return entries


@final
@dataclass(frozen=True, eq=False)
class Everything(Selector):
    """Every entry: the dense form."""

    def select(self, pre: Float[Tensor, "token latent"], kernels: Kernels) -> Entries | None:
        """None, always."""
        return None


@final
@dataclass(frozen=True, eq=False)
class Largest(Selector):
    """The k largest of each token, also where they are negative (TopK; AuxK among dead latents).

    Attributes:
        k: how many per token; fewer where fewer latents take part.
        among: which latents take part; all by default.
    """

    k: int
    among: Bool[Tensor, " latent"] | None = None

    def select(self, pre: Float[Tensor, "token latent"], kernels: Kernels) -> Entries | None:
        """Those of each token."""
        if self.among is None:
            indices = kernels.largest(pre, min(self.k, pre.shape[1]))
        else:
            able = self.among.nonzero().squeeze(1)
            indices = able[kernels.largest(pre[:, able], min(self.k, len(able)))]
        counts = torch.full((len(pre),), indices.shape[1], device=pre.device)
        return Entries(counts, indices.flatten(), pre.gather(1, indices).flatten())


@final
@dataclass(eq=False)
class LastCut:
    """The smallest entry that the last batch kept: the next batch's is not far, so only what lies near must be ranked.

    The selection is exact whatever is remembered here, so it need not be saved with a training.

    Attributes:
        value: candidates lie above it; None where it must be estimated from a sample.
        slack: which share of a sample's cut is low enough for sure.
    """

    value: float | None = None
    slack: float = MARGIN


@final
@dataclass(frozen=True, eq=False)
class LargestOfBatch(Selector):
    """The k * tokens largest of the batch that are positive, ties kept (BatchTopK).

    Attributes:
        k: how many per token on average.
        cut: remembered between batches.
    """

    k: int | float
    cut: LastCut = field(default_factory=LastCut)

    def select(self, pre: Float[Tensor, "token latent"], kernels: Kernels) -> Entries | None:
        """Candidates: those above the last batch's cut, with a margin."""
        if self.cut.value is None:
            sample = pre.flatten()[::SAMPLED].float()
            share = min(self.k / pre.shape[1], 1.0)
            least = sample.topk(max(round(share * len(sample)), 1)).values[-1]
            self.cut.value = max(0.0, float(least) * self.cut.slack)
        return _above(pre, torch.full_like(pre[0], self.cut.value, dtype=torch.float32), kernels)

    def finish(self, entries: Entries) -> Entries | None:
        """The largest of the candidates; None where they are too few and a lower cut could give more."""
        cut, wanted = self.cut, max(round(self.k * len(entries.counts)), 1)
        surplus = len(entries.values) - wanted
        if surplus < 0 and (cut.value or 0.0) > 0.0:
            cut.value, cut.slack = None, cut.slack / 2 if cut.slack > 0.1 else 0.0
            return None
        values = entries.values.float()
        least = values.kthvalue(max(surplus, 0) + 1).values if len(values) else values.new_zeros(())
        cut.value, cut.slack = (float(least) * MARGIN if surplus >= 0 else None), MARGIN
        large = values >= least
        tokens = torch.repeat_interleave(entries.counts, output_size=len(large))[large]
        counts = torch.bincount(tokens, minlength=len(entries.counts))
        return Entries(counts, entries.indices[large], entries.values[large])


@final
@dataclass(frozen=True, eq=False)
class Above(Selector):
    """Those above a floor of their latent: for JumpReLU its threshold less half the kernel's width.

    Where more than `most` of the entries lie above, the dense form is the faster one and comes instead; there
    entries below the floor are present too, so a loss must apply its own threshold in both.

    Attributes:
        floor: of each latent; infinite for one that takes no part.
        most: the largest density for which the sparse form pays.
    """

    floor: Float[Tensor, " latent"]
    most: float = 0.12

    def select(self, pre: Float[Tensor, "token latent"], kernels: Kernels) -> Entries | None:
        """Those of each token."""
        entries = _above(pre, self.floor.detach(), kernels)
        return entries if len(entries.indices) <= self.most * pre.numel() else None


def _above(pre: Tensor, floor: Tensor, kernels: Kernels) -> Entries:
    counts, indices = kernels.above(pre, floor)
    tokens = torch.repeat_interleave(counts, output_size=len(indices))
    return Entries(counts, indices, pre[tokens, indices])


@final
class Selected:
    """The selected pre-activations of a batch, in the dense form or in the sparse.

    "Entries" below are tensors that broadcast against `pre`: (token, latent) in the dense form, (entry,) in the sparse.

    Args:
        pre: all pre-activations as a matrix, or some as a list in the order of tokens, and of latents within a token;
            gradients flow to the encoder.
        pattern: where the entries of the list are: tokens are its bags, latents its rows; none for the matrix.
    """

    def __init__(self, pre: Float[Tensor, "*entry"], pattern: Pattern | None = None) -> None:
        self.pre, self.pattern = pre, pattern
        self.tokens, self.d_latent = pre.shape if pattern is None else (pattern.bags, pattern.rows)

    def of_latent(self, values: Float[Tensor, " latent"]) -> Tensor:
        """A number per latent, as entries; gradients flow back."""
        return values[None] if self.pattern is None else values.index_select(0, self.pattern.indices)

    def by_token(self, values: Tensor) -> Float[Tensor, " token"]:
        """Entries summed over each token."""
        if self.pattern is None:
            return values.expand_as(self.pre).sum(1)
        return values.new_zeros(self.tokens).index_add(0, self.pattern.positions, values)

    def by_latent(self, values: Tensor) -> Float[Tensor, " latent"]:
        """Entries summed over each latent."""
        if self.pattern is None:
            return values.expand_as(self.pre).sum(0)
        return values.new_zeros(self.d_latent).index_add(0, self.pattern.indices, values)

    def decode(self, values: Tensor, w_dec: Float[Tensor, "latent d_out"]) -> Float[Tensor, "token d_out"]:
        """Decoder rows of all latents summed with entries as weights; arguments as for `decode_prefixes`."""
        return self.decode_prefixes(values, w_dec, (self.d_latent,))[0]

    def decode_prefixes(
        self, values: Tensor, w_dec: Float[Tensor, "latent d_out"], widths: Sequence[int]
    ) -> Float[Tensor, "prefix token d_out"]:
        """Decoder rows summed with entries as weights, once for each prefix of the latents (Matryoshka).

        In both forms each row is added once, in the run between two widths where its latent lies; the runs are added
        up.

        Args:
            values: entries; gradients flow to them and to the decoder.
            w_dec: one row per latent.
            widths: ascending; each prefix is the latents below.
        """
        if self.pattern is None:
            bounds = list(zip((0, *widths), widths, strict=False))
            return torch.stack([values[:, start:stop] @ w_dec[start:stop] for start, stop in bounds]).cumsum(0)
        if tuple(widths) == (self.d_latent,):
            return total(values, w_dec, self.pattern)[None]
        ends = [*widths, self.d_latent]
        runs = total(values, w_dec, self.pattern.split(ends)).unflatten(0, (self.tokens, len(ends)))
        return runs.cumsum(1)[:, :-1].transpose(0, 1)

    def latents(self, values: Tensor) -> Latents:
        """The entries that are positive, detached."""
        active = values > 0
        if self.pattern is None:
            return Latents.from_dense(values.detach(), active)
        places = self.pattern.positions[active], self.pattern.indices[active]
        return Latents(*places, values.detach()[active], (self.tokens, self.d_latent))


def encode(
    x: Float[Tensor, "token d_in"],
    w_enc: Float[Tensor, "latent d_in"],
    b_enc: Float[Tensor, " latent"],
    selectors: Sequence[Selector],
    products: torch.dtype = torch.float32,
    centre: Float[Tensor, " d_in"] | None = None,
) -> list[Selected]:
    """Pre-activations (x - centre) @ w_enc.T + b_enc, of the entries that each selector keeps.

    Gradients flow to whatever asks for one. One product serves all selectors; it is made some rows at a time.

    Args:
        x: rows of activations.
        w_enc: the encoder, one row per latent.
        b_enc: its bias.
        selectors: which entries to keep; there is one result for each.
        products: bfloat16 selects the entries by a product in bfloat16 and computes those that are kept anew,
            exactly; the dense form is left as that product gives it.
        centre: subtracted from every row.
    """
    rows = x if centre is None else x - centre
    dtype = x.dtype if products is torch.float32 else products
    engine, sparse = kernels(rows.device.type), list[tuple[Tensor, Pattern] | None]()
    with torch.no_grad():
        for entries in _select(rows.to(dtype), w_enc.to(dtype).T, b_enc.to(dtype), selectors, engine):
            if entries is None:
                sparse.append(None)
                continue
            pattern = Pattern.from_counts(entries.counts, entries.indices, len(w_enc), engine)
            exact = entries.values.dtype == rows.dtype
            values = entries.values if exact else pattern.dots(rows, w_enc) + b_enc[entries.indices]
            sparse.append((values, pattern))
    values = iter(kept(x, w_enc, b_enc, centre, [pair for pair in sparse if pair]))
    selected = [Selected(next(values), pair[1]) if pair else None for pair in sparse]
    if None not in selected:
        return [its for its in selected if its]
    dense = Selected(functional.linear(rows.to(dtype), w_enc.to(dtype), b_enc.to(dtype)).to(x.dtype))
    return [its or dense for its in selected]


def _select(
    rows: Tensor, weights: Tensor, bias: Tensor, selectors: Sequence[Selector], engine: Kernels
) -> list[Entries | None]:
    """What each selector keeps; the product is made again for those that have selected too little."""
    size = max((BLOCK if rows.dtype.itemsize > 2 else NARROW) // len(bias), LEAST)

    def blocks() -> Iterator[Tensor]:
        """The product, some rows at a time, each in the place of the last."""
        place = rows.new_empty(min(size, len(rows)), len(bias))
        for some in rows.split(size):
            yield torch.addmm(bias, some, weights, out=place[: len(some)])

    results: list[Entries | None] = [None] * len(selectors)
    left = set(range(len(selectors)))
    while left:
        pieces: dict[int, list[Entries]] = {number: [] for number in sorted(left)}
        for pre in blocks():
            for number in list(pieces):
                entries = selectors[number].select(pre, engine)
                if entries is None:
                    left.remove(number)
                    del pieces[number]
                else:
                    pieces[number].append(entries)
            if not pieces:
                break
        for number, its in pieces.items():
            whole = Entries(*(torch.cat(columns) for columns in zip(*its, strict=True)))
            results[number] = selectors[number].finish(whole)
            left -= {number} if results[number] else set()
    return results
