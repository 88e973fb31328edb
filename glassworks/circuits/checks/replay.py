"""Replay: the MLPs' outputs are put together again from a graph's features, errors and biases, in the real model.

With the errors the true logits must come out; without them, what comes out tells how much the errors hide. This
module must not know edges.
"""

from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.circuits.checks.measured import Bench
from glassworks.models import Tap
from glassworks.sites import Site


@final
@dataclass(frozen=True)
class Replay:
    """What came out.

    Attributes:
        missing: active features of the coders that the graph lacks.
        strange: features of the graph that are not active.
        activations: largest relative difference of a feature's activation.
        logits: largest difference of a logit with features, errors and biases, relative to the largest logit.
        divergence: Kullback-Leibler divergence, in nats, of the next-token distribution without the errors.
        agrees: whether the likeliest token is the same without the errors.
    """

    missing: int
    strange: int
    activations: float
    logits: float
    divergence: float
    agrees: bool

    def plain(self) -> dict[str, Any]:
        """The values as JSON holds them."""
        return asdict(self)


@torch.no_grad()
def replay(bench: Bench) -> Replay:
    """Run the model on what the graph says its MLPs write."""
    missing, strange, activations = _features(bench)
    true = bench.logits()
    with bench.model.tapped(_taps(bench, errors=True)):
        whole = bench.logits()
    with bench.model.tapped(_taps(bench, errors=False)):
        alone = bench.logits()
    loss = torch.nn.functional.kl_div(alone.log_softmax(0), true.log_softmax(0), log_target=True, reduction="sum")
    difference = float((whole - true).abs().max() / true.abs().max().clamp(min=1e-6))
    return Replay(missing, strange, activations, difference, float(loss), bool(alone.argmax() == true.argmax()))


def _features(bench: Bench) -> tuple[int, int, float]:
    """Compare the node table with what the coders encode: features missing, not active, and activations."""
    nodes, missing, strange, worst = bench.graph.nodes, 0, 0, 0.0
    nothing, places = torch.zeros(len(nodes), dtype=torch.bool), bench.features(nodes)
    for place, coder in bench.readers.items():
        mine = places.get(place, nothing)
        dense = coder.encode(bench.inputs[coder.reads[0].name]).dense().cpu()
        dense[: bench.first] = 0
        told = torch.zeros_like(dense)
        told[nodes.position[mine], nodes.index[mine]] = nodes.activation[mine]
        missing += int(((dense != 0) & (told == 0)).sum())
        strange += int(((dense == 0) & (told != 0)).sum())
        both = (dense != 0) & (told != 0)
        if bool(both.any()):
            worst = max(worst, float(((told - dense).abs() / dense.abs())[both].max()))
    return missing, strange, worst


def _taps(bench: Bench, errors: bool) -> dict[Site, Tap]:
    """Taps that write every MLP output anew: features, bias, the live skip, and perhaps the error."""
    live: dict[Site, Tensor] = {}
    taps: dict[Site, Tap] = {}
    for coder in bench.coders:
        taps[coder.reads[0]] = lambda value, site=coder.reads[0]: live.__setitem__(site, value.float())
    for site in bench.written:
        reader = taps.get(site)
        writer = _writer(bench, site, live, errors)
        taps[site] = writer if reader is None else _in_turn(reader, writer)
    return taps


def _in_turn(reader: Tap, writer: Tap) -> Tap:
    def both(value: Tensor) -> Tensor | None:
        reader(value)
        return writer(value)

    return both


def _writer(bench: Bench, site: Site, live: dict[Site, Tensor], errors: bool) -> Tap:
    first = bench.first
    known = features(bench, site)
    writers = [coder for coder in bench.coders if site in coder.writes]
    if errors or not writers:
        known = known + bench.errors[site]

    def write(value: Tensor) -> Tensor:
        whole = known[None].clone()
        for coder in writers:
            skip = coder.skip(site)
            whole += coder.bias(site) + (0.0 if skip is None else live[coder.reads[0]] @ skip)
        return torch.cat([value[:, :first], whole[:, first:].to(value)], 1)

    return write


def features(bench: Bench, site: Site) -> Float[Tensor, "token d_out"]:
    """What the graph's features write at a site: activation times decoder row, feature by feature."""
    nodes = bench.graph.nodes
    written = torch.zeros_like(bench.errors[site])
    for place, mine in bench.features(nodes).items():
        coder = bench.readers[place]
        if site in coder.writes:
            rows = coder.decoder_rows(nodes.index[mine].to(written.device), site).float()
            values = nodes.activation[mine, None].to(rows)
            written.index_add_(0, nodes.position[mine].to(rows.device), values * rows)
    return written
