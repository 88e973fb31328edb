"""Fast sweeps: what gradients say that patching a cell would do, for all cells at once.

Attribution patching (Nanda 2023; Syed et al. 2023) takes the gradient of the metric on the run that is patched;
integrated gradients (Sundararajan et al. 2017; Hanna et al. 2024, "Have Faith in Faithfulness", for inputs) average it
over runs between the two prompts' embeddings, one row of a batch each. This module must not know exact patching's runs.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.edits.patching.cells import Cell, by_head, heads_of
from glassworks.edits.patching.exact import Runs, Sweep, last_logits
from glassworks.edits.patching.pair import Pair, Way
from glassworks.errors import BadInput
from glassworks.models import Tap
from glassworks.sites import Site

Method = Literal["attribution", "integrated"]
METHODS: tuple[Method, ...] = get_args(Method)
STEPS = 8
EMBED = Site("embed")


def approximate(
    pair: Pair,
    cells: Sequence[Cell],
    way: Way = "denoising",
    method: Method = "attribution",
    steps: int = STEPS,
) -> Sweep:
    """Estimate what patching each cell alone does: (carried value - own value) . gradient of the metric.

    Args:
        pair: the prompts and the metric.
        cells: what to patch, as `cells` lists them.
        way: `denoising` or `noising`.
        method: `attribution`, or `integrated` gradients.
        steps: how many runs `integrated` averages over.

    Raises:
        BadInput: no cells, another way or method, no steps, or a metric that is the same on both prompts.
    """
    if not cells:
        raise BadInput("There are no cells to patch; name a site, layers and positions.")
    sites = {cell.site for cell in cells}
    runs = Runs(pair, way, sites | {EMBED})
    model, shares = pair.model, between(method, steps)
    live, metric = between_runs(runs, sites, shares)
    gradients = torch.autograd.grad(metric.sum(), [live[site] for site in sites])
    products = {}
    for site, gradient in zip(sites, gradients, strict=True):
        change = (runs.sources[site] - runs.bases[site]) * gradient.mean(0, keepdim=True)
        products[site] = by_head(site, heads_of(model, site.kind), change)[0].flatten(2).sum(-1).cpu().double()
    values = torch.stack([runs.ends[0] + _inside(products[cell.site], cell) for cell in cells])
    return Sweep(pair, way, list(cells), values, *runs.ends, method=method)


def between(method: Method, steps: int) -> Float[Tensor, " step"]:
    """How far from the patched prompt's embeddings to the other's each run lies: at 0, or at the middles of steps."""
    if method not in METHODS:
        raise BadInput(f"Patching is approximated by {' or '.join(METHODS)}; got {method!r}.")
    if steps < 1:
        raise BadInput(f"Gradients are averaged over at least one step; got {steps}.")
    return torch.zeros(1) if method == "attribution" else (torch.arange(steps) + 0.5) / steps


@torch.enable_grad()
def between_runs(
    runs: Runs, sites: Iterable[Site], shares: Float[Tensor, " step"]
) -> tuple[dict[Site, Tensor], Float[Tensor, " step"]]:
    """Run embeddings between the two prompts'; the values at sites, through which gradients flow, and the metric."""
    base, source = runs.bases[EMBED], runs.sources[EMBED]
    mixed = base + shares.to(base)[:, None, None] * (source - base)
    live: dict[Site, Tensor] = {}

    def kept(site: Site) -> Tap:
        def tap(value: Tensor) -> Tensor:
            live[site] = value.clone()
            return live[site]

        return tap

    start = {EMBED: lambda _: mixed.detach().requires_grad_()}
    with runs.model.tapped(start), runs.model.tapped({site: kept(site) for site in sites}):
        logits = last_logits(runs.model, runs.base.expand(len(shares), -1))
    return live, runs.metric(logits)


def _inside(products: Float[Tensor, "token head"], cell: Cell) -> Float[Tensor, ""]:
    chosen = products if cell.position is None else products[cell.position : cell.position + 1]
    return (chosen if cell.head is None else chosen[:, cell.head]).sum()
