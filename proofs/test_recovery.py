"""A known dictionary is found again: mean max cosine and F1 of every recipe.

Rows are sums of a few of 512 directions in 128 dimensions. Plain: each fires by itself. Correlated: features come in
groups of eight that fire together. Hierarchical: a child only fires with its parent, so that a plain coder absorbs the
parent into its children. Every batch is drawn anew, so that a coder cannot learn rows by heart. The recipes' numbers
were picked on other dictionaries (of other seeds).
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from glassworks.coders import Coder
from glassworks.harvest import Statistics, Stream
from glassworks.sites import Site
from glassworks.train import (
    L1,
    Adam,
    Gated,
    GateL1,
    GateReconstruction,
    Layout,
    Ramp,
    Rate,
    Reconstruction,
    Rectifier,
    Spec,
    Start,
    Tanh,
    Trainer,
    fit,
    grid,
    layouts,
)
from glassworks.train.gates import JumpReLU

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
SITE = Site("resid_post", 0)
D, FEATURES, ON, CHILDREN = 128, 512, 8, 3
HELD_OUT = 8000
WIDTH, STEPS, BATCH = 512, 3000, 1024


def directions(generator: torch.Generator) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(FEATURES, D, generator=generator))


def plain(rows: int, generator: torch.Generator) -> Tensor:
    """Each feature by itself, common ones a hundred times as often as rare ones."""
    often = torch.logspace(0, -2, FEATURES)
    return torch.rand(rows, FEATURES, generator=generator) < often * ON / often.sum()


def correlated(rows: int, generator: torch.Generator) -> Tensor:
    """In groups of eight, of which an active one lets half of its features fire."""
    groups = torch.rand(rows, FEATURES // 8, generator=generator) < ON / FEATURES * 2
    return groups.repeat_interleave(8, 1) & (torch.rand(rows, FEATURES, generator=generator) < 0.5)


def hierarchical(rows: int, generator: torch.Generator) -> Tensor:
    """128 parents with three children each; with an active parent one child is active, or none."""
    parents = FEATURES // (1 + CHILDREN)
    on = torch.rand(rows, parents, generator=generator) < ON / 2 / parents
    which = torch.randint(CHILDREN + 1, (rows, parents), generator=generator)
    children = torch.stack([on & (which == n) for n in range(CHILDREN)], 2).flatten(1)
    return torch.cat([on, children], 1)


WORLDS = {"plain": plain, "correlated": correlated, "hierarchical": hierarchical}


class World(Stream):
    """Rows of a known dictionary, drawn anew for every batch."""

    def __init__(self, name: str, seed: int) -> None:
        self.fires, self.generator = WORLDS[name], torch.Generator().manual_seed(seed)
        self.truth = directions(torch.Generator().manual_seed(11))
        self.batch, self.widths = BATCH, {SITE.name: D}

    def rows(self, count: int) -> tuple[Tensor, Tensor]:
        """Which features are on, and the rows."""
        on = self.fires(count, self.generator)
        strength = on * (0.5 + torch.rand(count, FEATURES, generator=self.generator))
        return on, strength @ self.truth

    def draw(self) -> dict[str, Tensor]:
        return {SITE.name: self.rows(self.batch)[1]}

    def state(self) -> dict[str, Tensor]:
        return {"generator": self.generator.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.generator.set_state(state["generator"])

    def statistics(self, site: str) -> Statistics:
        state = self.state()
        rows = self.rows(HELD_OUT)[1]
        self.restore(state)
        return Statistics(HELD_OUT, rows.mean(0), float(rows.square().sum(1).mean()))


def specs(stream: Stream, layout: Layout, l0: float) -> list[Spec]:
    largest = {"rate": 1e-2, "anneal": 4.0, "dead_window": 0.005}
    jump = {"fires": 4 * l0, "dead_window": 0.005, "resample": STEPS // 20}
    recipes = [(name, l0, largest) for name in ("topk", "batchtopk", "batchtopk_matryoshka")]
    recipes += [("gemma_scope_1", 1e-2, jump | {"rate": 2e-3})]
    recipes += [("gemma_scope_2", l0, jump | {"rate": 5e-3, "weight": 2e-2, "prefixes": ()})]
    recipes += [("anthropic_jumprelu", 0.5, {"rate": 2e-3, "fires": 4 * l0})]
    found = []
    for name, sparsity, numbers in recipes:
        (spec,) = grid(name, [layout], stream, STEPS, [WIDTH], [sparsity], numbers=numbers)
        found.append(replace(spec, name=name))
    return [*found, by_l1(layout), gated(layout), tanh(layout)]


def by_hand(name: str, layout: Layout, gate, terms, **more) -> Spec:
    adam, terms = Adam(Rate(2e-3, 100, STEPS // 5)), ((Ramp(1.0), Reconstruction()), *terms)
    return Spec(name, layout, WIDTH, gate, terms, adam, STEPS, centred=False, **more)


def by_l1(layout: Layout) -> Spec:
    return by_hand("relu_l1", layout, Rectifier(), ((Ramp(0.2, 0.0, 500), L1()),))


def gated(layout: Layout) -> Spec:
    terms = ((Ramp(0.3, 0.0, 500), GateL1()), (Ramp(1.0), GateReconstruction()))
    return by_hand("gated", layout, Gated(), terms, unit=True)


def tanh(layout: Layout) -> Spec:
    start = Start(fires=4.0 * ON, raised=True)
    penalty = ((Ramp(3e-2, 0.0, 500), Tanh(4.0)),)
    return by_hand("tanh", layout, JumpReLU(0.01, 0.02), penalty, start=start, unit=True)


def recovered(coder: Coder, truth: Tensor, on: Tensor, rows: Tensor) -> dict[str, float]:
    """Mean max cosine of true directions, and F1 of each true feature's best latent at saying when it is on."""
    found = torch.nn.functional.normalize(coder.decoder_rows(torch.arange(coder.d_latent)))
    best = (truth @ found.T).max(1)
    fires = coder.encode(rows).dense()[:, best.indices] > 0
    both = (fires & on).sum(0).double()
    f1 = 2 * both / (fires.sum(0) + on.sum(0)).clamp_min(1)
    return {"cosine": float(best.values.mean()), "f1": float(f1.mean())}


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.timeout(3600)
def test_the_dictionary_is_found(name, keep):
    stream, held = World(name, 0), World(name, 1)
    on, rows = held.rows(HELD_OUT)
    l0 = float(on.sum(1).float().mean())
    trainer = fit(Trainer(specs(stream, layouts("sae", [SITE])[0], l0), stream))
    scope = trainer.scope("recovery", "synthetic")
    measured = trainer.measure(scope, 8)
    figures = {
        name_: {figure: measured[name_][figure] for figure in ("l0", "fvu", "dead")}
        | recovered(scope[name_], stream.truth, on, rows)
        for name_ in scope
    }
    keep(
        f"recovery_{name}",
        {"steps": STEPS, "batch": BATCH, "true_l0": l0} | figures,
    )
    for coder, each in figures.items():
        print(f"{name:13} {coder:22} " + "  ".join(f"{key} {value:.3f}" for key, value in each.items()))
    assert not trainer.failed
    if name != "hierarchical":
        assert figures["topk"]["cosine"] > 0.85
        assert figures["batchtopk"]["cosine"] > 0.85
    else:
        assert figures["batchtopk_matryoshka"]["cosine"] > 0.85
        parents = slice(0, FEATURES // (1 + CHILDREN))
        ours, plain_ = (
            recovered(scope[each], stream.truth[parents], on[:, parents], rows)["f1"]
            for each in ("batchtopk_matryoshka", "batchtopk")
        )
        assert ours > plain_


@pytest.mark.xfail(reason="plain coders hide parents in their children: 0.83 and 0.82 (docs/training.md)")
def test_plain_coders_find_the_hierarchical_dictionary_too():
    found = json.loads((RESULTS / "recovery_hierarchical.json").read_text(encoding="utf-8"))
    assert found["topk"]["cosine"] > 0.85
    assert found["batchtopk"]["cosine"] > 0.85
