"""Where an edit acts: which tokens of a text, named so that it means the same with and without a key-value cache.

Positions are those of the prompt: `last` and negative ones count from its end, however much is generated. This
module must not know what is changed there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from glassworks.edits.refs import FeatureRef
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
    """The tokens that show some characters of the prompt, those at the borders included.

    Attributes:
        start: the first character, counted from 0; special tokens such as BOS show none.
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
        where: which tokens are meant at all.
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
            raise BadInput("A gate stands in another one; let one feature decide.")
        return Gate(given.feature, float(given.above), where_of(given.where))  # pyright: ignore[reportArgumentType]
    if isinstance(given, Span):
        return given
    if isinstance(given, str):
        if given not in NAMES:
            raise BadInput(f"An edit acts at {', '.join(NAMES)}, positions, a Span or a Gate; got {given!r}.")
        return given
    listed = [given] if isinstance(given, int) else list(given) if isinstance(given, Sequence) else []
    if not listed or not all(isinstance(each, int) for each in listed):
        raise BadInput(f"An edit acts at {', '.join(NAMES)}, positions, a Span or a Gate; got {given!r}.")
    if len(set(listed)) < len(listed):
        raise BadInput(f"A position is named twice in {listed}; name each once.")
    return tuple(listed)


def named_positions(where: Where, length: int, spans: Sequence[tuple[int, int]] | None = None) -> list[int]:
    """The positions of a prompt that are meant, in the order in which they are named; a gate's are those it may open.

    Args:
        where: the place.
        length: how many tokens the prompt has.
        spans: the characters that each token shows; only a `Span` needs them.

    Raises:
        BadInput: a position or character lies outside the prompt.
    """
    match where:
        case Gate():
            return named_positions(where.where, length, spans)
        case str():
            return {"generated": [], "last": [length - 1]}.get(where, list(range(length)))
        case Span(start, stop):
            shown = [] if spans is None else spans
            if stop > max((end for _, end in shown), default=0):
                ends = max((end for _, end in shown), default=0)
                raise BadInput(f"An edit names the characters {start} to {stop}; the prompt's text has {ends}.")
            return [token for token, (first, end) in enumerate(shown) if first < stop and end > start]
        case _:
            return [position_in(each, length) for each in where]


def position_in(position: int, length: int) -> int:
    """A position counted from the start; BadInput where it lies outside the prompt."""
    if not -length <= position < length:
        raise BadInput(f"An edit names the position {position}; the prompt has {length} tokens, 0 to {length - 1}.")
    return position % length


def said(where: Where) -> str:
    """The place in words, to end a sentence; nothing where it is everywhere."""
    match where:
        case Gate():
            return f"{said(where.where)} where {where.feature} is above {where.above:g}"
        case str():
            return "" if where == "all" else f" {NAMES[where]}"
        case Span(start, stop):
            return f" at characters {start} to {stop}"
        case _:
            return f" at position{'s' * (len(where) > 1)} {', '.join(map(str, where))}"


def plain_where(where: Where) -> Any:
    """The place as JSON values; `read_where` reads it back."""
    match where:
        case Gate():
            return {"gate": str(where.feature), "above": where.above, "where": plain_where(where.where)}
        case Span(start, stop):
            return {"characters": [start, stop]}
        case str():
            return where
        case _:
            return list(where)


def read_where(plain: Any) -> Where:
    """Read a place back; KeyError or TypeError where it is none."""
    if not isinstance(plain, Mapping):
        return where_of(plain)
    if "gate" in plain:
        inner: Any = read_where(plain.get("where", "all"))
        return where_of(Gate(FeatureRef.parse(str(plain["gate"])), float(plain.get("above", 0.0)), inner))
    start, stop = plain["characters"]
    return Span(int(start), int(stop))
