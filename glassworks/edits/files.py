"""Edits as files: JSON that names the model and the scope, and how two edits differ.

This module must not know how an edit acts.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glassworks import hub
from glassworks.artefacts import read_json, replace_text
from glassworks.coders import Scope
from glassworks.edits.edit import Edit
from glassworks.edits.make import coders_of
from glassworks.edits.source import read_source
from glassworks.edits.targets import read_target
from glassworks.edits.where import read_where
from glassworks.errors import BadArtefact, BadInput, GlassworksError
from glassworks.models import Model

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
        target, where = read_target(plain["target"]), read_where(plain.get("where", "all"))
        error = str(plain.get("error", "keep"))
        return Edit(
            operation=str(plain["operation"]),
            target=target,
            amounts=_amounts(plain.get("amounts", [])),
            where=where,
            unit=str(plain.get("unit", "absolute")),
            sizes=tuple(float(each) for each in plain.get("sizes", [])),
            error=error,
            effect=str(plain.get("effect", "total")),
            source=read_source(plain.get("source")),
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
        model: the model that they shall act on.
        scope: the scope of their features.

    Raises:
        BadArtefact: the file is no file of edits.
        BadInput: the edits are for another model or scope, or do not fit.
        NotFound: the model or the scope lacks what they name.
    """
    stored = read_json(Path(path))
    if not isinstance(stored, dict) or stored.get("kind") != "edits" or not isinstance(stored.get("edits"), list):
        raise BadArtefact(f"The file {path} holds no edits; save_edits writes such files.")
    if stored.get("schema", 0) > SCHEMA:
        raise BadArtefact(f"The edits {path} were written by a newer version; update Glassworks to read them.")
    _check_name(path, "model", stored.get("model"), model.name)
    if stored.get("scope") is not None and scope is not None:
        _check_name(path, "scope", stored["scope"], scope.name)
    edits = [read_edit(each, scope) for each in stored["edits"]]
    for edit in edits:
        edit.check(model)
    return edits


def difference(a: Edit, b: Edit) -> dict[str, tuple[Any, Any]]:
    """What differs between two edits: name of a part -> its plain values in the one and in the other."""
    one, other = a.plain(), b.plain()
    return {name: (one[name], other[name]) for name in one if one[name] != other[name]}


def _amounts(plain: Sequence[float | int | None]) -> tuple[float, ...]:
    """Numbers; JSON has no infinity, so an open side of a range is null."""
    inf = float("inf")
    return tuple((-inf, inf)[bool(place)] if each is None else float(each) for place, each in enumerate(plain))


def _check_name(path: Path | str, kind: str, stored: Any, given: str) -> None:
    """BadInput where two references mean different things; where a folder lies does not matter."""
    names = [
        Path(hub.ALIASES.get(str(each), str(each))).name.removesuffix(hub.SUFFIX[kind]) for each in (stored, given)
    ]
    if names[0] != names[1]:
        raise BadInput(f"The edits {path} are for the {kind} {stored}, not for {given}; give that {kind}.")
