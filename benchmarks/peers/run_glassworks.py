"""One coder in training on activations in memory, and the dense float32 encoder product that it cannot avoid.

    python run_glassworks.py KIND D LATENTS THREADS    (KIND: topk, batchtopk, jumprelu, jumprelu-half, each
                                                   perhaps with -bfloat16; clt, where D is the number of layers)

`jumprelu` begins as its recipe says with L0 32; `jumprelu-half` with about half of the latents on, as the paper does.
"""

import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from feed import BATCH, STEPS, WARM, Feed, K, asked
from torch import Tensor

from glassworks.harvest import Statistics, Stream
from glassworks.sites import Site
from glassworks.train import RECIPES, RecipeInput, Trainer, layouts

RATE_OF = 2048
"""The machine's rate is that of a square product of this size."""


@final
class Memory(Stream):
    """A feed as a stream: all sites see the same rows."""

    def __init__(self, feed: Feed, sites: list[Site], batch: int) -> None:
        self.feed, self.sites, self.batch = feed, sites, batch
        self.widths = {site.name: feed.rows.shape[1] for site in sites}

    def draw(self) -> dict[str, Tensor]:
        rows = next(self.feed)[: self.batch]
        return {site.name: rows for site in self.sites}

    def state(self) -> dict[str, Tensor]:
        return {"given": torch.tensor(self.feed.given)}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.feed.given = int(state["given"])
        self.feed.marks.clear()

    def statistics(self, site: str) -> Statistics:
        rows = self.feed.rows.double()
        return Statistics(len(rows), rows.mean(0), float(rows.square().sum(1).mean()))


def clocks() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()


def rate() -> float:
    """Floating-point operations a processor second of a large square product."""
    one = torch.randn(RATE_OF, RATE_OF)
    times = []
    for _ in range(4):
        before = time.process_time()
        one @ one
        times.append(time.process_time() - before)
    return 2 * RATE_OF**3 / statistics.median(times[1:])


def main() -> None:
    kind, d, latents, threads = asked()
    name, _, products = kind.replace("-half", "").partition("-")
    recipe, sites, batch, l0 = {
        "topk": ("topk", [Site("resid_post", 0)], BATCH, K),
        "batchtopk": ("batchtopk", [Site("resid_post", 0)], BATCH, K),
        "jumprelu": ("gemma_scope_1", [Site("resid_post", 0)], BATCH, 1e-3),
        "clt": ("topk", [Site(each, n) for n in range(d) for each in ("mlp_in", "mlp_out")], BATCH // 2, K // 2),
    }[name]
    width = 256 if name == "clt" else d
    (layout,) = layouts("clt" if name == "clt" else "sae", sites)
    feed = Feed(width, threads)
    inputs = RecipeInput(layout, latents, l0, 1000, batch, width, products=products or "float32")
    more = {"fires": K} if kind.startswith("jumprelu") and "half" not in kind else {}
    trainer = Trainer([replace(RECIPES[recipe](inputs, **more), name="coder")], Memory(feed, sites, batch))
    (part, *_) = trainer.runs[0].parts
    steps, product = [], []
    for step in range(WARM + STEPS):
        rows = trainer.stream.draw()
        begun = clocks()
        torch.nn.functional.linear(rows[sites[0].name], part.w_enc.detach(), part.b_enc.detach())
        then = clocks()
        trainer.step(rows, step)
        product.append([after - before for before, after in zip(begun, then, strict=True)])
        steps.append([after - before for before, after in zip(then, clocks(), strict=True)])
    feed.marks = [(0.0, 0.0)] * WARM  # the feed's own clock would count the product
    total = [0.0, 0.0]
    for each in [[0.0, 0.0], *steps[WARM:]]:
        total = [sum(pair) for pair in zip(total, each, strict=True)]
        feed.marks.append((total[0], total[1]))
    cpu, wall = (round(statistics.median(each[clock] for each in product[WARM:]), 4) for clock in (0, 1))
    share = 2 * batch * width * latents / cpu / rate()
    active = trainer.numbers()["coder"]["l0"]
    feed.report(product_cpu=cpu, product_wall=wall, product_of_machine_rate=round(share, 2), l0=round(active, 1))


main()
