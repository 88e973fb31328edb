"""Where an edit acts: which tokens of a text, so that it means the same with and without a key-value cache.

Positions are those of the prompt: `last` and negative ones count from its end, however much is generated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from glassworks.edits.targets import FeatureRef
from glassworks.errors import BadInput, NotFound

NAMES = {
    "all": "everywhere",
    "prompt": "in the prompt",
    "generated": "in what is generated",
    "last": "at the prompt's last token",
}
"""The places that have a name, and how it reads."""


@final
@dataclass(frozen=True)
class Span:
    """The tokens whose text overlaps some characters of the prompt.

    Attributes:
        start: the first character, counted from 0; special tokens such as BOS have none.
        stop: the character after the last.
    """

    start: int
    stop: int

    def __post_init__(self) -> None:
        """Raise BadInput where it holds no character."""
        if not 0 <= self.start < self.stop:
            raise BadInput(f"The characters {self.start} to {self.stop} are none; give 0 <= start < stop.")

    @classmethod
    def of(cls, prompt: str, part: str) -> "Span":
        """The first place of a text in a prompt; NotFound where it is not in it."""
        start = prompt.find(part)
        if start < 0 or not part:
            raise NotFound(f"The prompt {prompt!r} does not hold the text {part!r}; copy it from the prompt.")
        return cls(start, start + len(part))


@final
@dataclass(frozen=True)
class Gate:
    """Only while another feature is active.

    Attributes:
        feature: which; without a position it is read at the token that is changed, else at that token of the prompt.
        above: its activation must be above this.
        where: which tokens are considered at all.
    """

    feature: FeatureRef
    above: float | int = 0.0
    where: "str | tuple[int, ...] | Span" = "all"


Where = str | tuple[int, ...] | Span | Gate


def where_of(given: Any) -> Where:
    """Turn what a user gave into a place: a name, a position, several, a `Span`, or a `Gate`.

    Raises:
        BadInput: another name, no position, or one named twice.
    """
    if isinstance(given, Gate):
        if isinstance(given.where, Gate):
            raise BadInput("A gate cannot hold another one; let one feature decide.")
        return Gate(given.feature, float(given.above), where_of(given.where))  # pyright: ignore[reportArgumentType]
    if isinstance(given, Span):
        return given
    if isinstance(given, str):
        if given not in NAMES:
            raise BadInput(f"An edit acts at {', '.join(NAMES)}, positions, a Span or a Gate; got {given!r}.")
        return given
    positions = [given] if isinstance(given, int) else list(given) if isinstance(given, Sequence) else []
    if not positions or not all(isinstance(position, int) for position in positions):
        raise BadInput(f"An edit acts at {', '.join(NAMES)}, positions, a Span or a Gate; got {given!r}.")
    if len(set(positions)) < len(positions):
        raise BadInput(f"A position is named twice in {positions}; name each once.")
    return tuple(positions)


def named_positions(where: Where, length: int, spans: Sequence[tuple[int, int]] | None = None) -> list[int]:
    """The prompt's positions that a place selects, in the order in which they are named; of a gate, those it may open.

    Args:
        where: the place.
        length: how many tokens the prompt has.
        spans: the characters of each token; only a `Span` needs them.

    Raises:
        BadInput: a position or character lies outside the prompt.
    """
    match where:
        case Gate():
            return named_positions(where.where, length, spans)
        case str():
            return {"generated": [], "last": [length - 1]}.get(where, list(range(length)))
        case Span(start, stop):
            characters = max((end for _, end in spans or ()), default=0)
            if stop > characters:
                raise BadInput(f"An edit names the characters {start} to {stop}; the prompt's text has {characters}.")
            return [token for token, (first, end) in enumerate(spans or ()) if first < stop and end > start]
        case _:
            return [position_in(position, length) for position in where]


def position_in(position: int, length: int) -> int:
    """A position counted from the start; BadInput where it lies outside the prompt."""
    if not -length <= position < length:
        raise BadInput(f"An edit names the position {position}; the prompt has {length} tokens, 0 to {length - 1}.")
    return position % length


def format_where(where: Where) -> str:
    """The place in words, to end a sentence; nothing where it is everywhere."""
    match where:
        case Gate():
            return f"{format_where(where.where)} where {where.feature} is above {where.above:g}"
        case str():
            return "" if where == "all" else f" {NAMES[where]}"
        case Span(start, stop):
            return f" at characters {start} to {stop}"
        case _:
            return f" at position{'s' * (len(where) > 1)} {', '.join(map(str, where))}"
