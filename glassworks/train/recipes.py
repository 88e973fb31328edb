"""Recipes: the published ways to train a coder, and the grid of specs that one of them gives.

Numbers are the sources', in our units: rows are scaled to mean square length 1 (or to variance 1 around their mean),
so thresholds and weights that a paper states for other scalings are converted where they stand. A recipe does not know
where activations come from.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from itertools import product
from math import sqrt
from typing import Any, final

from glassworks.coders import width_word
from glassworks.errors import BadInput, NotFound, nearest
from glassworks.harvest import Stream
from glassworks.train.gates import BatchTopK, JumpReLU, TopK
from glassworks.train.layouts import Layout
from glassworks.train.schedule import Ramp, Rate
from glassworks.train.spec import Adam, Dead, Spec, Start
from glassworks.train.terms import L0, AuxK, Frequency, QuadraticL0, Reconstruction, Silence, Tanh, Term

ALWAYS = Ramp(1.0)


@final
@dataclass(frozen=True)
class RecipeInput:
    """What every recipe starts from; each has further numbers of its own.

    Attributes:
        layout: the sites.
        width: latents of each part.
        sparsity: the recipe's own measure of it: latents per token, or the weight of its penalty.
        steps: batches.
        batch: tokens in each.
        d_in: width of one site that is read.
        dead_window: share of the training's tokens without which a latent is dead; at most ten million tokens (Gao et
            al. 2024).
        resample: so many steps apart dead latents are resampled, in the first half of the training; 0 for never.
        products: type of the encoder's product, float32 or bfloat16.
    """

    layout: Layout
    width: int
    sparsity: int | float
    steps: int
    batch: int = 4096
    d_in: int = 1
    dead_window: int | float = 0.05
    resample: int = 0
    products: str = "float32"

    def spec(self, **numbers: Any) -> Spec:
        """A spec with these numbers, and with what no recipe is about."""
        tokens = min(10_000_000, round(self.dead_window * self.steps * self.batch))
        dead = Dead(max(1, tokens), self.resample, self.steps // 2)
        return Spec(
            self.layout.name, self.layout, self.width, steps=self.steps, dead=dead, products=self.products, **numbers
        )


def topk(inputs: RecipeInput, rate: int | float | None = None, anneal: int | float = 1.0, jump: bool = False) -> Spec:
    """TopK with AuxK (Gao et al. 2024, arXiv 2406.04093); sparsity is k.

    Where a coder writes another site than it reads, decoder rows begin at zero and have any length: directions that
    are drawn, or the encoder's, would first have to be unlearned, which in short runs costs a third of the error.

    Args:
        inputs: what is trained.
        rate: learning rate; by default 2e-4 / sqrt(width / 2^14), as the paper scales it.
        anneal: k begins at so many times its end and falls over the first 40 % of the steps; helps short runs.
        jump: export as JumpReLU with a threshold of the same mean L0.
    """
    return _largest(inputs, TopK(_annealed(inputs, anneal), jump), rate)


def batchtopk(inputs: RecipeInput, rate: int | float | None = None, anneal: int | float = 1.0) -> Spec:
    """BatchTopK with AuxK (Bussmann et al. 2024, arXiv 2412.06410), exported as JumpReLU; sparsity is k.

    Args:
        inputs: what is trained.
        rate: see `topk`.
        anneal: see `topk`.
    """
    return _largest(inputs, BatchTopK(_annealed(inputs, anneal)), rate)


def batchtopk_matryoshka(
    inputs: RecipeInput,
    rate: int | float | None = None,
    anneal: int | float = 1.0,
    prefixes: tuple[int, ...] | None = None,
) -> Spec:
    """BatchTopK whose first latents must do alone as well (Bussmann et al. 2025, arXiv 2503.17547); sparsity is k.

    Args:
        inputs: what is trained.
        rate: see `topk`.
        anneal: see `topk`.
        prefixes: widths of the nested dictionaries; by default a 16th, an 8th, a quarter, half and all of the width.
    """
    return _largest(inputs, BatchTopK(_annealed(inputs, anneal)), rate, prefixes or _halves(inputs.width))


def gemma_scope_1(
    inputs: RecipeInput, rate: int | float = 7e-5, ramp: int = 10_000, fires: int | float | None = None
) -> Spec:
    """JumpReLU with a linear L0 penalty (Lieberum et al. 2024, arXiv 2408.05147); sparsity is the penalty's weight.

    Transcoders begin with untied encoders and without the bias before the encoder, as appendix B.2 says. Short runs
    need a larger rate and `fires`: thresholds are learned as logarithms, so from their first value, 0.001, they move
    by a factor of e in 1 / rate steps.

    Args:
        inputs: what is trained.
        rate: learning rate after 1,000 steps of warm-up (fewer in a short run).
        ramp: steps over which the penalty's weight rises.
        fires: latents per token that are on in the beginning, by their thresholds; about half of them by default.
    """
    weight = Ramp(inputs.sparsity, 0.0, min(ramp, inputs.steps // 4))
    return _gemma(inputs, rate, fires, ((weight, L0()),))


def gemma_scope_2(
    inputs: RecipeInput,
    rate: int | float = 7e-5,
    weight: int | float = 1e-3,
    frequency: int | float = 0.0,
    prefixes: tuple[int, ...] | None = None,
    ramp: int = 50_000,
    fires: int | float | None = None,
    origin: int | float | None = None,
) -> Spec:
    """JumpReLU, quadratic L0, Matryoshka, frequency penalty (Gemma Scope 2 report, equations 4 and 5); sparsity is L0.

    The report leaves open the weight, the frequency penalty's form (here that of its authors' earlier update) and
    the prefixes; see `QuadraticL0` for the factor that it states in two ways.

    Args:
        inputs: what is trained.
        rate: see `gemma_scope_1`.
        weight: of the quadratic penalty.
        frequency: of the frequency penalty, as a share of `weight`.
        prefixes: see `batchtopk_matryoshka`; `()` for none.
        ramp: steps over which the weights rise.
        fires: see `gemma_scope_1`.
        origin: L0 that is aimed at in the beginning, where latents are taken from other coders: the sum of theirs.
    """
    rise, aim = min(ramp, inputs.steps // 4), Ramp(inputs.sparsity, origin, min(ramp, inputs.steps // 2))
    penalties: list[tuple[Ramp, Term]] = [(Ramp(weight, 0.0, rise), QuadraticL0(aim))]
    if frequency:
        penalties.append((Ramp(weight * frequency, 0.0, rise), Frequency()))
    return _gemma(inputs, rate, fires, penalties, _halves(inputs.width) if prefixes is None else prefixes)


def anthropic_jumprelu(
    inputs: RecipeInput, rate: int | float = 2e-4, silence: float = 3e-6, fires: float = 10_000
) -> Spec:
    """JumpReLU with a tanh penalty whose gradient reaches all parameters (Anthropic, January 2025 update).

    Sparsity is the penalty's weight, 10 to 20 in the source. There rows have mean length sqrt(d), and errors are d
    times ours: thresholds, kernel width and the scale of tanh are converted by sqrt(d), weights by d.

    Args:
        inputs: what is trained.
        rate: learning rate, level and then straight to 0 over the last fifth.
        silence: weight of the penalty on latents below their threshold, in the source's units.
        fires: latents per token that are on in the beginning (each of m fires 10,000 / m of the time); at most half.
    """
    unit = sqrt(inputs.d_in)
    length = 1 / sqrt(3)  # of a row drawn uniformly from +- 1 / sqrt(d)
    return inputs.spec(
        gate=JumpReLU(0.1 / unit, 2.0 / unit),
        terms=(
            (ALWAYS, Reconstruction()),
            (Ramp(inputs.sparsity / unit**2, 0.0, inputs.steps), Tanh(4.0 * unit)),
            (Ramp(silence / unit), Silence()),
        ),
        adam=Adam(Rate(rate, decay=inputs.steps // 5)),
        start=Start(True, length, length * inputs.d_in / inputs.width, fires=min(fires, inputs.width / 2)),
        centred=False,
    )


def clt(inputs: RecipeInput, rate: int | float | None = None, anneal: int | float = 1.0) -> Spec:
    """BatchTopK on each layer's latents, exported as JumpReLU (Gemma Scope 2 report, B.1); sparsity is k per layer.

    The report's appendix B opens with "only JumpReLU in the final release" and ends with "for multi-layer we typically
    train BatchTopK, then convert to JumpReLU"; the latter is followed, as it keeps the sparse form throughout.
    Gradients of AuxK reach each layer's dead latents. Nothing is subtracted from the input.

    Args:
        inputs: what is trained; any layout, cross-layer transcoders and crosscoders foremost.
        rate: see `topk`.
        anneal: see `topk`.
    """
    spec = batchtopk(inputs, rate, anneal)
    return replace(spec, start=replace(spec.start, pre_bias=False))


RECIPES: dict[str, Callable[..., Spec]] = {
    recipe.__name__: recipe
    for recipe in (topk, batchtopk, batchtopk_matryoshka, gemma_scope_1, gemma_scope_2, anthropic_jumprelu, clt)
}
"""All of them, by name."""

WEIGHTED = ("gemma_scope_1", "anthropic_jumprelu")
"""Recipes whose sparsity is the weight of a penalty, and not a number of latents."""


def grid(
    recipe: str,
    layouts: Sequence[Layout],
    stream: Stream,
    steps: int,
    widths: Sequence[int],
    sparsities: Sequence[int | float],
    seeds: Sequence[int] = (0,),
    numbers: Mapping[str, Any] | None = None,
) -> list[Spec]:
    """The specs of every combination of sites, widths, sparsities and seeds; grids of several recipes are added.

    Args:
        recipe: a key of `RECIPES`.
        layouts: sites of each coder.
        stream: what they will train from.
        steps: batches.
        widths: latents of each part.
        sparsities: latents per token, or the weight of the penalty, as the recipe takes it.
        seeds: of the initial directions.
        numbers: further arguments of the recipe, or of `RecipeInput`: `dead_window`, `resample`, `products`.

    Raises:
        NotFound: there is no such recipe.
        BadInput: a number that the recipe does not take, or an axis without a value.
    """
    if recipe not in RECIPES:
        raise NotFound(f"There is no recipe {recipe!r}; {nearest(recipe, RECIPES, most=len(RECIPES))}.")
    its, numbers = list(signature(RECIPES[recipe]).parameters)[1:], numbers or {}
    allowed = [*its, "dead_window", "resample", "products"]
    wrong = [name for name in numbers if name not in allowed]
    if wrong:
        raise BadInput(f"The recipe {recipe} takes no {wrong[0]!r}; {nearest(wrong[0], allowed, most=len(allowed))}.")
    own = {name: value for name, value in numbers.items() if name in its}
    common = {name: value for name, value in numbers.items() if name not in its}
    several, weighted = len(widths) * len(sparsities) * len(seeds) > 1, recipe in WEIGHTED
    specs = []
    for layout, width, sparsity, seed in product(layouts, widths, sparsities, seeds):
        name, d_in = layout.name, stream.widths.get(layout.reads[0].name, 1)
        if several:  # as releases write it
            name += f"/width_{width_word(width)}_{'weight' if weighted else 'l0'}_{sparsity:g}"
            name += f"_seed_{seed}" if len(seeds) > 1 else ""
        tags = (("affine",) if layout.skip else ()) + ((f"seed_{seed}",) if len(seeds) > 1 else ())
        spec = RECIPES[recipe](RecipeInput(layout, width, sparsity, steps, stream.batch, d_in, **common), **own)
        specs.append(replace(spec, name=name, seed=seed, l0=None if weighted else sparsity, tags=tags))
    if not specs:
        raise BadInput("A grid needs at least one site, width, sparsity and seed.")
    return specs


def _largest(
    inputs: RecipeInput, gate: TopK | BatchTopK, rate: int | float | None, prefixes: tuple[int, ...] = ()
) -> Spec:
    same = inputs.layout.reads == inputs.layout.writes
    peak = 2e-4 / sqrt(inputs.width / 2**14) if rate is None else rate
    return inputs.spec(
        gate=gate,
        terms=((ALWAYS, Reconstruction()), (Ramp(1 / 32), AuxK())),
        adam=Adam(Rate(peak, warmup=min(1000, inputs.steps // 20), decay=inputs.steps // 5)),
        start=Start(pre_bias=inputs.layout.same) if same else Start(tied=False, decoder=0.0),
        prefixes=prefixes,
        unit=same,
    )


def _gemma(
    inputs: RecipeInput,
    rate: int | float,
    fires: int | float | None,
    penalties: Sequence[tuple[Ramp, Term]],
    prefixes: tuple[int, ...] = (),
) -> Spec:
    same = inputs.layout.same
    return inputs.spec(
        gate=JumpReLU(0.001, 0.001),
        terms=((ALWAYS, Reconstruction()), *penalties),
        adam=Adam(Rate(rate, min(1000, inputs.steps // 20), floor=0.1, cosine=True), (0.0, 0.999)),
        start=Start(tied=same, pre_bias=same, fires=fires, raised=True),
        prefixes=prefixes,
        centred=False,
        unit=True,
    )


def _annealed(inputs: RecipeInput, times: int | float) -> Ramp:
    return Ramp(inputs.sparsity, inputs.sparsity * times, round(0.4 * inputs.steps))


def _halves(width: int) -> tuple[int, ...]:
    return tuple(sorted({max(1, width // 2**n) for n in range(5)}))
