"""The functions that make edits: what a user says, checked, with its coders, units and measured amounts filled in.

This module must not know how an edit acts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.coders import Coder
from glassworks.edits.edit import Edit
from glassworks.edits.reference import Reference
from glassworks.edits.refs import FeatureRef, Supernode
from glassworks.edits.source import Source
from glassworks.edits.targets import Direction, Features, Target, target_of
from glassworks.edits.where import Gate, Where, where_of
from glassworks.errors import BadInput, NotFound, Unsupported
from glassworks.models import Prompt
from glassworks.sites import Site

DRAWS = 16
"""How many tokens `resample` draws; tokens of a text take their values in turn."""
KINDS = ("zero", "mean", "resample")


def set_features(
    target: Any,
    values: float | int | Sequence[float | int],
    scope: Any = None,
    *,
    where: Any = "all",
    unit: str = "absolute",
    error: str = "keep",
    effect: str = "total",
    reference: Reference | None = None,
) -> Edit:
    """Make an edit that gives features, or other coordinates, these values, whatever they were.

    Args:
        target: a supernode, a feature or several, or a `Direction`, `Heads`, `Neurons` or site.
        values: one for all, or one for each.
        scope: gives the coders of features by id; a supernode brings its own.
        where: `all`, `prompt`, `generated`, `last`, positions of the prompt (negative from its end), a `Span` of its
            characters, or a `Gate`.
        unit: of the values: `absolute`, `max` (times each feature's largest activation on the scope's corpus), or
            `norm` (so many mean norms of the residual stream there; needs a reference).
        error: `keep` what a coder does not explain, or `drop` it.
        effect: `total`; `attention` (patterns stay as they are), `attention+norms`, or `direct` (MLPs as well).
        reference: texts on which `norm` is measured.

    Raises:
        BadInput: no features, one named twice, another number of values, no scope, or a value that is none.
        NotFound: the scope lacks a coder or its evidence, or a coder has no such feature.
    """
    numbers = _numbers(values)
    return _made("set", target, scope, where, numbers, _Unit(unit, reference), error=error, effect=effect)


def add_features(
    target: Any,
    amounts: float | int | Sequence[float | int],
    scope: Any = None,
    *,
    where: Any = "all",
    unit: str = "absolute",
    error: str = "keep",
    effect: str = "total",
    reference: Reference | None = None,
) -> Edit:
    """Make an edit that adds to features' activations, silent ones too, or other coordinates. See `set_features`."""
    return _made("add", target, scope, where, _numbers(amounts), _Unit(unit, reference), error=error, effect=effect)


def scale_features(
    target: Any,
    factor: float | int | Sequence[float | int],
    scope: Any = None,
    *,
    where: Any = "all",
    error: str = "keep",
    effect: str = "total",
) -> Edit:
    """Make an edit that multiplies features' activations, or other coordinates. See `set_features`."""
    return _made("scale", target, scope, where, _numbers(factor), error=error, effect=effect)


def ablate(
    target: Any,
    scope: Any = None,
    to: str = "zero",
    *,
    where: Any = "all",
    error: str = "keep",
    effect: str = "total",
    reference: Reference | None = None,
    seed: int = 0,
) -> Edit:
    """Make an edit that takes away what features, or other coordinates, tell.

    Args:
        target: see `set_features`.
        scope: see `set_features`.
        to: `zero`; `mean`, over a reference's tokens; or `resample`, the values at tokens drawn from them.
        where: see `set_features`.
        error: see `set_features`.
        effect: see `set_features`.
        reference: texts that `mean` and `resample` need.
        seed: of the draws.
    """
    if to not in KINDS:
        raise BadInput(f"Features can be ablated to {', '.join(KINDS)}; got {to!r}.")
    made, coders = _bound(target, scope, where, error)
    amounts: tuple[float, ...] = ()
    if to != "zero":
        values = _needed(reference, f"Ablating to {to}").coordinates(made, coders)
        chosen = torch.randint(len(values), (DRAWS,), generator=torch.Generator().manual_seed(seed))
        amounts = tuple((values.mean(0) if to == "mean" else values[chosen].flatten()).tolist())
    return Edit(to, made, amounts, where_of(where), error=error, effect=effect, coders=coders)


def clamp(
    target: Any,
    low: float | int | None = None,
    high: float | int | None = None,
    scope: Any = None,
    *,
    where: Any = "all",
    unit: str = "absolute",
    effect: str = "total",
    reference: Reference | None = None,
) -> Edit:
    """Make an edit that keeps features' activations, or other coordinates, in a range; None leaves a side open."""
    ends = (-float("inf") if low is None else float(low), float("inf") if high is None else float(high))
    return _made("clamp", target, scope, where, ends, _Unit(unit, reference), effect=effect)


def add_vector(
    site: str | Site,
    vector: Float[Tensor, "*width"] | Sequence[float],
    where: Any = "all",
    *,
    scope: Any = None,
    by: float | int = 1.0,
    unit: str = "absolute",
    effect: str = "total",
    reference: Reference | None = None,
) -> Edit:
    """Make an edit that adds a vector at a site.

    Args:
        site: where, `"resid_post.2"`.
        vector: of the site's width.
        where: at which tokens, see `set_features`; the same for every prompt of a batch.
        scope: gives a gate's coder.
        by: how much of it: with the unit `absolute` 1 is the vector itself, with `norm` so many mean norms of the
            residual stream along it.
        unit: `absolute` or `norm`.
        effect: see `set_features`.
        reference: texts on which `norm` is measured.

    Raises:
        NotFound: there is no such kind of site.
        BadInput: a position is named twice; when it runs, the width is wrong or a position lies outside the text.
    """
    target = Direction.of(site, vector)
    return _made("add", target, scope, where, (float(by),), _Unit(unit, reference), effect=effect)


def project_out(
    site: str | Site,
    vector: Float[Tensor, "*width"] | Sequence[float],
    where: Any = "all",
    *,
    scope: Any = None,
    effect: str = "total",
) -> Edit:
    """Make an edit that removes the component along a vector, x - <x, v> v / <v, v>. See `add_vector`."""
    return _made("project_out", Direction.of(site, vector), scope, where, (), effect=effect)


def patch(
    target: Any,
    source: Prompt,
    scope: Any = None,
    *,
    where: Any = "all",
    source_where: Any = None,
    error: str = "keep",
    effect: str = "total",
) -> Edit:
    """Make an edit that takes coordinates from the model's run on another prompt.

    Args:
        target: see `set_features`; a site, `"resid_post.2"`, is patched whole.
        source: the other prompt.
        scope: see `set_features`.
        where: which tokens are replaced; see `set_features`.
        source_where: by which tokens of the other prompt, in this order; by default those that `where` names in it.
        error: see `set_features`.
        effect: see `set_features`.

    Raises:
        BadInput: when it runs, the prompts have not as many such tokens.
    """
    made, coders = _bound(target, scope, where, error)
    prompt = source if isinstance(source, str) else tuple(int(each) for each in source)
    run = Source(prompt, None if source_where is None else where_of(source_where))
    return Edit("patch", made, (), where_of(where), error=error, effect=effect, source=run, coders=coders)


def coders_of(target: Target, where: Where, scope: Any, error: str = "keep") -> dict[str, Coder]:
    """The coders of the features that an edit names, by id.

    Args:
        target: the edit's.
        where: its place; a gate names a feature too.
        scope: gives them.
        error: `drop` needs coders that explain a site by themselves.

    Raises:
        BadInput: features, and no scope.
        NotFound: the scope lacks a coder.
    """
    own = target.refs if isinstance(target, Features) else ()
    names = dict.fromkeys(ref.coder_id for ref in (*own, *_gates(where)))
    if names and scope is None:
        raise BadInput("Editing features needs their coders; pass the scope as well.")
    joint = {ref.coder_id for ref in own if ref.coder_id not in getattr(scope, "coders", [ref.coder_id])}
    if error == "drop" and any(len(scope[name.rpartition("/")[0]].parts) > 1 for name in joint):
        raise Unsupported(f"The coder {min(joint)} is one part of a sum; its error can only be kept.")
    return {name: scope[name] for name in names}


class _Unit:
    """A unit by name, and what it is measured on."""

    def __init__(self, name: str = "absolute", reference: Reference | None = None) -> None:
        self.name, self.reference = name, reference

    def sizes(self, target: Target, coders: Mapping[str, Coder], scope: Any) -> tuple[float, ...]:
        """The unit's size for each coordinate; () where it is absolute, or does not fit the target."""
        if self.name == "max" and isinstance(target, Features):
            return tuple(_largest(ref, scope) for ref in target.refs)
        if self.name == "norm" and isinstance(target, Features | Direction):
            return _needed(self.reference, "The unit norm").sizes(target, coders)
        return ()


def _made(
    operation: str,
    named: Any,
    scope: Any,
    where: Any,
    amounts: tuple[float, ...],
    unit: _Unit | None = None,
    **kept: str,
) -> Edit:
    unit = unit or _Unit()
    target, coders = _bound(named, scope, where, kept.get("error", "keep"))
    sizes = unit.sizes(target, coders, _scope(named, scope))
    place = where_of(where)
    return Edit(operation, target, amounts, place, unit.name, sizes, coders=coders, **kept)  # pyright: ignore


def _bound(named: Any, scope: Any, where: Any, error: str) -> tuple[Target, dict[str, Coder]]:
    target = target_of(named)
    return target, coders_of(target, where_of(where), _scope(named, scope), error)


def _scope(named: Any, scope: Any) -> Any:
    return named.scope if scope is None and isinstance(named, Supernode) else scope


def _gates(where: Where) -> list[FeatureRef]:
    return [where.feature] if isinstance(where, Gate) else []


def _numbers(values: float | int | Sequence[float | int]) -> tuple[float, ...]:
    return tuple(float(each) for each in values) if isinstance(values, Sequence) else (float(values),)


def _needed(reference: Reference | None, what: str) -> Reference:
    if reference is None:
        raise BadInput(f"{what} is measured on texts; pass reference=Reference(model, texts).")
    return reference


def _largest(ref: FeatureRef, scope: Any) -> float:
    """A feature's largest activation on the corpus of its scope."""
    evidence = scope.evidence(ref.coder_id)
    if evidence is None:
        raise NotFound(f"The scope has no evidence on {ref.coder_id}, so its largest activations are not known; "
                       "tell the amounts in absolute numbers.")  # fmt: skip
    largest = float(evidence.max_activation[ref.index])
    if largest <= 0:
        raise BadInput(f"The feature {ref} was never active on its corpus; tell its amount in absolute numbers.")
    return largest
