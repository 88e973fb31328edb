"""The codec: dataclasses to plain JSON values and tensors, and back with every field checked.

A dataclass (or `msgspec.Struct`) says what a file holds: its annotations are the schema. What is read is validated by
msgspec, tensors by their jaxtyping shapes, and anything wrong ends as one sentence: which file, which field, what it
is, what it must be. This module must not know what any type means.

    @dataclass(frozen=True)
    class Fields:
        model: str
        sites: tuple[Site, ...]            # a type with `parse` is written as its text
        layers: Annotated[int, Meta(ge=1)]
        kind: Literal["sae", "clt"] = "sae"

    decode(Fields, read_json(file), f"file {file}")
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar, get_args, get_type_hints, overload

import msgspec
from msgspec import inspect

from glassworks.errors import BadArtefact, GlassworksError, nearest

Value = TypeVar("Value")
Error = type[GlassworksError]
ANY_KEY = "[...]"
"""msgspec's name of a value of a mapping, whatever its key."""

WORDS = {
    inspect.IntType: "a whole number",
    inspect.FloatType: "a number",
    inspect.StrType: "text",
    inspect.BoolType: "true or false",
    inspect.NoneType: "null",
    inspect.ListType: "a list",
    inspect.VarTupleType: "a list",
    inspect.SetType: "a list",
    inspect.DictType: "an object",
    inspect.DataclassType: "an object",
    inspect.StructType: "an object",
}
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def plain(value: Any) -> Any:
    """A value as JSON values: dataclasses become objects, types with `parse` their text; null stays null."""
    return msgspec.to_builtins(value, str_keys=True, enc_hook=_text)


def encode(value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a dataclass into its plain JSON values and its tensors; a tensor that is None is in neither."""
    held = {each.name: getattr(value, each.name) for each in fields(value)}
    hints = get_type_hints(type(value), include_extras=True)
    tensors = {name for name in held if _tensor_kind(hints[name]) is not None}
    return (
        {name: plain(each) for name, each in held.items() if name not in tensors},
        {name: each for name, each in held.items() if name in tensors and each is not None},
    )


@overload
def decode(
    kind: type[Value], values: Any, source: str, tensors: Mapping[str, Any] | None = None, error: Error = BadArtefact
) -> Value: ...
@overload
def decode(
    kind: Any, values: Any, source: str, tensors: Mapping[str, Any] | None = None, error: Error = BadArtefact
) -> Any: ...
def decode(
    kind: Any, values: Any, source: str, tensors: Mapping[str, Any] | None = None, error: Error = BadArtefact
) -> Any:
    """Make a value of a type from plain JSON values and tensors; keys that the type does not have are ignored.

    Args:
        kind: the type: a dataclass, a `Struct`, `dict[str, int]`, ... A Struct with `forbid_unknown_fields=True`
            refuses other keys.
        values: what was read.
        source: what was read, for messages: "file a/manifest.json".
        tensors: tensors by name, for those fields of a dataclass that are annotated as tensors. Axes of one name
            must have one length.
        error: the class of what is raised.

    Raises:
        BadArtefact: a field is missing or wrong; or `error`.
    """
    try:
        if tensors is None:
            return msgspec.convert(values, kind, dec_hook=_parsed)
        from jaxtyping import jaxtyped  # imports numpy

        values = {**values, **tensors}
        with jaxtyped("context"):  # remembers the lengths of named axes
            return msgspec.convert(values, kind, dec_hook=_parsed)
    except msgspec.ValidationError as wrong:
        raise error(_sentence(kind, values, source, str(wrong))) from wrong


def _text(value: Any) -> Any:
    if hasattr(type(value), "parse"):
        return str(value)
    if hasattr(value, "__fspath__"):
        return str(value)
    raise NotImplementedError(f"A {type(value).__name__} is no JSON value.")


def _parsed(kind: Any, value: Any) -> Any:
    """Read what msgspec leaves to us: tensors, and types that are written as text."""
    if hasattr(kind, "array_type"):
        if isinstance(value, kind):
            return value
        raise ValueError(f"it is {_format(value)}, and must be {_words(inspect.CustomType(kind))}")
    if hasattr(kind, "parse"):
        if not isinstance(value, str):
            raise ValueError(f"it is {_format(value)}, and must be text")
        return kind.parse(value)
    if isinstance(kind, type) and isinstance(value, kind):
        return value
    raise NotImplementedError(f"{kind} cannot be read from a file.")


def _tensor_kind(hint: Any) -> Any:
    """The jaxtyping annotation in a hint, `Float[...]` or `Float[...] | None`; None where it is no tensor's."""
    return next((each for each in (hint, *get_args(hint)) if hasattr(each, "array_type")), None)


def _sentence(kind: Any, values: Any, source: str, message: str) -> str:
    """Turn msgspec's message into ours, which says what was got as well."""
    text, _, path = message.rpartition(" - at `$")
    text, steps = (text, _steps(path.rstrip("`"))) if text else (message, [])
    steps = _concrete(kind, values, steps)
    found, info = values, _unwrapped(inspect.type_info(kind))
    for step in steps:
        found, info = found[step], _inner(info, step)
    name = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")
    place = f" in {name}" if name else ""
    key = text.rpartition(" `")[2].rstrip("`")
    if "required field" in text:
        return f"The {source} lacks the field {key!r}{place}; it must be {_words(_inner(info, key))}."
    if "unknown field" in text:
        return f"The {source} has the unknown field {key!r}{place}; {nearest(key, _names(info))}."
    if text.startswith(("Expected", "Invalid")):  # else it is the message of a hook or of a __post_init__
        text = f"it is {_format(found)}, and must be {_words(info)}"
    return f"The {source} {f'has a wrong field {name}' if name else 'is wrong'}: {text.rstrip('.')}."


def _steps(path: str) -> list[str | int]:
    """`.coders[...].k[0]` -> ["coders", "[...]", "k", 0]."""
    found = re.findall(r"\.([^.\[]+)|\[(\d+)\]|\[\.\.\.\]", path)
    return [name or (int(index) if index else ANY_KEY) for name, index in found]


def _concrete(kind: Any, values: Any, steps: Sequence[str | int]) -> list[Any]:
    """Find which key of a mapping is meant: the first whose value alone is refused as well."""
    known: list[Any] = []
    for step in steps:
        if step == ANY_KEY:
            for key in _get(values, known):
                try:
                    msgspec.convert(_only(values, known, key), kind, dec_hook=_parsed)
                except msgspec.ValidationError:
                    step = key
                    break
        known.append(step)
    return known


def _get(values: Any, steps: Sequence[Any]) -> Any:
    for step in steps:
        values = values[step]
    return values


def _only(values: Any, steps: Sequence[Any], key: Any) -> Any:
    """The same values, of one mapping in them one key only."""
    if not steps:
        return {key: values[key]}
    inner = _only(values[steps[0]], steps[1:], key)
    if isinstance(values, list | tuple):
        return [inner if n == steps[0] else each for n, each in enumerate(values)]
    return {**values, steps[0]: inner}


def _unwrapped(info: Any) -> Any:
    return info.type if isinstance(info, inspect.Metadata) else info


def _options(info: Any) -> list[Any]:
    return [_unwrapped(each) for each in info.types] if isinstance(info, inspect.UnionType) else [info]


def _names(info: Any) -> list[str]:
    return [each.encode_name for one in _options(info) for each in getattr(one, "fields", ())]


def _inner(info: Any, step: Any) -> Any:
    """The type of one field, item or value of a type."""
    for one in _options(info):
        found = {each.encode_name: each.type for each in getattr(one, "fields", ())}.get(step)
        found = found or getattr(one, "value_type", None) or getattr(one, "item_type", None)
        if found is None and isinstance(one, inspect.TupleType):
            found = one.item_types[step]
        if found is not None:
            return _unwrapped(found)
    return inspect.AnyType()


def _format(value: Any) -> str:
    """What was got, briefly."""
    if hasattr(value, "dtype"):
        return f"{str(value.dtype).removeprefix('torch.')} of shape ({' '.join(map(str, value.shape))})"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _words(info: Any) -> str:
    """What a type allows, in words."""
    if isinstance(info, inspect.UnionType):
        return " or ".join(_words(each) for each in _options(info))
    if isinstance(info, inspect.LiteralType):
        return "one of " + ", ".join(map(repr, info.values))
    if isinstance(info, inspect.CustomType):
        if hasattr(info.cls, "array_type"):
            return f"{info.cls.__name__.partition('[')[0].lower()} numbers of shape ({info.cls.dim_str})"
        return "text" if hasattr(info.cls, "parse") else info.cls.__name__
    bounds = [f"{word} {getattr(info, name)}" for name, word in BOUNDS.items() if getattr(info, name, None) is not None]
    return " ".join([WORDS.get(type(info), "something else"), *bounds])
