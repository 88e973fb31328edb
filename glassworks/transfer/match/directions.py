"""Directions: whether partners write the same, seen through the maps of a bridge, or in a basis that two models share.

That features are active together says what they detect, not what they do. So the direction that a feature writes is
carried into the other model, and its cosine with the partner's is ranked among all features of the partner's coder.
This module must not know how partners were found.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from glassworks.coders import Coder
from glassworks.errors import NotFound
from glassworks.models import Model
from glassworks.sites import Site
from glassworks.transfer.bridge import Bridge
from glassworks.transfer.match.sought import Sought
from glassworks.transfer.match.together import Interval, draws, interval

STREAMS = {"attn_out": "resid_mid", "mlp_out": "resid_post"}
"""Where what is written lies afterwards, by the kind of the site that is written."""
SAME = 0.9
"""Mean cosine of two models' token embeddings from which they share a basis."""

Carry = Callable[[Site, Site], Callable[[Tensor], Tensor] | None]
"""How directions go from a site of A to one of B; None where nothing is known of the two."""


@final
@dataclass(frozen=True, eq=False)
class Written:
    """What features and their partners write.

    Attributes:
        cosine: of each feature's carried direction with its partner's; NaN where it is not known.
        rank: share of the features of the partner's coder whose cosine is lower; 0.5 is chance.
        mean: mean cosine of the features that were found.
        mean_rank: their mean rank.
        chance: mean cosine of the same features with all features of their partners' coders.
    """

    cosine: Float[Tensor, " feature"]
    rank: Float[Tensor, " feature"]
    mean: Interval
    mean_rank: Interval
    chance: float

    def plain(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {name: value for name, value in asdict(self).items() if name in ("mean", "mean_rank", "chance")}


def stream(site: Site) -> Site:
    """The stream that a site's values are part of, or the site itself."""
    return Site(STREAMS.get(site.kind, site.kind), site.layer)


def over(bridge: Bridge) -> Carry:
    """Directions go over a bridge, from stream to stream."""

    def carry(source: Site, target: Site) -> Callable[[Tensor], Tensor] | None:
        try:
            return bridge.up(stream(source), stream(target)).push
        except NotFound:
            return None

    return carry


def unchanged(source: Site, target: Site) -> Callable[[Tensor], Tensor] | None:
    """Directions stay as they are, for models that share a basis and for layers of one model."""
    return torch.Tensor.clone


def share_basis(a: Model, b: Model) -> bool:
    """Whether one model was trained on from the other: their token embeddings still point the same way."""
    one, other = (_embeddings(model) for model in (a, b))
    return one.shape == other.shape and float(functional.cosine_similarity(one, other).mean()) > SAME


@torch.no_grad()
def written(found: Sought, carry: Carry) -> Written:
    """Compare what features write with what their partners write.

    Args:
        found: features and partners.
        carry: how directions get from the features' model to the partners'.
    """
    cosine, rank, level = torch.full((3, found.home.width), torch.nan)
    known = found.alive & (found.partner >= 0)
    place = found.other.home[found.partner.clamp(min=0)]
    for number, coder in enumerate(found.home.coders.values()):
        for where, other in enumerate(found.other.coders.values()):
            mine = (known & (found.home.home == number) & (place == where)).nonzero()[:, 0]
            push = carry(coder.writes[0], other.writes[0])
            if push is None or not len(mine):
                continue
            rows = functional.normalize(push(_rows(coder, mine - found.home.starts[number])), dim=1)
            alike = rows @ functional.normalize(_rows(other, torch.arange(other.d_latent)), dim=1).T
            own = alike.gather(1, (found.partner[mine] - found.other.starts[where])[:, None])
            cosine[mine], rank[mine], level[mine] = own[:, 0], (alike < own).float().mean(1), alike.mean(1)
    there = found.found & cosine.isfinite()
    return Written(cosine, rank, _mean(cosine[there]), _mean(rank[there]), _mean(level[there])[0])


def _embeddings(model: Model) -> Float[Tensor, "vocab d_model"]:
    table = model.hf.get_input_embeddings()
    assert isinstance(table, torch.nn.Embedding)
    return table.weight.detach().float()


def _rows(coder: Coder, indices: Tensor) -> Float[Tensor, "k d"]:
    return coder.decoder_rows(indices, coder.writes[0]).float().cpu()


def _mean(values: Float[Tensor, " n"]) -> Interval:
    """Mean over features, with its interval over features drawn anew; 0 where there are none."""
    if not len(values):
        return 0.0, 0.0, 0.0
    weights = draws(torch.ones(len(values)))
    return interval((weights @ values.double()) / weights.sum(1))
