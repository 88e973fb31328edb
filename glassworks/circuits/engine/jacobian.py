"""Approximate edges, for autoencoders on the residual stream or on MLP outputs: by the model's own derivatives.

Such features are read before a nonlinear block and written behind it, so no exact linear edge joins them. Instead,
every activation that a coder reconstructs is cut there into features and an error, and an edge is the derivative of a
target along a source's vector through the true blocks between them, everything live: a local picture, good for small
changes. Rows need not sum up to values.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassworks.circuits.engine.freeze import Captured
from glassworks.circuits.engine.linear import Targets, Writes
from glassworks.circuits.engine.sources import Sources, encode, layer_of, part_of
from glassworks.circuits.nodes import PARTS
from glassworks.coders import Coder
from glassworks.errors import Unsupported
from glassworks.models import Model
from glassworks.sites import Site

BLOCK = 2**22  # numbers of a batch of gradients at one site: bounds the memory
EMBED = Site("embed")

Values = dict[Site, Tensor]  # (1, token, width)


@final
@dataclass(frozen=True, eq=False)
class Recorded:
    """The real model's run with its history, cut open where coders write.

    Attributes:
        read: what coders read.
        stream: what outcomes read.
        leaves: what goes on behind each cut, as if it were given.
    """

    read: Mapping[Site, Tensor]
    stream: Mapping[Site, Tensor]
    leaves: Mapping[Site, Tensor]


def cuts(coders: Sequence[Coder]) -> list[Site]:
    """The sites where coders write, from the lowest."""
    return sorted({site for coder in coders for site in coder.writes}, key=_place)


def collect_cuts(
    coders: Sequence[Coder], captured: Captured, masked: Bool[Tensor, " token"]
) -> tuple[Sources, dict[Site, Writes]]:
    """Encode the prompt, and lay out what is written at each cut: features and errors; and the embeddings."""
    active = tuple(encode(coder, captured, masked) for coder in coders)
    starts = torch.tensor([0, *(len(features.index) for features in active)]).cumsum(0).tolist()
    free, places = (~masked).nonzero()[:, 0], cuts(coders)
    tokens, writes = len(masked), {}
    for number, site in enumerate(places):
        parts, silent = [], []
        for features, start in zip(active, starts, strict=False):
            coder = features.coder
            if site not in coder.writes:
                continue
            vectors = features.value[:, None] * coder.decoder_rows(features.index, site)
            parts.append((features.position, start + torch.arange(len(vectors), device=vectors.device), vectors))
            bias, skip = coder.bias(site), coder.skip(site)
            silent.append(bias if skip is None else bias + captured[coder.reads[0].name].float() @ skip)
        error = captured[site.name].float() - sum(silent)
        for positions, _, vectors in parts:
            error.index_add_(0, positions, vectors, alpha=-1)
        columns = starts[-1] + number * len(free) + torch.arange(len(free), device=free.device)
        parts.append((free, columns, error[free]))
        writes[site] = Writes.sort(*(torch.cat(column) for column in zip(*parts, strict=True)), tokens=tokens)
    of = torch.tensor([_place(site) for site in places], device=free.device).repeat_interleave(len(free), 0)
    errors = torch.cat([of, free.repeat(len(places))[:, None]], dim=1)
    embedding = torch.arange(tokens, device=free.device)
    columns = starts[-1] + len(errors) + embedding
    writes[EMBED] = Writes.sort(embedding, columns, captured["embed"].float(), tokens)
    return Sources(tokens, active, errors, {}, {}, ()), writes


def record(model: Model, coders: Sequence[Coder], tokens: Int[Tensor, " token"], outcomes: Targets) -> Recorded:
    """Run the real model once, with its history, cut where coders write."""
    read, stream, leaves = Values(), Values(), Values()

    def keep(site: Site, values: Values) -> Callable[[Tensor], None]:
        return lambda value: values.__setitem__(site, value)

    def cut(site: Site) -> Callable[[Tensor], Tensor]:
        """Keep what arrives, and go on with a leaf; skip paths of transcoders stay live."""

        def tap(value: Tensor) -> Tensor:
            read[site] = value
            onward = leaves[site] = value.detach().requires_grad_()
            for coder in coders:
                skip = coder.skip(site) if site in coder.writes else None
                if skip is not None:
                    live = read[coder.reads[0]] @ skip.to(value.dtype)
                    onward = onward + (live - live.detach())
            return onward

        return tap

    reads = {site: keep(site, read) for coder in coders for site in coder.reads}
    opened = {site: cut(site) for site in (*cuts(coders), EMBED)}
    ends = {_stage_site(model, stage) for stage in outcomes.stage.tolist()}
    ids = tokens[None]
    with torch.enable_grad(), model.tapped(reads | opened), model.tapped({site: keep(site, stream) for site in ends}):
        model.hf(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return Recorded(read, stream, leaves)


def derivatives(
    model: Model, recorded: Recorded, sources: Sources, writes: Mapping[Site, Writes], outcomes: Targets
) -> Float[Tensor, "t column"]:
    """Every target's derivative along every source, features first, then outcomes."""
    if outcomes.inside is not None:
        raise Unsupported("A feature inside an attention layer cannot be the target of an approximate graph.")
    matrix = torch.zeros(sources.features + len(outcomes), sources.columns)
    reads, start = [], 0  # rows, what they read, positions, covectors
    for active in sources.active:
        rows, value = torch.arange(start, start + len(active.index)), recorded.read[active.coder.reads[0]]
        reads.append((rows, value, active.position, active.coder.encoder_rows(active.index)))
        start += len(rows)
    for stage in outcomes.stage.unique().tolist():
        here, value = outcomes.stage == stage, recorded.stream[_stage_site(model, stage)]
        rows = start + here.nonzero()[:, 0].cpu()
        reads.append((rows, value, outcomes.position[here], outcomes.covector[here]))
    for rows, value, positions, covectors in reads:
        size = max(1, BLOCK // value.numel())
        for part, at, along in zip(rows.split(size), positions.split(size), covectors.split(size), strict=True):
            pulled = _pull(value, at, along, recorded.leaves)
            edges = along.new_zeros(sources.columns, len(part))
            for site, g in pulled.items():
                writes[site].score(g.float(), edges)
            matrix[part] = edges.T.cpu()
    return matrix


def _pull(
    value: Float[Tensor, "1 q width"],
    positions: Tensor,
    covectors: Float[Tensor, "r width"],
    leaves: Mapping[Site, Tensor],
) -> dict[Site, Float[Tensor, "r q width"]]:
    """Covectors on a value, pulled back to every cut that it depends on."""
    if not len(positions) or not value.requires_grad:
        return {}
    seeds = value.new_zeros(len(positions), *value.shape)
    seeds[torch.arange(len(positions)), 0, positions] = covectors.to(value.dtype)
    gradients = torch.autograd.grad(
        value, list(leaves.values()), seeds, retain_graph=True, is_grads_batched=True, allow_unused=True
    )
    return {site: g[:, 0] for site, g in zip(leaves, gradients, strict=True) if g is not None}


def _place(site: Site) -> tuple[int, int]:
    return layer_of(site), PARTS.index(part_of(site))


def _stage_site(model: Model, stage: int) -> Site:
    """Where the stream can be seen at a stage; see `linear`."""
    layer = stage // 2
    if stage % 2:
        return Site("resid_mid", layer)
    return Site("resid_pre", layer) if layer < model.n_layers else Site("resid_post", layer - 1)
