"""Scaling: which features an instruct model has that its base model lacks, by latent scaling.

A feature's activations in the tuned model are regressed, one number each, on what each model's coder rebuilds and on
what it leaves over (Minder et al. 2025, arXiv 2504.02922, eq. 4):

    beta(y) = argmin sum |y - beta f d|^2 = sum f <d, y> / (|d|^2 sum f^2)

Where the base model's betas are small against the tuned model's, the feature is new. Where the one of the leftover is
large, the base model has it and its coder missed it; where the one of the rebuilt part is large, it has it in other
features. This module must not know how texts are paired.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassworks.coders import Coder, Crosscoder, Latents, Scope
from glassworks.errors import BadInput, Unsupported
from glassworks.models import Model
from glassworks.sites import Site
from glassworks.transfer.match.dictionary import Dictionary, at_hand, encoded
from glassworks.transfer.match.directions import share_basis
from glassworks.transfer.match.match import LEAST, halves, rows
from glassworks.transfer.match.together import BLOCKS, Interval, draws, ends, interval
from glassworks.transfer.pairing import PairedStates, PairedText, second_site

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
        return [self.record(int(each)) for each in order[:most]]

    def record(self, feature: int) -> dict[str, Any]:
        """One feature's figures."""
        (rebuilt, left), (low, high) = self.ratios[:, feature].tolist(), self.spans[:, :, feature].tolist()
        found = {
            "feature": self.features[feature],
            "label": self.labels[feature],
            "of": "B" if self.owner_b[feature] else "A",
            "rebuilt": [rebuilt, low[REBUILT], high[REBUILT]],
            "leftover": [left, low[LEFT], high[LEFT]],
        }
        return found if self.norms is None else found | {"norm": float(self.norms[feature])}

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
    base = {name: _twin_of(scopes[0], name, coder) for name, coder in dictionary.coders.items()}
    pairs = [each for half in halves(a, b, texts) for each in half]
    ends_ = [site for coder in dictionary.coders.values() for site in (*coder.reads, *coder.writes)]
    sites = list(dict.fromkeys(ends_))
    views = (_views(part, base, dictionary.coders) for part in rows(a, b, pairs, sites, sites))
    return scaled(dictionary, views)


def scale_crosscoder(crosscoder: Crosscoder, a: Model, b: Model, texts: Iterable[PairedText]) -> Scaling:
    """Scale the latents of a crosscoder over two models, and compare the norms of what they write in each.

    Args:
        crosscoder: reads and writes one site of both; B's layers are numbered on after A's, see `both`.
        a: the base model.
        b: the tuned model.
        texts: what both read.

    Raises:
        BadInput: the crosscoder's sites are not the same site of both.
    """
    site, other = sides(crosscoder, a.n_layers)
    pairs = [each for half in halves(a, b, texts) for each in half]
    own = Dictionary({crosscoder.id: crosscoder})
    views = (_joint_view(part, crosscoder, site, other, a.n_layers) for part in rows(a, b, pairs, [site], [site]))
    everything = torch.arange(crosscoder.d_latent)
    first, last = (crosscoder.decoder_rows(everything, each).double().cpu() for each in (site, other))
    return scaled(own, views, (first, last))


def sides(crosscoder: Crosscoder, depth: int) -> tuple[Site, Site]:
    """The site of A that a crosscoder over two models writes, and its name for the same site of B."""
    if len(crosscoder.writes) == 2 and crosscoder.reads == crosscoder.writes:
        site, other = crosscoder.writes
        if other == second_site(site, depth):
            return site, other
    told = ", ".join(each.name for each in (*crosscoder.reads, *crosscoder.writes))
    raise BadInput(
        f"A crosscoder over two models reads and writes one site of both, B's layers numbered on from {depth}; "
        f"this one has {told}."
    )


def norm_difference(a: Float[Tensor, "latent d"], b: Float[Tensor, "latent d"]) -> Float[Tensor, " latent"]:
    """How the norms of two models' directions differ: ((|b| - |a|) / max + 1) / 2 (Lindsey et al. 2024)."""
    one, other = a.norm(dim=1), b.norm(dim=1)
    return ((other - one) / torch.maximum(one, other).clamp(min=TINY) + 1) / 2


@final
@dataclass(frozen=True, eq=False)
class View:
    """What two models show of one coder's features at some tokens.

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
def scaled(
    dictionary: Dictionary,
    parts: Iterable[Iterable[View]],
    directions: tuple[Float[Tensor, "feature d"], Float[Tensor, "feature d"]] | None = None,
) -> Scaling:
    """Regress what two models show on features, in one pass.

    Args:
        dictionary: the features.
        parts: views of all of its coders, part of the text by part.
        directions: what each feature writes in A and in B, where a crosscoder has both; else B's coder says it.
    """
    sums, written = _Sums(dictionary.width), _written(dictionary, directions)
    for views in parts:
        for view in views:
            start = dictionary.starts[dictionary.names.index(view.name)]
            sums.add(view, start, written[view.name])
    own = _own(dictionary, written)
    owner = torch.cat([each.owner for each in written.values()])
    weights = draws(sums.rows)
    squares = (weights @ sums.squares) * torch.cat([each.size for each in written.values()])
    betas = torch.stack(
        [torch.stack([(weights @ each) / squares.clamp(min=TINY) for each in side]) for side in sums.hits]
    )
    betas[:, LEFT] += own[:, None]
    first, other = torch.where(owner, betas[1], betas[0]), torch.where(owner, betas[0], betas[1])
    ratios = other / torch.where(first.abs() > 1e-9, first, torch.nan)
    ratios = ratios.nan_to_num(0.0, 0.0, 0.0)
    alive = sums.counts >= LEAST
    new = (ratios[REBUILT] < MOST[REBUILT]) & (ratios[LEFT] < MOST[LEFT])
    mine = alive & owner
    return Scaling(
        features=tuple(dictionary.name(each) for each in range(dictionary.width)),
        labels=tuple(dictionary.label(each) for each in range(dictionary.width)),
        owner_b=owner,
        alive=alive,
        betas=betas[:, :, 0].float(),
        ratios=ratios[:, 0].float(),
        spans=torch.stack([torch.stack(each) for each in zip(*(ends(part) for part in ratios), strict=True)]).float(),
        norms=None if directions is None else norm_difference(*directions).float(),
        new=new[0],
        share=interval(new[:, mine].double().mean(1), 0, 1) if mine.any() else (0.0, 0.0, 0.0),
    )


@final
@dataclass(frozen=True, eq=False)
class _Written:
    """What a coder's features write: the owner's direction, its squared norm, and its product with each model's own."""

    rows: Float[Tensor, "feature d"]
    size: Float[Tensor, " feature"]
    own: Float[Tensor, "model feature"]
    owner: Bool[Tensor, " feature"]


def _written(dictionary: Dictionary, directions: tuple[Tensor, Tensor] | None) -> dict[str, _Written]:
    found = {}
    for name, coder in dictionary.coders.items():
        if directions is None:
            b = coder.decoder_rows(torch.arange(coder.d_latent), coder.writes[0]).double().cpu()
            a, owner = torch.zeros_like(b), torch.ones(len(b), dtype=torch.bool)
        else:
            a, b = directions
            owner = b.norm(dim=1) >= a.norm(dim=1)
        rows_ = torch.where(owner[:, None], b, a)
        size = rows_.square().sum(1)
        own = torch.stack([(rows_ * each).sum(1) for each in (a, b)]) / size.clamp(min=TINY)
        found[name] = _Written(rows_, size, own, owner)
    return found


def _own(dictionary: Dictionary, written: Mapping[str, _Written]) -> Float[Tensor, "model feature"]:
    """What a feature's own part adds to the betas of the leftover: it is left over when the feature is taken out."""
    return torch.cat([written[name].own for name in dictionary.names], 1)


@final
class _Sums:
    """Sums of features' products with what models show, by block of text."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.rows = torch.zeros(BLOCKS, dtype=torch.float64)
        self.counts = torch.zeros(width, dtype=torch.long)
        self.squares = torch.zeros(BLOCKS, width, dtype=torch.float64)
        self.hits = [[torch.zeros(BLOCKS, width, dtype=torch.float64) for _ in range(2)] for _ in range(2)]

    def add(self, view: View, start: int, written: _Written) -> None:
        latents, blocks = at_hand(view.latents), view.documents % BLOCKS
        self.rows += torch.bincount(blocks, minlength=BLOCKS)
        index, values = latents.indices + start, latents.values.double()
        self.counts += torch.bincount(index, minlength=self.width)
        place = blocks[latents.positions] * self.width + index
        self.squares.view(-1).index_add_(0, place, values * values)
        for model in range(2):
            for part, shown in ((REBUILT, view.rebuilt[model]), (LEFT, view.left[model])):
                along = (written.rows[latents.indices] * shown.cpu().double()[latents.positions]).sum(1)
                self.hits[model][part].view(-1).index_add_(0, place, values * along)


def _twin_of(scope: Scope, name: str, coder: Coder) -> Coder:
    """The base model's coder between the same sites, or the tuned model's itself."""
    found = scope.coders.get(name, coder)
    return found if (found.reads, found.writes) == (coder.reads, coder.writes) else coder


def _views(part: PairedStates, base: Mapping[str, Coder], tuned: Mapping[str, Coder]) -> Iterator[View]:
    for name, coder in tuned.items():
        write = coder.writes[0]
        latents = encoded(coder, part.b)
        shown = [_rebuilt(each, values) for each, values in ((base[name], part.a), (coder, part.b))]
        left = [
            values[write.name].float() - each - bias
            for values, (each, bias) in zip((part.a, part.b), shown, strict=True)
        ]
        yield View(name, latents, (shown[0][0], shown[1][0]), (left[0], left[1]), part.documents)


def _rebuilt(coder: Coder, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What a coder rebuilds without its constant part, and the constant."""
    write = coder.writes[0]
    bias, skip = coder.bias(write).float(), coder.skip(write)
    rebuilt = coder.decode(encoded(coder, values), write) - bias
    return rebuilt if skip is None else rebuilt + values[coder.reads[0].name].float() @ skip.float(), bias


def _joint_view(part: PairedStates, crosscoder: Crosscoder, site: Site, other: Site, depth: int) -> list[View]:
    values = {site.name: part.a[site.name].float(), other.name: part.b[site.name].float()}
    latents = crosscoder.encode(values)
    rebuilt = [crosscoder.decode(latents, each) - crosscoder.bias(each) for each in (site, other)]
    left = [
        values[each.name] - crosscoder.bias(each) - found for each, found in zip((site, other), rebuilt, strict=True)
    ]
    return [View(crosscoder.id, latents, (rebuilt[0], rebuilt[1]), (left[0], left[1]), part.documents)]
