"""Edits as files: JSON that names the model and the scope, and how two edits differ."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glassworks import hub
from glassworks.artefacts import read_json, replace_text
from glassworks.coders import Scope
from glassworks.edits.edit import Edit, Source
from glassworks.edits.make import coders_of
from glassworks.edits.targets import Direction, FeatureRef, Features, Heads, Neurons, Target, Whole
from glassworks.edits.where import Gate, Span, Where, where_of
from glassworks.errors import BadArtefact, BadInput, GlassworksError
from glassworks.models import Model
from glassworks.sites import Site

SCHEMA = 1


def read_edit(plain: Mapping[str, Any], scope: Scope | None = None) -> Edit:
    """Read an edit from its plain form, `Edit.plain()`.

    Args:
        plain: JSON values.
        scope: gives the coders of its features.

    Raises:
        BadInput: the values are no edit, or it needs a scope.
        NotFound: the scope lacks a coder or feature.
    """
    try:
        target, where = _read_target(plain["target"]), _read_where(plain.get("where", "all"))
        error, source, inf = str(plain.get("error", "keep")), plain.get("source"), float("inf")
        if source is not None:
            prompt, place = source["prompt"], source.get("where")
            prompt = prompt if isinstance(prompt, str) else tuple(int(token) for token in prompt)
            source = Source(prompt, None if place is None else _read_where(place))
        # JSON has no infinity, so an open side of a range is null
        amounts = [(-inf, inf)[bool(side)] if amount is None else float(amount)
                   for side, amount in enumerate(plain.get("amounts", []))]  # fmt: skip
        return Edit(
            operation=str(plain["operation"]),
            target=target,
            amounts=tuple(amounts),
            where=where,
            unit=str(plain.get("unit", "absolute")),
            sizes=tuple(float(size) for size in plain.get("sizes", [])),
            error=error,
            effect=str(plain.get("effect", "total")),
            source=source,
            coders=coders_of(target, where, scope, error),
        )
    except GlassworksError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as wrong:
        reason = f"{type(wrong).__name__}: {wrong}".partition("\n")[0]
        raise BadInput(f"The values are no edit ({reason}); docs/edits.md shows one.") from wrong


def save_edits(path: Path | str, edits: Sequence[Edit], model: Model, scope: Scope | None = None) -> None:
    """Write edits to a JSON file, whole or not at all.

    Args:
        path: the file.
        edits: in the order in which they act.
        model: the model that they are for.
        scope: the scope of their features.
    """
    for edit in edits:
        edit.check(model)
    if scope is None and any(edit.refs for edit in edits):
        raise BadInput("Edits of features need their scope to be found again; pass it as well.")
    plain = {
        "kind": "edits",
        "schema": SCHEMA,
        "model": model.name,
        "scope": None if scope is None else scope.name,
        "edits": [edit.plain() for edit in edits],
    }
    replace_text(Path(path), json.dumps(plain, indent=1, ensure_ascii=False) + "\n")


def load_edits(path: Path | str, model: Model, scope: Scope | None = None) -> list[Edit]:
    """Read edits from a file of `save_edits`.

    Args:
        path: the file.
        model: the model that they are to act on.
        scope: the scope of their features.

    Raises:
        BadArtefact: the file holds no edits.
        BadInput: the edits are for another model or scope, or do not fit.
        NotFound: the model or the scope lacks what they name.
    """
    stored = read_json(Path(path))
    if not isinstance(stored, dict) or stored.get("kind") != "edits" or not isinstance(stored.get("edits"), list):
        raise BadArtefact(f"The file {path} holds no edits; save_edits writes such files.")
    if stored.get("schema", 0) > SCHEMA:
        raise BadArtefact(f"The edits {path} were written by a newer version; update Glassworks to read them.")
    named = [("model", stored.get("model"), model.name)]
    if stored.get("scope") is not None and scope is not None:
        named.append(("scope", stored["scope"], scope.name))
    for kind, saved, given in named:  # where a folder lies does not matter
        names = {
            Path(hub.ALIASES.get(str(name), str(name))).name.removesuffix(hub.SUFFIX[kind]) for name in (saved, given)
        }
        if len(names) > 1:
            raise BadInput(f"The edits {path} are for the {kind} {saved}, not for {given}; give that {kind}.")
    edits = [read_edit(plain, scope) for plain in stored["edits"]]
    for edit in edits:
        edit.check(model)
    return edits


def difference(a: Edit, b: Edit) -> dict[str, tuple[Any, Any]]:
    """What differs between two edits: name of a part -> its plain values in the one and in the other."""
    one, other = a.plain(), b.plain()
    return {name: (one[name], other[name]) for name in one if one[name] != other[name]}


def _read_target(plain: Mapping[str, Any]) -> Target:
    """A target; KeyError or TypeError where it is none."""
    if "features" in plain:
        return Features(tuple(FeatureRef.parse(str(text)) for text in plain["features"]))
    if "direction" in plain:
        return Direction.of(str(plain["site"]), [float(number) for number in plain["direction"]])
    if "heads" in plain:
        return Heads(tuple((int(layer), int(head)) for layer, head in plain["heads"]))
    if "neurons" in plain:
        return Neurons(int(plain["layer"]), tuple(int(index) for index in plain["neurons"]))
    return Whole(Site.parse(str(plain["whole"])))


def _read_where(plain: Any) -> Where:
    """A place; KeyError or TypeError where it is none."""
    if not isinstance(plain, Mapping):
        return where_of(plain)
    if "gate" in plain:
        inner: Any = _read_where(plain.get("where", "all"))
        return where_of(Gate(FeatureRef.parse(str(plain["gate"])), float(plain.get("above", 0.0)), inner))
    start, stop = plain["characters"]
    return Span(int(start), int(stop))
