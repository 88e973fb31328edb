"""The causal law on a hundred sources at once, and linearity: what is frozen leaves nothing that bends.

Each row of a batch of copies of the prompt gets its own change, in the real model, by taps: forward passes only.
"""

import pytest
import torch

from glassworks.circuits import Graph, trace
from glassworks.coders import Scope
from glassworks.edits import live_skips
from glassworks.models import Model
from glassworks.sites import Site
from tests.circuits.tiny import CONFIGS, PROMPT, parts_of, random_clt, random_model, random_scope

FROZEN = ("patterns", "norms", "mlps")
TIMES = 16.0  # edges are linear, and a large change drowns the rounding
SOURCES = 100
FAMILIES = ("gemma2", "gemma3", "llama", "qwen3", "gpt2", "gpt_neox")
KINDS = {
    "transcoder": random_scope,
    "skip": lambda model: random_scope(model, skip=True),
    "clt": random_clt,
    "clt-skip": lambda model: random_clt(model, skip=True),
}
Changes = dict[Site, torch.Tensor]


def vectors(model: Model, scope: Scope, graph: Graph, columns: list[int]) -> Changes:
    """What each source writes, by site, (source, token, width): from the coders' dense formulas and the model's run."""
    coders = parts_of(scope)
    x = model.capture(PROMPT, ["embed", *model.sites("mlp_out"), *(coder.reads[0] for coder in coders)])
    errors = {site: x[site.name].clone() for site in model.sites("mlp_out")}
    values = {}
    for coder in coders:
        read = x[coder.reads[0].name]
        latents = coder.encode(read)
        values[coder.reads[0].layer] = latents.dense()
        for write in coder.writes:
            skip = coder.skip(write)
            errors[write] -= coder.decode(latents, write) + (0.0 if skip is None else read @ skip)
    found: Changes = {}

    def add(row: int, site: Site, position: int, vector: torch.Tensor) -> None:
        at = found.setdefault(site, torch.zeros(len(columns), len(PROMPT), model.d_model))
        at[row, position] += vector.detach()

    for row, node in enumerate(graph.nodes.select(torch.tensor(columns))):
        if node.kind == "embedding":
            add(row, Site("embed"), node.position, x["embed"][node.position])
        if node.kind == "error":
            add(row, Site("mlp_out", node.layer), node.position, errors[Site("mlp_out", node.layer)][node.position])
        for coder in coders:
            mine = node.kind == "feature" and coder.reads[0].layer == node.layer
            for write in coder.writes if mine else ():
                vector = coder.decoder_rows(torch.tensor([node.index]), write)[0]
                add(row, write, node.position, values[node.layer][node.position, node.index] * vector)
    return found


def felt(model: Model, scope: Scope, graph: Graph, changes: Changes, rows: int) -> torch.Tensor:
    """Every target of every row's run: pre-activations, then demeaned logits."""
    taps = {site: lambda value, site=site: value + changes[site] for site in changes}
    reads = [coder.reads[0] for coder in parts_of(scope)]
    with model.edit(live_skips(scope), frozen=FROZEN), model.tapped(taps):
        x = model.capture([PROMPT] * rows, [*reads, "logits"], batch_size=rows)
    found = []
    for coder in parts_of(scope):
        mine = graph.nodes.of("feature") & (graph.nodes.layer == coder.reads[0].layer)
        read = coder.preactivations(x[coder.reads[0].name])
        found.append(read[:, graph.nodes.position[mine], graph.nodes.index[mine]])
    logits = x["logits"][:, -1]
    if model.softcap:
        logits = model.softcap * torch.atanh(logits / model.softcap)
    ids = graph.nodes.index[graph.nodes.of("logit")]
    return torch.cat([*found, (logits - logits.mean(1, keepdim=True))[:, ids]], dim=1).detach()


def chosen(graph: Graph, count: int) -> list[int]:
    """Sources at random: features, errors and embeddings that lead anywhere."""
    leading = graph.matrix.any(0).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(0)
    return leading[torch.randperm(len(leading), generator=generator)[:count]].tolist()


CASES = [(family, kind) for family in FAMILIES for kind in KINDS]
CASES += [(family, "transcoder") for family in CONFIGS if family not in FAMILIES]


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_a_hundred_sources_move_targets_by_their_edges(family, kind):
    model = random_model(family)
    scope = KINDS[kind](model)
    graph = trace(model, scope, PROMPT)
    columns = chosen(graph, SOURCES)
    changes = {site: TIMES * value for site, value in vectors(model, scope, graph, columns).items()}
    moved = (felt(model, scope, graph, changes, len(columns)) - felt(model, scope, graph, {}, 1)) / TIMES
    edges = graph.matrix[:, columns].T
    assert {graph.nodes[each].kind for each in columns} == {"feature", "error", "embedding"}
    assert ((moved - edges).abs() <= 1e-3 * edges.abs() + 4e-6 * graph.edges.sizes()).all()


@pytest.mark.slow
@pytest.mark.parametrize("family", list(CONFIGS))
def test_second_derivatives_vanish(family):
    model = random_model(family)
    scope = random_scope(model, skip=True)
    graph = trace(model, scope, PROMPT)
    columns = chosen(graph, 24)
    one = vectors(model, scope, graph, columns)
    two = {site: value.roll(1, 0) for site, value in one.items()}
    runs = [{}, one, two, {site: 4 * one[site] + 4 * two[site] for site in one}]
    rest, first, second, both = (felt(model, scope, graph, each, len(columns)) for each in runs)
    bend = (both - rest) - 4 * (first - rest) - 4 * (second - rest)
    assert (bend.abs() <= 4e-5 * graph.edges.sizes()).all()
    assert (both - rest).abs().max() > 1e-2
