"""Edges between heads and MLPs: which part's output matters to which other part's input.

EAP-IG (Syed et al. 2023; Hanna et al. 2024, "Have Faith in Faithfulness", equation 3): the score of an edge is the
change of the sender's contribution to the residual stream, times the gradient of the metric with respect to what the
receiver alone reads from it, the gradient averaged over runs between the prompts' embeddings. Exact edges are measured
beside it: the receiver reads a stream in which the sender's contribution is exchanged, and everything else runs as it
would. This module must not know features: `circuits` has the graphs of those.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from glassworks.edits.patching.cells import Cell, by_head, heads_of
from glassworks.edits.patching.exact import Runs, last_logits
from glassworks.edits.patching.gradients import EMBED, STEPS, between, between_runs
from glassworks.edits.patching.pair import Pair, Way
from glassworks.models import Model
from glassworks.sites import Site

READS = ("q", "k", "v")
LOGITS = Cell(Site("logits"))
BATCH_TOKENS = 2048


@final
@dataclass(frozen=True, eq=False)
class Edges:
    """Scores of all edges.

    Attributes:
        pair: the prompts and the metric.
        way: which prompt's values are carried into which.
        senders: the embeddings, heads (`attn_heads`) and MLPs (`mlp_out`).
        receivers: queries, keys and values of heads, MLPs (`mlp_in`), and the logits.
        scores: by how much each edge changes the metric; 0 where the receiver lies below the sender.
        possible: whether the receiver can read the sender.
        ends: the metric of the run that is patched, and of the other.
    """

    pair: Pair
    way: Way
    senders: tuple[Cell, ...]
    receivers: tuple[Cell, ...]
    scores: Float[Tensor, "sender receiver"]
    possible: Bool[Tensor, "sender receiver"]
    ends: tuple[float, float]

    def top(self, k: int = 10) -> list[tuple[Cell, Cell, float]]:
        """The strongest edges either way, with the share of the way from one end to the other that each goes."""
        flat = self.scores.flatten()
        order = flat.abs().argsort(descending=True, stable=True)[: min(k, int(self.possible.sum()))].tolist()
        span, wide = self.ends[1] - self.ends[0], len(self.receivers)
        return [(self.senders[n // wide], self.receivers[n % wide], float(flat[n]) / span) for n in order]

    def plain(self, k: int = 100) -> list[dict[str, Any]]:
        """The strongest edges as JSON values."""
        return [{"source": str(one), "target": str(other), "share": share} for one, other, share in self.top(k)]


def edges(pair: Pair, way: Way = "denoising", steps: int = STEPS) -> Edges:
    """Score all edges by EAP-IG.

    Args:
        pair: the prompts and the metric.
        way: `denoising` or `noising`.
        steps: over how many runs between the prompts the gradients are averaged.

    Raises:
        BadInput: another way, no steps, or a metric that is the same on both prompts.
    """
    model, senders, receivers = pair.model, _senders(pair.model), _receivers(pair.model)
    runs = Runs(pair, way, {EMBED, *(each.site for each in senders)})
    streams = {_stream(model, each) for each in receivers}
    reads = {each.site for each in receivers if each != LOGITS}
    live, metric = between_runs(runs, streams | reads, between("integrated", steps))
    gradients = _read_gradients(model, receivers, live, metric)
    scores = torch.einsum("std,rtd->sr", contributions(runs, senders), gradients).cpu().double()
    above = [[_rank(one) < _reader_rank(model, other) for other in receivers] for one in senders]
    possible = torch.tensor(above)
    return Edges(pair, way, senders, receivers, scores * possible, possible, runs.ends)


@torch.no_grad()
def exact_edges(pair: Pair, wanted: Sequence[tuple[Cell, Cell]], way: Way = "denoising") -> Float[Tensor, " edge"]:
    """Measure edges: by how much the metric changes when one receiver alone reads what one sender would send.

    Args:
        pair: the prompts and the metric.
        wanted: sender and receiver of each edge, as `edges` names them.
        way: `denoising` or `noising`.
    """
    runs = Runs(pair, way, {EMBED, *(one.site for one, _ in wanted)})
    senders = tuple(dict.fromkeys(one for one, _ in wanted))
    sent = dict(zip(senders, contributions(runs, senders), strict=True))
    groups: dict[Site, list[int]] = {}
    for number, (_, receiver) in enumerate(wanted):
        groups.setdefault(receiver.site, []).append(number)
    at_once, changes = max(1, BATCH_TOKENS // (2 * len(pair.clean))), torch.zeros(len(wanted)).double()
    for numbers in groups.values():
        for begin in range(0, len(numbers), at_once):
            part = numbers[begin : begin + at_once]
            sends = torch.stack([sent[wanted[each][0]] for each in part])
            changes[part] = _measured(runs, [wanted[each][1] for each in part], sends).cpu() - runs.ends[0]
    return changes


def _measured(runs: Runs, readers: list[Cell], sends: Float[Tensor, "row token d_model"]) -> Float[Tensor, " row"]:
    """The metric when each row's reader reads what is sent besides: rows that get it, and rows with their readings."""
    model, many = runs.model, len(readers)
    stream, site = _stream(model, readers[0]), readers[0].site
    heads = heads_of(model, site.kind)

    def send(value: Tensor) -> Tensor:
        return torch.cat([value[:many] + sends.to(value), value[many:]])

    def read(value: Tensor) -> Tensor:
        value = value.clone()
        split = by_head(site, heads, value)
        for row, reader in enumerate(readers):
            head = slice(None) if reader.head is None else reader.head
            split[many + row, :, head] = split[row, :, head]
        return value

    first = model.n_layers - 1 if site.layer is None else site.layer
    ids = runs.base.expand(2 * many, -1)
    with runs.beginning(first), model.tapped({stream: send}), model.tapped({} if site.layer is None else {site: read}):
        found = runs.metric(last_logits(model, ids))
    return found[:many] if site.layer is None else found[many:]


@torch.no_grad()
def contributions(runs: Runs, senders: Sequence[Cell]) -> Float[Tensor, "sender token d_model"]:
    """By how much each sender's contribution to the residual stream changes when its own value is carried in."""
    found: dict[Cell, Tensor] = {}
    for site in dict.fromkeys(each.site for each in senders):
        mine = [each for each in senders if each.site == site]
        base, source = runs.bases[site], runs.sources[site]
        change = by_head(site, heads_of(runs.model, site.kind), source - base)
        if mine[0].head is None:
            found[mine[0]] = (source - base)[0]
            continue
        alone = torch.zeros(len(mine), *change.shape[1:]).to(change)
        for row, cell in enumerate(mine):
            alone[row, :, cell.head] = change[0, :, cell.head]
        added = _attention_out(runs.model, site.layer, torch.cat([base, base + alone.flatten(2)]))
        found |= dict(zip(mine, added[1:] - added[:1], strict=True))
    return torch.stack([found[each] for each in senders])


def _attention_out(model: Model, layer: int | None, heads: Float[Tensor, "row token width"]) -> Tensor:
    """What heads side by side add to the residual stream, after the family's norm."""
    anatomy = model.taps.anatomy
    output, norm = anatomy.part("output", layer), anatomy.part("attn_post_norm", layer)
    assert output is not None
    with model.taps.exactly(()):
        return output(heads) if norm is None else norm(output(heads))


def _read_gradients(
    model: Model, receivers: Sequence[Cell], live: dict[Site, Tensor], metric: Float[Tensor, " step"]
) -> Float[Tensor, "receiver token d_model"]:
    """The metric's gradient with respect to what each receiver alone reads from the stream, averaged over runs."""
    reads = list(dict.fromkeys(each.site for each in receivers if each != LOGITS))
    last = _stream(model, LOGITS)
    *gradients, final = torch.autograd.grad(
        metric.sum(), [*(live[site] for site in reads), live[last]], retain_graph=True
    )
    found = []
    for site, gradient in zip(reads, gradients, strict=True):
        heads = heads_of(model, site.kind)
        stream = live[_stream(model, Cell(site))]
        # One head's gradient at a time, all heads in one batch of backward passes through the projection alone.
        apart = torch.eye(heads).to(gradient)[:, None, None, :, None] * by_head(site, heads, gradient)
        ahead = apart.reshape(heads, *gradient.shape)
        (pulled,) = torch.autograd.grad(live[site], stream, ahead, is_grads_batched=True, retain_graph=True)
        found.append(pulled.mean(1))
    return torch.cat([*found, final.mean(0, keepdim=True)])


def _senders(model: Model) -> tuple[Cell, ...]:
    found = [Cell(EMBED)]
    for layer in range(model.n_layers):
        found += [Cell(Site("attn_heads", layer), None, head) for head in range(model.n_heads)]
        found.append(Cell(Site("mlp_out", layer)))
    return tuple(found)


def _receivers(model: Model) -> tuple[Cell, ...]:
    """By layers, kinds and heads, the order in which `_read_gradients` gives them."""
    found = []
    for layer in range(model.n_layers):
        found += [Cell(Site(kind, layer), None, head) for kind in READS for head in range(heads_of(model, kind))]
        found.append(Cell(Site("mlp_in", layer)))
    return (*found, LOGITS)


def _stream(model: Model, receiver: Cell) -> Site:
    """The residual stream that a receiver reads."""
    if receiver == LOGITS:
        return Site("resid_post", model.n_layers - 1)
    late = receiver.site.kind == "mlp_in" and not model.parallel
    return Site("resid_mid" if late else "resid_pre", receiver.site.layer)


def _rank(sender: Cell) -> int:
    """When it is written: attention of a layer, then its MLP."""
    return -1 if sender.site.layer is None else 2 * sender.site.layer + (sender.site.kind == "mlp_out")


def _reader_rank(model: Model, receiver: Cell) -> int:
    """Readers see what was written with a lower rank."""
    stream = _stream(model, receiver)
    assert stream.layer is not None
    return 2 * stream.layer + {"resid_pre": 0, "resid_mid": 1, "resid_post": 2}[stream.kind]
