"""Tables: the members of a fleet, as every combination of sites, widths, sparsities and seeds of one recipe.

A table is a list, so tables of several recipes and kinds are added. This module must not know how any of it trains.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from itertools import product
from typing import Any, final

from glassworks.coders import width_word
from glassworks.errors import BadInput, NotFound, nearest
from glassworks.harvest import Stream
from glassworks.train.layouts import Layout
from glassworks.train.objective import Objective
from glassworks.train.recipes import PATIENCE, RECIPES, WEIGHTED, Order, Recipe
from glassworks.train.trainee import Member


@final
@dataclass(frozen=True)
class Axes:
    """What a table's members differ in beside their sites.

    Attributes:
        widths: latents of each part.
        sparsities: latents a token, or the weight of the penalty, as the recipe takes it.
        seeds: of the initial directions.
    """

    widths: Sequence[int]
    sparsities: Sequence[int | float]
    seeds: Sequence[int] = (0,)


def table(
    recipe: str,
    layouts: Sequence[Layout],
    axes: Axes,
    stream: Stream,
    steps: int,
    numbers: Mapping[str, Any] | None = None,
) -> list[Member]:
    """The members of a fleet.

    Args:
        recipe: a key of `RECIPES`.
        layouts: sites of each coder.
        axes: widths, sparsities, seeds.
        stream: what they will train from.
        steps: batches.
        numbers: further arguments of the recipe, or of `tuned`.

    Raises:
        NotFound: there is no such recipe.
        BadInput: a number that the recipe does not take, or an axis without a value.
    """
    made = _recipe(recipe, numbers or {})
    found = []
    several = len(axes.widths) * len(axes.sparsities) * len(axes.seeds) > 1
    for layout, width, sparsity, seed in product(layouts, axes.widths, axes.sparsities, axes.seeds):
        d_in = stream.widths.get(layout.reads[0].name, 1)
        order = Order(layout, width, sparsity, steps, stream.batch, d_in)
        name = layout.name + (f"/{_words(recipe, axes, width, sparsity, seed)}" if several else "")
        tags = (("affine",) if layout.skip else ()) + ((f"seed_{seed}",) if len(axes.seeds) > 1 else ())
        found.append(Member(name, made(order), seed, None if recipe in WEIGHTED else sparsity, tags))
    if not found:
        raise BadInput("A fleet needs at least one site, width, sparsity and seed.")
    return found


def tuned(
    objective: Objective,
    order: Order,
    patience: int | float = PATIENCE,
    resample: int = 0,
    products: str = "float32",
) -> Objective:
    """An objective with numbers that no recipe is about.

    Args:
        objective: what a recipe made.
        order: of what.
        patience: share of the training's tokens without which a latent is dead; at most ten million tokens.
        resample: so many steps apart dead latents begin anew, in the first half of the training; 0 for never.
        products: type of the encoder's product, float32 or bfloat16.
    """
    return replace(objective, dead=order.dead(patience, resample), products=products)


def _recipe(name: str, numbers: Mapping[str, Any]) -> Recipe:
    if name not in RECIPES:
        raise NotFound(f"There is no recipe {name!r}; {nearest(name, RECIPES, most=len(RECIPES))}.")
    own, every = (list(signature(each).parameters) for each in (RECIPES[name], tuned))
    allowed = [*own[1:], *every[2:]]
    wrong = [each for each in numbers if each not in allowed]
    if wrong:
        raise BadInput(f"The recipe {name} takes no {wrong[0]!r}; {nearest(wrong[0], allowed, most=len(allowed))}.")
    mine, rest = ({key: value for key, value in numbers.items() if key in names} for names in (own, every))
    return lambda order: tuned(RECIPES[name](order, **mine), order, **rest)


def _words(recipe: str, axes: Axes, width: int, sparsity: int | float, seed: int) -> str:
    """What tells a member from the others at its sites, as releases write it."""
    words = f"width_{width_word(width)}_{'weight' if recipe in WEIGHTED else 'l0'}_{sparsity:g}"
    return words + (f"_seed_{seed}" if len(axes.seeds) > 1 else "")
