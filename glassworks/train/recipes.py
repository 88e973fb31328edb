"""Recipes: the published ways to train a coder, each a function from an order to an objective.

Numbers are the sources', in our units: rows are scaled to mean square length 1 (or to variance 1 around their mean),
so thresholds and weights that a paper states for other scalings are converted where they stand. A recipe must not
know where activations come from.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import sqrt
from typing import final

from glassworks.train.gates import BatchTopK, JumpReLU, TopK
from glassworks.train.layouts import Layout
from glassworks.train.objective import Adam, Objective
from glassworks.train.revive import Dead
from glassworks.train.schedule import Ramp, Rate
from glassworks.train.start import Start
from glassworks.train.terms import L0, AuxK, Frequency, QuadraticL0, Reconstruction, Silence, Tanh

ALWAYS = Ramp(1.0)
PATIENCE = 0.05
"""Share of a training's tokens without which a latent is dead."""


@final
@dataclass(frozen=True)
class Order:
    """What a recipe is asked for.

    Attributes:
        layout: the sites.
        width: latents of each part.
        sparsity: the recipe's own measure of it: latents a token, or the weight of its penalty.
        steps: batches.
        batch: tokens in each.
        d_in: width of one site that is read.
    """

    layout: Layout
    width: int
    sparsity: int | float
    steps: int
    batch: int = 4096
    d_in: int = 1

    @property
    def own(self) -> bool:
        """Whether one part reads what it writes, as an SAE does."""
        return all(reads == self.layout.writes for reads, _ in self.layout.parts)

    def dead(self, patience: int | float = PATIENCE, resample: int = 0) -> Dead:
        """Latents are dead after ten million tokens (Gao et al. 2024), or a share of a training that is short.

        Args:
            patience: the share.
            resample: steps between two resamplings in the first half of the training; 0 for none.
        """
        tokens = min(10_000_000, round(patience * self.steps * self.batch))
        return Dead(max(1, tokens), resample, self.steps // 2)


Recipe = Callable[[Order], Objective]
"""Makes the objective of an order; further numbers have defaults."""


def topk(order: Order, rate: int | float | None = None, anneal: int | float = 1.0, jump: bool = False) -> Objective:
    """TopK with AuxK (Gao et al. 2024, arXiv 2406.04093); sparsity is k.

    Where a coder writes another site than it reads, decoder rows begin at zero and have any length: directions that
    are drawn, or the encoder's, would first have to be unlearned, which in short runs costs a third of the error.

    Args:
        order: what is trained.
        rate: learning rate; by default 2e-4 / sqrt(width / 2^14), as the paper scales it.
        anneal: k begins at so many times its end and falls over the first 40 % of the steps; helps short runs.
        jump: export as JumpReLU with a threshold of the same mean L0.
    """
    return _largest(order, TopK(_annealed(order, anneal), jump), rate)


def batchtopk(order: Order, rate: int | float | None = None, anneal: int | float = 1.0) -> Objective:
    """BatchTopK with AuxK (Bussmann et al. 2024, arXiv 2412.06410), exported as JumpReLU; sparsity is k.

    Args:
        order: what is trained.
        rate: see `topk`.
        anneal: see `topk`.
    """
    return _largest(order, BatchTopK(_annealed(order, anneal)), rate)


def batchtopk_matryoshka(
    order: Order, rate: int | float | None = None, anneal: int | float = 1.0, prefixes: tuple[int, ...] | None = None
) -> Objective:
    """BatchTopK whose first latents must do alone as well (Bussmann et al. 2025, arXiv 2503.17547); sparsity is k.

    Args:
        order: what is trained.
        rate: see `topk`.
        anneal: see `topk`.
        prefixes: widths of the nested dictionaries; by default a 16th, an 8th, a quarter, half and all of the width.
    """
    return _largest(order, BatchTopK(_annealed(order, anneal)), rate, prefixes or _halves(order.width))


def gemma_scope_1(
    order: Order, rate: int | float = 7e-5, ramp: int = 10_000, fires: int | float | None = None
) -> Objective:
    """JumpReLU with a linear L0 penalty (Lieberum et al. 2024, arXiv 2408.05147); sparsity is the penalty's weight.

    Transcoders begin with untied encoders and without the bias before the encoder, as appendix B.2 says. Short runs
    need a larger rate and `fires`: thresholds are learned as logarithms, so from their first value, 0.001, they move
    by a factor of e in 1 / rate steps.

    Args:
        order: what is trained.
        rate: learning rate after 1,000 steps of warm-up (fewer in a short run).
        ramp: steps over which the penalty's weight rises.
        fires: latents a token that are on in the beginning, by their thresholds; about half of them by default.
    """
    return _gemma(order, L0(), Ramp(order.sparsity, 0.0, min(ramp, order.steps // 4)), (rate, fires))


def gemma_scope_2(
    order: Order,
    rate: int | float = 7e-5,
    weight: int | float = 1e-3,
    frequency: int | float = 0.0,
    prefixes: tuple[int, ...] | None = None,
    ramp: int = 50_000,
    fires: int | float | None = None,
    origin: int | float | None = None,
) -> Objective:
    """JumpReLU, quadratic L0, Matryoshka, frequency penalty (Gemma Scope 2 report, equations 4 and 5); sparsity is L0.

    The report leaves open the weight, the frequency penalty's form (here that of its authors' earlier update) and
    the prefixes; see `QuadraticL0` for the factor that it states in two ways.

    Args:
        order: what is trained.
        rate: see `gemma_scope_1`.
        weight: of the quadratic penalty.
        frequency: of the frequency penalty, as a share of `weight`.
        prefixes: see `batchtopk_matryoshka`; `()` for none.
        ramp: steps over which the weights rise.
        fires: see `gemma_scope_1`.
        origin: L0 that is aimed at in the beginning, where latents are taken from other coders: the sum of theirs.
    """
    rise = min(ramp, order.steps // 4)
    more = ((Ramp(weight * frequency, 0.0, rise), Frequency()),) if frequency else ()
    widths = _halves(order.width) if prefixes is None else prefixes
    aim = Ramp(order.sparsity, origin, min(ramp, order.steps // 2))
    return _gemma(order, QuadraticL0(aim), Ramp(weight, 0.0, rise), (rate, fires), more, widths)


def anthropic_jumprelu(
    order: Order, rate: int | float = 2e-4, silence: float = 3e-6, fires: float = 10_000
) -> Objective:
    """JumpReLU with a tanh penalty whose gradient reaches all parameters (Anthropic, January 2025 update).

    Sparsity is the penalty's weight, 10 to 20 in the source. There rows have mean length sqrt(d), and errors are d
    times ours: thresholds, kernel width and the scale of tanh are converted by sqrt(d), weights by d.

    Args:
        order: what is trained.
        rate: learning rate, level and then straight to 0 over the last fifth.
        silence: weight of the penalty on latents below their threshold, in the source's units.
        fires: latents a token that are on in the beginning (each of m fires 10,000 / m of the time); at most half.
    """
    unit = sqrt(order.d_in)
    length = 1 / sqrt(3)  # of a row drawn uniformly from +- 1 / sqrt(d)
    terms = (
        (ALWAYS, Reconstruction()),
        (Ramp(order.sparsity / unit**2, 0.0, order.steps), Tanh(4.0 * unit)),
        (Ramp(silence / unit), Silence()),
    )
    return Objective(
        layout=order.layout,
        width=order.width,
        gate=JumpReLU(0.1 / unit, 2.0 / unit),
        terms=terms,
        adam=Adam(Rate(rate, decay=order.steps // 5)),
        steps=order.steps,
        start=Start(True, length, length * order.d_in / order.width, fires=min(fires, order.width / 2)),
        centred=False,
        dead=order.dead(),
    )


def clt(order: Order, rate: int | float | None = None, anneal: int | float = 1.0) -> Objective:
    """BatchTopK on each layer's latents, exported as JumpReLU (Gemma Scope 2 report, B.1); sparsity is k a layer.

    The report's appendix B opens with "only JumpReLU in the final release" and ends with "for multi-layer we typically
    train BatchTopK, then convert to JumpReLU"; the latter is followed, as it keeps the sparse form throughout.
    Gradients of AuxK reach each layer's dead latents. Nothing is subtracted from the input.

    Args:
        order: what is trained; any layout, cross-layer transcoders and crosscoders foremost.
        rate: see `topk`.
        anneal: see `topk`.
    """
    found = batchtopk(order, rate, anneal)
    return replace(found, start=replace(found.start, pre_bias=False))


RECIPES = {
    each.__name__: each
    for each in (topk, batchtopk, batchtopk_matryoshka, gemma_scope_1, gemma_scope_2, anthropic_jumprelu, clt)
}
"""All of them, by name."""

WEIGHTED = ("gemma_scope_1", "anthropic_jumprelu")
"""Recipes whose sparsity is the weight of a penalty, and not a number of latents."""


def _largest(
    order: Order, gate: TopK | BatchTopK, rate: int | float | None, prefixes: tuple[int, ...] = ()
) -> Objective:
    same = order.layout.reads == order.layout.writes
    peak = 2e-4 / sqrt(order.width / 2**14) if rate is None else rate
    descent = Rate(peak, warmup=min(1000, order.steps // 20), decay=order.steps // 5)
    return Objective(
        layout=order.layout,
        width=order.width,
        gate=gate,
        terms=((ALWAYS, Reconstruction()), (Ramp(1 / 32), AuxK())),
        adam=Adam(descent),
        steps=order.steps,
        start=Start(pre_bias=order.own) if same else Start(tied=False, decoder=0.0),
        prefixes=prefixes,
        unit=same,
        dead=order.dead(),
    )


def _gemma(
    order: Order,
    penalty: L0 | QuadraticL0,
    weight: Ramp,
    numbers: tuple[float, float | None],
    more: tuple[tuple[Ramp, Frequency], ...] = (),
    prefixes: tuple[int, ...] = (),
) -> Objective:
    rate, fires = numbers
    return Objective(
        layout=order.layout,
        width=order.width,
        gate=JumpReLU(0.001, 0.001),
        terms=((ALWAYS, Reconstruction()), (weight, penalty), *more),
        adam=Adam(Rate(rate, min(1000, order.steps // 20), floor=0.1, cosine=True), (0.0, 0.999)),
        steps=order.steps,
        start=Start(tied=order.own, pre_bias=order.own, fires=fires, raised=True),
        prefixes=prefixes,
        centred=False,
        unit=True,
        dead=order.dead(),
    )


def _annealed(order: Order, times: int | float) -> Ramp:
    return Ramp(order.sparsity, order.sparsity * times, round(0.4 * order.steps))


def _halves(width: int) -> tuple[int, ...]:
    return tuple(sorted({max(1, width // 2**n) for n in range(5)}))
