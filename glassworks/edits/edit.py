"""Edit: one change of a model while it runs, as an immutable value.

The same value acts in `model.edit(...)` and in generation, is saved as JSON, shown, compared and stacked. This module
must not know graphs, nor where amounts come from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.coders import Coder
from glassworks.edits.acting import Act, Change, Door, Places, in_turn
from glassworks.edits.operations import EFFECT_WORDS, EFFECTS, ERRORS, OPERATIONS, UNITS, Operation
from glassworks.edits.parts import Part, parts_of
from glassworks.edits.refs import FeatureRef
from glassworks.edits.source import Source
from glassworks.edits.targets import Direction, Features, Heads, Neurons, Target, Whole, plain_target, shortened
from glassworks.edits.where import Gate, Where, plain_where, said
from glassworks.errors import BadInput, NotFound, Unsupported, nearest
from glassworks.models import Model, Tap
from glassworks.sites import Site


@final
@dataclass(frozen=True)
class Edit:
    """A change of a model; made by `set_features`, `ablate`, `add_vector` and their like.

    Attributes:
        operation: a name of `OPERATIONS`.
        target: what is changed.
        amounts: one for all coordinates, or one for each; of `clamp` the lowest and the highest; of `resample` a row
            of amounts for each of several tokens, taken in turn.
        where: at which tokens.
        unit: what the amounts are told in, a name of `UNITS`.
        sizes: the size of the unit, for all coordinates or for each; none where the unit is `absolute`.
        error: `keep`, or `drop` where the coder's reconstruction takes the place of the site's value.
        effect: what stays as it is while it acts, a name of `EFFECTS`.
        source: where `patch` takes its values from.
        coders: the coders of the features by id; no part of equality.
    """

    operation: str
    target: Target
    amounts: tuple[float, ...] = ()
    where: Where = "all"
    unit: str = "absolute"
    sizes: tuple[float, ...] = ()
    error: str = "keep"
    effect: str = "total"
    source: Source | None = None
    coders: Mapping[str, Coder] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Raise BadInput, NotFound or Unsupported where it says nothing that can be done."""
        for name, table in (("operation", OPERATIONS), ("unit", UNITS), ("error", ERRORS), ("effect", EFFECTS)):
            if getattr(self, name) not in table:
                raise BadInput(f"There is no {name} {getattr(self, name)!r}; {nearest(getattr(self, name), table)}.")
        self._check_kinds()
        self._check_amounts()
        for ref in self.refs:
            _check_feature(ref, self.coders)
        if isinstance(self.target, Features) and self.error == "drop":
            for coder in self.coders.values():
                _check_alone(coder)

    def __repr__(self) -> str:
        return f"Edit({self})"

    def __str__(self) -> str:
        words = self._operation.words.format(
            target=self.target, amounts=self._amounts_said(), source=self.source or "another run"
        )
        words += said(self.where)
        words += ", the coder's error dropped" * (self.error == "drop")
        return words if self.effect == "total" else f"{words}, {EFFECT_WORDS[self.effect]}"

    @property
    def refs(self) -> tuple[FeatureRef, ...]:
        """All features that it names: those of its target, and its gate's."""
        own = self.target.refs if isinstance(self.target, Features) else ()
        return (*own, self.where.feature) if isinstance(self.where, Gate) else own

    @property
    def reads(self) -> Sequence[Site]:
        """The sites that it reads; see `glassworks.models.Edit`."""
        match self.target:
            case Features(refs):
                sites = [self.coders[ref.coder_id].reads[0] for ref in refs]
            case Heads(heads):
                sites = [Site("attn_heads", layer) for layer, _ in heads]
            case Neurons(layer, _):
                sites = [Site("mlp_neurons", layer)]
            case Direction(site, _) | Whole(site):
                sites = [site]
        gate = [self.coders[self.where.feature.coder_id].reads[0]] if isinstance(self.where, Gate) else []
        return list(dict.fromkeys([*sites, *gate]))

    @property
    def frozen(self) -> Sequence[str]:
        """What of the model stays as it is while it acts."""
        return EFFECTS[self.effect]

    @property
    def stepwise(self) -> bool:
        """Whether it does the same to a token under a key-value cache as without; else generation does without one."""
        return not any(self.coders[ref.coder_id].activation.span == "batch" for ref in self.refs)

    def check(self, model: Model) -> None:
        """Raise NotFound or BadInput where a model has no such site, head, neuron or width."""
        parts = parts_of(self.target, model, self.coders, self.error == "keep")
        self._given(sum(part.count for part in parts))
        if isinstance(self.where, Gate):
            model.width(self.coders[self.where.feature.coder_id].reads[0])

    def taps(self, model: Model, clean: Mapping[Site, Tensor] | None) -> Mapping[Site, Tap]:
        """The taps that do it; see `glassworks.models.Edit`."""
        self.check(model)
        gate = self.where if isinstance(self.where, Gate) else None
        door = None if gate is None else Door(gate, self.coders[gate.feature.coder_id], model, clean)
        places = Places(self.where, model, door, beyond=self.source is None)
        parts = parts_of(self.target, model, self.coders, self.error == "keep")
        acts = [Act(part, places, self._change(part, parts, places), clean) for part in parts]
        acting: dict[Site, list[Tap]] = {} if door is None else {door.site: [door.watch]}
        for part, act in zip(parts, acts, strict=True):
            acting.setdefault(part.site, []).append(act.read)
        for part, act in zip(parts, acts, strict=True):
            for site in part.writes:
                acting.setdefault(site, []).append(act.writer(site))
        return {site: in_turn(taps) for site, taps in acting.items()}

    def plain(self) -> dict[str, Any]:
        """The edit as JSON values; `read_edit` reads it back."""
        return {
            "operation": self.operation,
            "target": plain_target(self.target),
            "amounts": [each if abs(each) != float("inf") else None for each in self.amounts],
            "unit": self.unit,
            "sizes": list(self.sizes),
            "where": plain_where(self.where),
            "error": self.error,
            "effect": self.effect,
            "source": None if self.source is None else self.source.plain(),
        }

    @property
    def _operation(self) -> Operation:
        return OPERATIONS[self.operation]

    def _change(self, part: Part, parts: Sequence[Part], places: Places) -> Change:
        """What a part's coordinates change by."""
        change = self._operation.change
        if self.source is not None:
            values = self.source.values(part, self.where, places.model)
            return lambda old, row, position: change(old, values.at(places, row, position).to(old))
        given = self._given(sum(each.count for each in parts))
        given = given[..., part.columns] if given.shape[2] > 1 and part.columns is not None else given

        def changed(old: Tensor, _: Tensor, position: Tensor) -> Tensor:
            mine = given.to(old)
            return change(old, mine if mine.shape[1] <= 1 else mine[:, position.to(mine.device) % mine.shape[1]])

        return changed

    def _given(self, count: int) -> Float[Tensor, "arity row k"]:
        """The amounts times their sizes."""
        arity, amounts = self._operation.arity, torch.tensor(self.amounts, dtype=torch.float64)
        if len(amounts) <= arity:
            shaped = amounts.reshape(-1, 1, 1)
        elif count == 0 or len(amounts) % count:
            raise BadInput(f"There are {count} coordinates and {len(amounts)} amounts; give one, or one for each.")
        else:
            shaped = amounts.reshape(1, -1, count)
        return shaped * torch.tensor(self.sizes or (1.0,), dtype=torch.float64)

    def _amounts_said(self) -> str:
        unit = "" if self.unit == "absolute" else f" x {self.unit}"
        if self.operation == "clamp":
            return f"{self.amounts[0]:g} .. {self.amounts[1]:g}{unit}"
        return shortened([f"{each:g}" for each in self.amounts]) + unit

    def _check_kinds(self) -> None:
        kind, operation = type(self.target), self._operation
        if kind not in operation.targets or kind not in UNITS[self.unit]:
            name = self.operation if kind not in operation.targets else f"unit {self.unit}"
            raise BadInput(f"The {name} does not work on {self.target}; see the table of edits.")
        if not operation.scaled and self.unit != "absolute":
            raise BadInput(f"The amounts of {self.operation} have no unit; leave it absolute.")
        if isinstance(self.target, Direction) and self.operation != "add" and not self.target.norm:
            raise BadInput(f"The vector for {self.target.site} is zero, so there is no component along it.")
        if self.error == "drop" and kind is not Features:
            raise BadInput(f"Only coders have an error to drop; {self.target} is no feature.")
        if (self.source is not None) != (self.operation == "patch"):
            raise BadInput("A patch, and nothing else, takes values from another prompt.")

    def _check_amounts(self) -> None:
        number, arity = len(self.amounts), self._operation.arity
        count = _known_count(self.target)
        if self.operation == "patch" or not arity:
            right = number == 0
        elif count is None or self.operation == "resample":
            right = number > 0
        else:
            right = number in ((2,) if arity == 2 else (1, count))
        if not right:
            one = "a lowest and a highest" if arity == 2 else "one value, or one for each" if arity else "none"
            raise BadInput(f"There are {count} features and {number} values; give {one}.")
        if any(each != each for each in self.amounts) or (arity == 2 and not self.amounts[0] <= self.amounts[1]):
            raise BadInput(f"The amounts {list(self.amounts)[:4]} are no numbers, or not lowest before highest.")
        if arity != 2 and any(abs(each) == float("inf") for each in self.amounts):
            raise BadInput(f"An amount of {self.operation} is infinite; give a finite one.")
        if (self.unit == "absolute") != (not self.sizes) or not all(0 < each < float("inf") for each in self.sizes):
            raise BadInput(f"The sizes {list(self.sizes)[:4]} do not fit the unit {self.unit}; they must be above 0.")
        if self.sizes and len(self.sizes) not in (1, count):
            raise BadInput(f"There are {count} features and {len(self.sizes)} sizes; give one, or one for each.")


def _known_count(target: Target) -> int | None:
    """How many coordinates a target has, where that needs no model."""
    match target:
        case Features(refs):
            return len(refs)
        case Neurons(_, indices):
            return len(indices)
        case Direction():
            return 1
        case _:
            return None


def _check_feature(ref: FeatureRef, coders: Mapping[str, Coder]) -> None:
    if ref.coder_id not in coders:
        raise BadInput("Editing features needs their coders; pass the scope as well.")
    coder = coders[ref.coder_id]
    if not 0 <= ref.index < coder.d_latent:
        raise NotFound(f"There is no feature {ref}; the coder {ref.coder_id} has 0 to {coder.d_latent - 1}.")
    if len(coder.reads) > 1:
        raise Unsupported(f"The coder {ref.coder_id} reads several sites; only features of one site can be edited.")


def _check_alone(coder: Coder) -> None:
    if len(coder.writes) > 1:
        raise Unsupported(f"The coder {coder.id} writes several sites; its error can only be kept.")
