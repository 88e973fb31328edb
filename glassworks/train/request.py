"""Requests: what to train, as a person types it: a recipe and words like `width=4k,16k l0=10,50`.

This module turns words into a table of members; it must not know where activations come from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from glassworks.coders import width_word
from glassworks.errors import BadInput, NotFound, nearest
from glassworks.harvest import Stream
from glassworks.sites import Site
from glassworks.train.layouts import PAIRED, PAIRS, layouts
from glassworks.train.recipes import WEIGHTED
from glassworks.train.table import Axes, table
from glassworks.train.trainee import Member

STEPS, BATCH = 20_000, 4096
OWN = ("kind", "sites", "width", "l0", "weight", "seed", "steps", "tokens", "batch", "flatten")
"""What is not a number of an objective."""


@final
@dataclass(frozen=True)
class Request:
    """A training that was asked for.

    Attributes:
        recipe: a key of `RECIPES`.
        kinds: of coders; see `layouts`.
        sites: kinds of sites or single ones; all that there are if empty.
        axes: widths, sparsities, seeds.
        steps: batches.
        batch: tokens in each.
        flatten: how much more often rare tokens are drawn than they occur; see `Rows`.
        numbers: the recipe's own, and those that every objective has; see `table`.
    """

    recipe: str
    kinds: tuple[str, ...]
    sites: tuple[str, ...]
    axes: Axes
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
        given = dict(_split(word) for word in words)
        measure = "weight" if recipe in WEIGHTED else "l0"
        other = "l0" if measure == "weight" else "weight"
        if other in given and measure not in given:
            raise BadInput(f"The recipe {recipe} takes its sparsity as {measure}=, not {other}=.")
        if measure not in given:
            raise BadInput(f"The recipe {recipe} needs {measure}=, one or more numbers.")
        batch = int(_number("batch", given.get("batch", str(BATCH))))
        tokens = given.get("tokens")
        steps = _number("steps", given.get("steps", str(STEPS))) if tokens is None else _count(tokens, {}) // batch
        axes = Axes(
            [_count(each) for each in _listed(given.get("width", "16k"))],
            [_number(measure, each) for each in _listed(given[measure])],
            [int(_number("seed", each)) for each in _listed(given.get("seed", "0"))],
        )
        own = (*OWN, measure)
        numbers = {key: _value(key, text) for key, text in given.items() if key not in own}
        kinds, sites = _listed(given.get("kind", "sae")), _listed(given.get("sites", ""))
        flatten = _number("flatten", given.get("flatten", "0"))
        return cls(recipe, kinds, sites, axes, int(steps), batch, flatten, numbers)

    def chosen(self, sites: Sequence[str]) -> list[Site]:
        """Of the sites that there are, those that the coders need.

        Raises:
            NotFound: one that was asked for is not there.
        """
        return list(dict.fromkeys(site for kind in self.kinds for site in self._of(kind, sites)))

    def members(self, stream: Stream) -> list[Member]:
        """The table of all kinds, for a stream."""
        found = []
        for kind in self.kinds:
            ends = layouts(kind, self._of(kind, [*stream.widths]))
            found += table(self.recipe, ends, self.axes, stream, self.steps, self.numbers)
        return found

    def _of(self, kind: str, sites: Sequence[str]) -> list[Site]:
        """The sites of one kind of coder; what a transcoder writes comes with what it reads."""
        there = [Site.parse(each) for each in sites]
        for word in self.sites:
            if not any(word in (site.name, site.kind) for site in there):
                known = [*dict.fromkeys(site.kind for site in there), *sites]
                raise NotFound(f"There are no activations at {word!r}; {nearest(word, known, most=20)}.")
        named = [site for site in there if not self.sites or {site.name, site.kind} & set(self.sites)]
        written = [Site(PAIRS[site.kind], site.layer) for site in named if kind in PAIRED and site.kind in PAIRS]
        return [*named, *(site for site in written if site in there and site not in named)]


def _split(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals or not value:
        raise BadInput(f"The setting {word!r} is not understood; write key=value, as in width=4k,16k.")
    return key, value


def _listed(text: str) -> tuple[str, ...]:
    return tuple(each for each in text.split(",") if each)


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
        return tuple(_count(each) for each in _listed(text))
    return int(text) if text.isdigit() else _number(key, text)
