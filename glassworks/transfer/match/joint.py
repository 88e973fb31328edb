"""Joint: the states of two models at one site as one recording, which a crosscoder over both is trained on.

Sites have no model in their names, so model B's layers are numbered on after A's: with A of 4 layers, `resid_post.6`
is B's `resid_post.2`. This module must not know coders.
"""

from collections.abc import Iterable, Sequence

import torch

from glassworks.errors import BadInput
from glassworks.harvest import Recording
from glassworks.models import Model
from glassworks.sites import Site
from glassworks.transfer.pairing import Paired, pair, states


def second(site: Site, depth: int) -> Site:
    """The name of model B's site in a recording of two models; BadInput where it has no layer.

    Args:
        site: as B calls it.
        depth: how many layers A has.
    """
    if site.layer is None:
        raise BadInput(f"The site {site} has no layer, so two models' cannot be told apart; choose another.")
    return Site(site.kind, site.layer + depth)


@torch.no_grad()
def both(a: Model, b: Model, texts: Iterable[Paired], sites: Sequence[str | Site]) -> Recording:
    """Record the same sites of two models, token by token.

    Args:
        a: a model.
        b: another.
        texts: what both read.
        sites: of both; B's are named by `second`.
    """
    places = [Site.parse(each) for each in sites]
    pairs = pair(a, b, texts)
    found = list(states(a, b, pairs, places, places))
    values = {site.name: torch.cat([part.a[site.name].float().cpu() for part in found]) for site in places}
    values |= {
        second(site, a.n_layers).name: torch.cat([part.b[site.name].float().cpu() for part in found]) for site in places
    }
    documents, at = (torch.cat([getattr(part, name) for part in found]) for name in ("documents", "at_a"))
    tokens = {each.document: each.tokens_a for each in pairs}
    ids = [tokens[document][place] for document, place in zip(documents.tolist(), at.tolist(), strict=True)]
    return Recording(torch.tensor(ids), documents, at, values)
