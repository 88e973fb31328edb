"""Scaling: which features an instruct model has that its base model lacks, by latent scaling.

A feature's activations in the tuned model are regressed, one number each, on what each model's coder rebuilds and on
what it leaves over (Minder et al. 2025, arXiv 2504.02922, eq. 4):

    beta(y) = argmin sum |y - beta f d|^2 = sum f <d, y> / (|d|^2 sum f^2)

Where the base model's betas are small against the tuned model's, the feature is new. Where the one of the leftover is
large, the base model has it and its coder missed it; where the one of the rebuilt part is large, it has it in other
features.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassworks.coders import Coder, Crosscoder, Latents, Scope
from glassworks.errors import BadInput, Unsupported
from glassworks.models import Model
from glassworks.sites import Site
from glassworks.transfer.coactivation import BLOCKS, Interval, block_draws, ends, interval
from glassworks.transfer.dictionary import Dictionary, encode, on_cpu
from glassworks.transfer.match import LEAST, rows, text_halves
from glassworks.transfer.pairing import PairedText, second_site
from glassworks.transfer.partners import share_basis

REBUILT, LEFT = 0, 1
MOST = (0.5, 0.2)
"""Ratios of the rebuilt part and of the leftover below which a feature counts as new."""
TINY = 1e-30


@final
@dataclass(frozen=True, eq=False)
class Scaling:
    """Betas of features in two models.

    Attributes:
        features: how each is written, `mlp_in.2/17`.
        labels: their labels.
        owner_b: whether B owns the feature (it always does unless a crosscoder was given): ratios are of the other
            model's betas to the owner's.
        alive: which were active often enough.
        betas: of model A and B; of the rebuilt part and of the leftover, the feature's own part counted with it.
        ratios: of the rebuilt part and of the leftover (nu^r and nu^epsilon in the paper).
        spans: the ends of their 95 % intervals.
        norms: of a crosscoder, how the norms of what is written differ: 0 is A alone, 1/2 both alike, 1 B alone.
        new: which features only the owner has: both ratios are below `MOST`.
        share: share of the alive features of B that are new.
    """

    features: tuple[str, ...]
    labels: tuple[str, ...]
    owner_b: Bool[Tensor, " feature"]
    alive: Bool[Tensor, " feature"]
    betas: Float[Tensor, "model part feature"]
    ratios: Float[Tensor, "part feature"]
    spans: Float[Tensor, "2 part feature"]
    norms: Float[Tensor, " feature"] | None
    new: Bool[Tensor, " feature"]
    share: Interval

    def records(self, most: int | None = None, new: bool = True) -> list[dict[str, Any]]:
        """Features as records: those that only their owner has, the clearest first, or the others."""
        chosen = (self.alive & (self.new if new else ~self.new)).nonzero()[:, 0]
        order = chosen[self.ratios.abs().sum(0)[chosen].argsort(descending=not new, stable=True)]
        rows = []
        for feature in order[:most].tolist():
            (rebuilt, left), (low, high) = self.ratios[:, feature].tolist(), self.spans[:, :, feature].tolist()
            row = {
                "feature": self.features[feature],
                "label": self.labels[feature],
                "of": "B" if self.owner_b[feature] else "A",
                "rebuilt": [rebuilt, low[REBUILT], high[REBUILT]],
                "leftover": [left, low[LEFT], high[LEFT]],
            }
            rows.append(row if self.norms is None else row | {"norm": float(self.norms[feature])})
        return rows

    def plain(self, most: int = 50) -> dict[str, Any]:
        """The figures as JSON values."""
        medians = self.ratios[:, self.alive].median(1).values.tolist() if self.alive.any() else [0.0, 0.0]
        return {
            "alive": int(self.alive.sum()),
            "new": int((self.alive & self.new).sum()),
            "share": self.share,
            "median_rebuilt": medians[REBUILT],
            "median_leftover": medians[LEFT],
            "features": self.records(most),
        }


def scale_features(
    a: Model, b: Model, scopes: tuple[Scope, Scope], texts: Iterable[PairedText], chosen: str = ""
) -> Scaling:
    """Scale the features of a tuned model's coders in its base model.

    Args:
        a: the base model.
        b: the model that was trained on from it.
        scopes: coders of the base model, and of the tuned one; where the base model's has none of a name, the tuned
            model's coder reads it.
        texts: what both read.
        chosen: which coders of B; see `Dictionary.of`.

    Raises:
        BadInput: the models do not share a basis.
        Unsupported: a coder rebuilds a site together with others.
    """
    if not share_basis(a, b):
        raise BadInput(f"{a.name} and {b.name} do not share a basis, so one was not trained on from the other.")
    dictionary = Dictionary.of(scopes[1], chosen)
    joint = [name for name, coder in dictionary.coders.items() if len(coder.writes) > 1 or name not in scopes[1].coders]
    if joint:
        raise Unsupported(f"Latent scaling needs coders that rebuild a site alone; {joint[0]} does not.")
    base: dict[str, Coder] = {}
    for name, coder in dictionary.coders.items():
        twin = scopes[0].coders.get(name, coder)
        base[name] = twin if (twin.reads, twin.writes) == (coder.reads, coder.writes) else coder
    sites = list(dict.fromkeys(site for coder in dictionary.coders.values() for site in (*coder.reads, *coder.writes)))

    def split(coder: Coder, values: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What a coder rebuilds without its constant part, and what is left over of its site."""
        write, bias = coder.writes[0], coder.bias(coder.writes[0]).float()
        rebuilt = coder.reconstruct(encode(coder, values), values[coder.reads[0].name].float(), write) - bias
        return rebuilt, values[write.name].float() - rebuilt - bias

    def views() -> Iterator[View]:
        pairs = [text for half in text_halves(a, b, texts) for text in half]
        for part in rows(a, b, pairs, sites, sites):
            for name, coder in dictionary.coders.items():
                (rebuilt_a, left_a), (rebuilt_b, left_b) = split(base[name], part.a), split(coder, part.b)
                latents = encode(coder, part.b)
                yield View(name, latents, (rebuilt_a, rebuilt_b), (left_a, left_b), part.documents)

    return scale_views(dictionary, views())


def scale_crosscoder(crosscoder: Crosscoder, a: Model, b: Model, texts: Iterable[PairedText]) -> Scaling:
    """Scale the latents of a crosscoder over two models, and compare the norms of what they write in each.

    Args:
        crosscoder: reads and writes one site of both; B's layers are numbered on after A's, see `second_site`.
        a: the base model.
        b: the tuned model.
        texts: what both read.

    Raises:
        BadInput: the crosscoder's sites are not the same site of both.
    """
    site, other = crosscoder_sites(crosscoder, a.n_layers)

    def views() -> Iterator[View]:
        pairs = [text for half in text_halves(a, b, texts) for text in half]
        for part in rows(a, b, pairs, [site], [site]):
            values = {site.name: part.a[site.name].float(), other.name: part.b[site.name].float()}
            latents, rebuilt, left = crosscoder.encode(values), [], []
            for end in (site, other):
                bias = crosscoder.bias(end)
                rebuilt.append(crosscoder.decode(latents, end) - bias)
                left.append(values[end.name] - bias - rebuilt[-1])
            yield View(crosscoder.id, latents, (rebuilt[0], rebuilt[1]), (left[0], left[1]), part.documents)

    everything = torch.arange(crosscoder.d_latent)
    first, last = (crosscoder.decoder_rows(everything, end).double().cpu() for end in (site, other))
    return scale_views(Dictionary({crosscoder.id: crosscoder}), views(), (first, last))


def crosscoder_sites(crosscoder: Crosscoder, depth: int) -> tuple[Site, Site]:
    """The site of A that a crosscoder over two models writes, and its name for the same site of B."""
    if len(crosscoder.writes) == 2 and crosscoder.reads == crosscoder.writes:
        site, other = crosscoder.writes
        if other == second_site(site, depth):
            return site, other
    names = ", ".join(site.name for site in (*crosscoder.reads, *crosscoder.writes))
    raise BadInput(
        f"A crosscoder over two models reads and writes one site of both, B's layers numbered on from {depth}; "
        f"this one has {names}."
    )


def norm_difference(a: Float[Tensor, "latent d"], b: Float[Tensor, "latent d"]) -> Float[Tensor, " latent"]:
    """How the norms of two models' directions differ: ((|b| - |a|) / max + 1) / 2 (Lindsey et al. 2024)."""
    one, other = a.norm(dim=1), b.norm(dim=1)
    return ((other - one) / torch.maximum(one, other).clamp(min=TINY) + 1) / 2


@final
@dataclass(frozen=True, eq=False)
class View:
    """One coder's features at some tokens, with what each model's coder rebuilds there and what it leaves over.

    Attributes:
        name: the coder's.
        latents: the features' activations.
        rebuilt: what is rebuilt in A and in B, without the constant part.
        left: what is left over in A and in B.
        documents: number of each token's text.
    """

    name: str
    latents: Latents
    rebuilt: tuple[Float[Tensor, "row d"], Float[Tensor, "row d"]]
    left: tuple[Float[Tensor, "row d"], Float[Tensor, "row d"]]
    documents: Int[Tensor, " row"]


@torch.no_grad()
def scale_views(
    dictionary: Dictionary,
    views: Iterable[View],
    directions: tuple[Float[Tensor, "feature d"], Float[Tensor, "feature d"]] | None = None,
) -> Scaling:
    """Regress the rebuilt parts and leftovers of two models on features, in one pass.

    Args:
        dictionary: the features.
        views: of all of its coders, part of the text by part.
        directions: what each feature writes in A and in B, where a crosscoder has both; else B's coder gives it.
    """
    # What each feature writes in its owner, its squared norm, and its product with what either model's own part writes.
    written: dict[str, Tensor] = {}
    sizes, own, owners = [], [], []
    for name, coder in dictionary.coders.items():
        if directions is None:
            b = coder.decoder_rows(torch.arange(coder.d_latent), coder.writes[0]).double().cpu()
            a, owner = torch.zeros_like(b), torch.ones(len(b), dtype=torch.bool)
        else:
            a, b = directions
            owner = b.norm(dim=1) >= a.norm(dim=1)
        written[name] = torch.where(owner[:, None], b, a)
        owners.append(owner)
        sizes.append(written[name].square().sum(1))
        own.append(torch.stack([(written[name] * side).sum(1) for side in (a, b)]) / sizes[-1].clamp(min=TINY))
    owner = torch.cat(owners)

    width = dictionary.width
    tokens, counts = torch.zeros(BLOCKS, dtype=torch.float64), torch.zeros(width, dtype=torch.long)
    squares = torch.zeros(BLOCKS, width, dtype=torch.float64)
    products = torch.zeros(2, 2, BLOCKS, width, dtype=torch.float64)  # by model, and rebuilt part or leftover
    for view in views:
        latents, blocks = on_cpu(view.latents), view.documents % BLOCKS
        tokens += torch.bincount(blocks, minlength=BLOCKS)
        index, values = latents.indices + dictionary.starts[dictionary.names.index(view.name)], latents.values.double()
        counts += torch.bincount(index, minlength=width)
        place = blocks[latents.positions] * width + index
        squares.view(-1).index_add_(0, place, values * values)
        rows_ = written[view.name][latents.indices]
        for model in range(2):
            for part, states in ((REBUILT, view.rebuilt[model]), (LEFT, view.left[model])):
                along = (rows_ * states.cpu().double()[latents.positions]).sum(1)
                products[model, part].view(-1).index_add_(0, place, values * along)

    weights = block_draws(tokens)
    betas = (weights @ products) / ((weights @ squares) * torch.cat(sizes)).clamp(min=TINY)
    betas[:, LEFT] += torch.cat(own, 1)[:, None]  # a feature's own part is left over when the feature is taken out
    first, other = torch.where(owner, betas[1], betas[0]), torch.where(owner, betas[0], betas[1])
    ratios = (other / torch.where(first.abs() > 1e-9, first, torch.nan)).nan_to_num(0.0, 0.0, 0.0)
    alive = counts >= LEAST
    new = (ratios[REBUILT] < MOST[REBUILT]) & (ratios[LEFT] < MOST[LEFT])
    mine = alive & owner
    return Scaling(
        features=tuple(dictionary.name(feature) for feature in range(width)),
        labels=tuple(dictionary.label(feature) for feature in range(width)),
        owner_b=owner,
        alive=alive,
        betas=betas[:, :, 0].float(),
        ratios=ratios[:, 0].float(),
        spans=torch.stack([torch.stack(span) for span in zip(*map(ends, ratios), strict=True)]).float(),
        norms=None if directions is None else norm_difference(*directions).float(),
        new=new[0],
        share=interval(new[:, mine].double().mean(1), 0, 1) if mine.any() else (0.0, 0.0, 0.0),
    )
