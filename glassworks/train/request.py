"""Requests: what to train, as a person types it: a recipe and words like `width=4k,16k l0=10,50`; and what it takes."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, final

import torch

from glassworks.coders import width_word
from glassworks.errors import BadInput, NotFound, nearest
from glassworks.harvest import Stream
from glassworks.sites import Site
from glassworks.train.layouts import PAIRED, PAIRS, layouts
from glassworks.train.recipes import WEIGHTED, grid
from glassworks.train.spec import Spec
from glassworks.train.terms import L1, Silence

STEPS, BATCH = 20_000, 4096
OWN = ("kind", "sites", "width", "l0", "weight", "seed", "steps", "tokens", "batch", "flatten")
"""What is not a number of a spec."""

BYTES, STATES = 4, 3
"""Of each number, and the numbers kept for each parameter: itself, and two moments."""
SPARSE_STEP, DENSE_STEP = 1.5, 8.0
"""How many encoder products a sparse step takes as long as, and a dense one: five products and element-wise work."""


@final
@dataclass(frozen=True)
class Request:
    """What to train.

    Attributes:
        recipe: a key of `RECIPES`.
        kinds: of coders; see `layouts`.
        sites: kinds of sites or single ones; all that there are if empty.
        widths: latents of each part.
        sparsities: as the recipe takes them.
        seeds: of the initial directions.
        steps: batches.
        batch: tokens in each.
        flatten: how much more often rare tokens are drawn than they occur; see `Rows`.
        numbers: the recipe's own, and those that every recipe takes; see `grid`.
    """

    recipe: str
    kinds: tuple[str, ...]
    sites: tuple[str, ...]
    widths: Sequence[int]
    sparsities: Sequence[float]
    seeds: Sequence[int]
    steps: int
    batch: int
    flatten: int | float = 0.0
    numbers: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, recipe: str, words: Sequence[str]) -> "Request":
        """Read words like `width=16k`, `l0=10,50,150`, `kind=transcoder`, `rate=3e-4`.

        Raises:
            BadInput: a word without `=`, or a value that is no number where one is needed.
        """
        given: dict[str, str] = {}
        for word in words:
            key, equals, value = word.partition("=")
            if not equals or not value:
                raise BadInput(f"The setting {word!r} is not understood; write key=value, as in width=4k,16k.")
            given[key] = value
        measure, other = ("weight", "l0") if recipe in WEIGHTED else ("l0", "weight")
        if other in given and measure not in given:
            raise BadInput(f"The recipe {recipe} takes its sparsity as {measure}=, not {other}=.")
        if measure not in given:
            raise BadInput(f"The recipe {recipe} needs {measure}=, one or more numbers.")
        batch = int(_number("batch", given.get("batch", str(BATCH))))
        tokens = given.get("tokens")
        steps = _number("steps", given.get("steps", str(STEPS))) if tokens is None else _count(tokens, {}) // batch
        return cls(
            recipe=recipe,
            kinds=_listed(given.get("kind", "sae")),
            sites=_listed(given.get("sites", "")),
            widths=[_count(width) for width in _listed(given.get("width", "16k"))],
            sparsities=[_number(measure, sparsity) for sparsity in _listed(given[measure])],
            seeds=[int(_number("seed", seed)) for seed in _listed(given.get("seed", "0"))],
            steps=int(steps),
            batch=batch,
            flatten=_number("flatten", given.get("flatten", "0")),
            numbers={key: _value(key, text) for key, text in given.items() if key not in (*OWN, measure)},
        )

    def chosen(self, sites: Sequence[str]) -> list[Site]:
        """Of the sites that there are, those that the coders need.

        Raises:
            NotFound: one that was asked for is not there.
        """
        return list(dict.fromkeys(site for kind in self.kinds for site in self._of(kind, sites)))

    def specs(self, stream: Stream) -> list[Spec]:
        """The specs of all kinds, for a stream."""
        specs = []
        for kind in self.kinds:
            ends, axes = layouts(kind, self._of(kind, [*stream.widths])), (self.widths, self.sparsities, self.seeds)
            specs += grid(self.recipe, ends, stream, self.steps, *axes, self.numbers)
        return specs

    def _of(self, kind: str, sites: Sequence[str]) -> list[Site]:
        """The sites of one kind of coder; what a transcoder writes comes with what it reads."""
        there = [Site.parse(site) for site in sites]
        for word in self.sites:
            if not any(word in (site.name, site.kind) for site in there):
                known = [*dict.fromkeys(site.kind for site in there), *sites]
                raise NotFound(f"There are no activations at {word!r}; {nearest(word, known, most=20)}.")
        named = [site for site in there if not self.sites or {site.name, site.kind} & set(self.sites)]
        written = [Site(PAIRS[site.kind], site.layer) for site in named if kind in PAIRED and site.kind in PAIRS]
        return [*named, *(site for site in written if site in there and site not in named)]


def estimate(specs: Sequence[Spec], stream: Stream) -> dict[str, Any]:
    """Parameters, memory, disk, tokens and hours of a training, the time by a timed product of each shape.

    Args:
        specs: of the coders.
        stream: gives their batches.
    """
    parameters, seconds = [], 0.0
    for spec in specs:
        dense = any(isinstance(term, Silence | L1) for _, term in spec.terms)
        learned = len(spec.gate.parameters(torch.ones(1))) * spec.width * len(spec.layout.parts)
        count = learned + sum(stream.widths[site.name] for site in spec.layout.writes)
        for reads, writes in spec.layout.parts:
            d_in, d_out = (sum(stream.widths[site.name] for site in sites) for sites in (reads, writes))
            count += spec.width * (d_in + d_out + 1) + (d_in * d_out if spec.layout.skip else 0)
            product = _product_seconds(d_in, spec.width, stream.batch, spec.products)
            seconds += spec.steps * product * (DENSE_STEP if dense else SPARSE_STEP)
        parameters.append(count)
    steps = max(spec.steps for spec in specs)
    return {
        "coders": len(specs),
        "parameters": sum(parameters),
        "tokens": steps * stream.batch,
        "steps": steps,
        "memory GB": (sum(parameters) * STATES + max(parameters)) * BYTES / 1e9,
        "scope GB": sum(parameters) * BYTES / 1e9,
        "checkpoint GB": sum(parameters) * STATES * BYTES / 1e9,
        "hours": seconds / 3600,
    }


@cache
def _product_seconds(d_in: int, latents: int, batch: int, products: str) -> float:
    """Seconds of one encoder product, by timing a part of it."""
    rows = max(1, min(batch, 2**31 // (2 * d_in * latents)))
    dtype = getattr(torch, products)
    x, w = torch.randn(rows, d_in, dtype=dtype), torch.randn(d_in, latents, dtype=dtype)
    began = time.perf_counter()
    _ = x @ w
    return (time.perf_counter() - began) * batch / rows


def _listed(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadInput(f"The value of {key} is {text!r}; it must be a number.") from None


POWERS = {width_word(2**n): 2**n for n in range(12, 31)}
"""What releases call 16k is 2^14, and so on."""


def _count(text: str, names: Mapping[str, int] = POWERS) -> int:
    """`1536`, `16k`, `1m`, `2b`."""
    scales = {"k": 1_000, "m": 1_000_000, "b": 1_000_000_000}
    text = text.lower()
    if text in names:
        return names[text]
    return round(_number("width", text.rstrip("kmb")) * scales.get(text[-1], 1))


def _value(key: str, text: str) -> Any:
    """A recipe's number: true, false, none, a number, or several with commas; the type of products is a word."""
    words: dict[str, Any] = {"true": True, "false": False, "none": None}
    if key == "products":
        return text
    if text.lower() in words:
        return words[text.lower()]
    if "," in text:
        return tuple(_count(number) for number in _listed(text))
    return int(text) if text.isdigit() else _number(key, text)
