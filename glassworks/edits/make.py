"""The functions that make edits: what a user gives, checked, with its coders, units and measured amounts filled in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.coders import Coder
from glassworks.edits.act import coordinates_of
from glassworks.edits.edit import Edit, Source
from glassworks.edits.targets import Direction, Features, Supernode, Target, target_of
from glassworks.edits.where import Gate, Where, where_of
from glassworks.errors import BadInput, NotFound, Unsupported
from glassworks.models import Model, Prompt
from glassworks.sites import Site

DRAWS = 16
"""How many tokens `resample` draws; tokens of a text take their values in turn."""
STREAM = {"attn_out": "resid_mid", "mlp_out": "resid_post"}
"""What is added to the residual stream -> the stream that it is added to, whose norm counts."""


@final
@dataclass(frozen=True, eq=False)
class Reference:
    """Texts on which means, drawn values and the unit `norm` are measured.

    The first token of each text does not count: its norm is unlike that of all others.

    Attributes:
        model: the model, as it is without edits.
        prompts: texts, or token ids.
    """

    model: Model
    prompts: Sequence[Prompt]

    def __post_init__(self) -> None:
        """Raise BadInput where there is no text."""
        if isinstance(self.prompts, str) or not len(self.prompts):
            raise BadInput("A reference is measured on several texts; give a list with at least one.")

    def values(self, site: Site) -> Float[Tensor, "token width"]:
        """The values of a site at all tokens that count."""
        rows = []
        with self.model.taps.exactly(()):
            for prompt in self.prompts:
                value = self.model.capture(self.model.tokens(prompt).tolist(), [site])[site.name].float().flatten(1)
                rows.append(value[1:] if len(value) > 1 else value)
        return torch.cat(rows)

    def norm(self, site: Site) -> float:
        """The mean norm of the residual stream where a site writes, or of the site's own values elsewhere."""
        kind = STREAM.get(site.kind, site.kind)
        kind = "resid_post" if kind == "resid_mid" and self.model.parallel else kind
        return float(self.values(Site(kind, site.layer)).norm(dim=-1).mean())

    def coordinates(self, target: Target, coders: Mapping[str, Coder]) -> Float[Tensor, "token k"]:
        """A target's coordinates at all tokens that count."""
        groups = coordinates_of(target, self.model, coders)
        if any(not group.count for group in groups):
            raise Unsupported(f"The values of {target} have as many numbers as a text has tokens; they have no mean.")
        values = [group.read(self.values(group.site)) for group in groups]
        joint = values[0].new_zeros(len(values[0]), sum(group.count for group in groups))
        for group, own in zip(groups, values, strict=True):
            joint[:, slice(None) if group.columns is None else group.columns] = own
        return joint

    def sizes(self, target: Target, coders: Mapping[str, Coder]) -> tuple[float, ...]:
        """For each coordinate, the amount of it that is as long as the stream's mean norm where it writes."""
        if isinstance(target, Direction):
            if not target.norm:
                raise BadInput(f"The vector for {target.site} is zero; no amount of it has a norm.")
            return (self.norm(target.site) / target.norm,)
        assert isinstance(target, Features)
        norms = {name: self.norm(coders[name].writes[0]) for name in {ref.coder_id for ref in target.refs}}
        rows = [coders[ref.coder_id].decoder_rows(torch.tensor([ref.index])).norm() for ref in target.refs]
        return tuple(norms[ref.coder_id] / float(row) for ref, row in zip(target.refs, rows, strict=True))


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
    return _make("set", target, scope, where, _floats(values), unit, reference, error=error, effect=effect)


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
    return _make("add", target, scope, where, _floats(amounts), unit, reference, error=error, effect=effect)


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
    return _make("scale", target, scope, where, _floats(factor), error=error, effect=effect)


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
    """Make an edit that removes what features, or other coordinates, contribute.

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
    if to not in ("zero", "mean", "resample"):
        raise BadInput(f"Features can be ablated to zero, mean, resample; got {to!r}.")
    amounts: tuple[float, ...] = ()
    if to != "zero":
        named, coders, _ = _resolve(target, scope, where, error)
        values = _required(reference, f"Ablating to {to}").coordinates(named, coders)
        chosen = torch.randint(len(values), (DRAWS,), generator=torch.Generator().manual_seed(seed))
        amounts = tuple((values.mean(0) if to == "mean" else values[chosen].flatten()).tolist())
    return _make(to, target, scope, where, amounts, error=error, effect=effect)


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
    return _make("clamp", target, scope, where, ends, unit, reference, effect=effect)


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
    return _make("add", Direction.of(site, vector), scope, where, (float(by),), unit, reference, effect=effect)


def project_out(
    site: str | Site,
    vector: Float[Tensor, "*width"] | Sequence[float],
    where: Any = "all",
    *,
    scope: Any = None,
    effect: str = "total",
) -> Edit:
    """Make an edit that removes the component along a vector, x - <x, v> v / <v, v>. See `add_vector`."""
    return _make("project_out", Direction.of(site, vector), scope, where, (), effect=effect)


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
    prompt = source if isinstance(source, str) else tuple(int(token) for token in source)
    run = Source(prompt, None if source_where is None else where_of(source_where))
    return _make("patch", target, scope, where, (), error=error, effect=effect, source=run)


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
    gates = (where.feature,) if isinstance(where, Gate) else ()
    names = dict.fromkeys(ref.coder_id for ref in (*own, *gates))
    if names and scope is None:
        raise BadInput("Editing features needs their coders; pass the scope as well.")
    joint = {ref.coder_id for ref in own if ref.coder_id not in getattr(scope, "coders", [ref.coder_id])}
    if error == "drop" and any(len(scope[name.rpartition("/")[0]].parts) > 1 for name in joint):
        raise Unsupported(f"The coder {min(joint)} is one part of a sum; its error can only be kept.")
    return {name: scope[name] for name in names}


def _make(
    operation: str,
    given: Any,
    scope: Any,
    where: Any,
    amounts: tuple[float, ...],
    unit: str = "absolute",
    reference: Reference | None = None,
    **fields: Any,
) -> Edit:
    """An edit of what a user gave; the fields are further ones of `Edit`."""
    target, coders, scope = _resolve(given, scope, where, fields.get("error", "keep"))
    sizes: tuple[float, ...] = ()  # none as well where the unit does not fit the target, which `Edit` refuses
    if unit == "max" and isinstance(target, Features):
        for ref in target.refs:
            evidence = scope.evidence(ref.coder_id)
            if evidence is None:
                raise NotFound(f"The scope has no evidence on {ref.coder_id}, so its largest activations are not "
                               "known; give the amounts in absolute numbers.")  # fmt: skip
            sizes += (float(evidence.max_activation[ref.index]),)
            if sizes[-1] <= 0:
                raise BadInput(f"The feature {ref} was never active on its corpus; give its amount in absolute "
                               "numbers.")  # fmt: skip
    elif unit == "norm" and isinstance(target, Features | Direction):
        sizes = _required(reference, "The unit norm").sizes(target, coders)
    return Edit(operation, target, amounts, where_of(where), unit, sizes, coders=coders, **fields)


def _resolve(given: Any, scope: Any, where: Any, error: str) -> tuple[Target, dict[str, Coder], Any]:
    """The target, the coders of an edit's features, and the scope that they come from."""
    scope = given.scope if scope is None and isinstance(given, Supernode) else scope
    target = target_of(given)
    return target, coders_of(target, where_of(where), scope, error), scope


def _required(reference: Reference | None, what: str) -> Reference:
    if reference is None:
        raise BadInput(f"{what} is measured on texts; pass reference=Reference(model, texts).")
    return reference


def _floats(values: float | int | Sequence[float | int]) -> tuple[float, ...]:
    return tuple(float(value) for value in values) if isinstance(values, Sequence) else (float(values),)
