"""Edit: one change of a model while it runs, as an immutable value.

The same value acts in `model.edit(...)` and in generation, is saved as JSON, shown, compared and stacked.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.coders import Coder
from glassworks.edits.act import Act, ActingTokens, Change, Coordinates, GateState, coordinates_of, in_turn, prompts_of
from glassworks.edits.targets import Direction, FeatureRef, Features, Heads, Neurons, Target, Whole, shortened
from glassworks.edits.where import Gate, Where, format_where, named_positions
from glassworks.errors import BadInput, NotFound, Unsupported, nearest
from glassworks.models import Model, Tap
from glassworks.pages import preformatted
from glassworks.sites import Site

ANY = (Features, Direction, Heads, Neurons, Whole)


@final
@dataclass(frozen=True)
class Operation:
    """One way to change coordinates.

    Attributes:
        change: gives new - old, (token, k), from old (token, k) and the amounts (arity, token or 1, k or 1).
        words: a sentence about it, with `{target}`, `{amounts}` and `{source}`.
        arity: how many amounts each coordinate takes; 0 for none.
        scaled: whether the amounts are sizes that can be given in a unit.
        targets: what it works on.
    """

    change: Callable[[Float[Tensor, "token k"], Float[Tensor, "a #token #k"]], Float[Tensor, "token k"]]
    words: str
    arity: int = 1
    scaled: bool = True
    targets: tuple[type[Target], ...] = ANY


OPERATIONS: dict[str, Operation] = {
    "set": Operation(lambda old, given: given[0] - old, "set {target} to {amounts}"),
    "add": Operation(lambda old, given: given[0].expand_as(old), "add {amounts} to {target}"),
    "scale": Operation(lambda old, given: (given[0] - 1) * old, "scale {target} by {amounts}", scaled=False),
    "zero": Operation(lambda old, _: -old, "ablate {target}", arity=0),
    "mean": Operation(lambda old, given: given[0] - old, "ablate {target} to the mean", scaled=False),
    "resample": Operation(lambda old, given: given[0] - old, "ablate {target} to values of other tokens", scaled=False),
    "clamp": Operation(lambda old, given: old.clamp(given[0], given[1]) - old, "clamp {target} to {amounts}", arity=2),
    "project_out": Operation(lambda old, _: -old, "project {target} out", arity=0, targets=(Direction,)),
    "patch": Operation(lambda old, given: given[0] - old, "patch {target} from {source}", scaled=False),
}
"""Name -> what it does; `patch` gets the values of the other run as its amounts."""

UNITS: dict[str, tuple[type[Target], ...]] = {
    "absolute": ANY,
    "max": (Features,),
    "norm": (Features, Direction),
}
"""Name of a unit -> what it can measure: as it is; times the largest activation on the corpus; times the mean norm of
the residual stream there."""

ERRORS = ("keep", "drop")
"""What becomes of the part of a site that the coder does not explain."""

EFFECTS: dict[str, tuple[str, ...]] = {
    "total": (),
    "attention": ("patterns",),
    "attention+norms": ("patterns", "norms"),
    "direct": ("patterns", "norms", "mlps"),
}
"""Name of an effect -> what of the model stays as it is while the edit acts."""

EFFECT_WORDS = {
    "attention": "attention held",
    "attention+norms": "attention and norms held",
    "direct": "direct effect only",
}


@final
@dataclass(frozen=True)
class Source:
    """Another prompt, and its tokens from which a patch takes its values; it runs without any edit.

    Attributes:
        prompt: text, or token ids.
        where: which tokens, in the order of those that they replace; None is those that the edit names, in this
            prompt.
    """

    prompt: str | tuple[int, ...]
    where: Where | None = None

    def __str__(self) -> str:
        prompt = repr(self.prompt) if isinstance(self.prompt, str) else f"{len(self.prompt)} tokens"
        return prompt + ("" if self.where is None else format_where(self.where))


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
        unit: the unit of the amounts, a name of `UNITS`.
        sizes: the size of the unit, for all coordinates or for each; none where the unit is `absolute`.
        error: `keep`, or `drop` where the coder's reconstruction replaces the site's value.
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
        """Raise BadInput, NotFound or Unsupported where the fields do not fit each other."""
        for name, table in (("operation", OPERATIONS), ("unit", UNITS), ("error", ERRORS), ("effect", EFFECTS)):
            if getattr(self, name) not in table:
                raise BadInput(f"There is no {name} {getattr(self, name)!r}; {nearest(getattr(self, name), table)}.")
        kind, operation = type(self.target), OPERATIONS[self.operation]
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
        self._check_amounts()
        for ref in self.refs:
            coder = self.coders.get(ref.coder_id)
            if coder is None:
                raise BadInput("Editing features needs their coders; pass the scope as well.")
            if not 0 <= ref.index < coder.d_latent:
                raise NotFound(f"There is no feature {ref}; the coder {ref.coder_id} has 0 to {coder.d_latent - 1}.")
            if len(coder.reads) > 1:
                raise Unsupported(f"The coder {ref.coder_id} reads several sites; only features of one site can be "
                                  "edited.")  # fmt: skip
        joint = [coder for coder in self.coders.values() if len(coder.writes) > 1]
        if self.error == "drop" and joint:
            raise Unsupported(f"The coder {joint[0].id} writes several sites; its error can only be kept.")

    def _check_amounts(self) -> None:
        number, arity, target = len(self.amounts), OPERATIONS[self.operation].arity, self.target
        count = None  # of coordinates, where that needs no model
        if isinstance(target, Features):
            count = len(target.refs)
        elif isinstance(target, Neurons):
            count = len(target.indices)
        elif isinstance(target, Direction):
            count = 1
        if self.operation == "patch" or not arity:
            right = number == 0
        elif count is None or self.operation == "resample":
            right = number > 0
        else:
            right = number in ((2,) if arity == 2 else (1, count))
        if not right:
            one = "a lowest and a highest" if arity == 2 else "one value, or one for each" if arity else "none"
            wanted = f"{target} takes {count or 'some'} amounts" if arity else f"{self.operation} takes no amounts"
            raise BadInput(f"{wanted}, and {number} values were given; give {one}.")
        if any(amount != amount for amount in self.amounts) or (arity == 2 and not self.amounts[0] <= self.amounts[1]):
            raise BadInput(f"The amounts {list(self.amounts)[:4]} are no numbers, or not lowest before highest.")
        if arity != 2 and any(abs(amount) == float("inf") for amount in self.amounts):
            raise BadInput(f"An amount of {self.operation} is infinite; give a finite one.")
        if (self.unit == "absolute") != (not self.sizes) or not all(0 < size < float("inf") for size in self.sizes):
            raise BadInput(f"The sizes {list(self.sizes)[:4]} do not fit the unit {self.unit}; they must be above 0.")
        if self.sizes and len(self.sizes) not in (1, count):
            wanted = f"{target} takes {count or 'some'} amounts"
            raise BadInput(f"{wanted}, and {len(self.sizes)} sizes were given; give one, or one for each.")

    def __repr__(self) -> str:
        return f"Edit({self})"

    def _repr_html_(self) -> str:
        return preformatted(str(self))

    def __str__(self) -> str:
        unit = "" if self.unit == "absolute" else f" x {self.unit}"
        amounts = [f"{amount:g}" for amount in self.amounts]
        words = OPERATIONS[self.operation].words.format(
            target=self.target,
            amounts=(" .. ".join(amounts) if self.operation == "clamp" else shortened(amounts)) + unit,
            source=self.source or "another run",
        )
        words += format_where(self.where) + ", the coder's error dropped" * (self.error == "drop")
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
        self._locate(model)

    def _locate(self, model: Model) -> tuple[list[Coordinates], Float[Tensor, "arity row k"]]:
        """The target's coordinates in a model, and the amounts times their sizes."""
        groups = coordinates_of(self.target, model, self.coders, self.error == "keep")
        if isinstance(self.where, Gate):
            model.width(self.coders[self.where.feature.coder_id].reads[0])
        count, arity = sum(group.count for group in groups), OPERATIONS[self.operation].arity
        amounts = torch.tensor(self.amounts, dtype=torch.float64)
        if len(amounts) <= arity:
            amounts = amounts.reshape(-1, 1, 1)
        elif count == 0 or len(amounts) % count:
            raise BadInput(f"There are {count} coordinates and {len(amounts)} amounts; give one, or one for each.")
        else:
            amounts = amounts.reshape(1, -1, count)
        return groups, amounts * torch.tensor(self.sizes or (1.0,), dtype=torch.float64)

    def taps(self, model: Model, clean: Mapping[Site, Tensor] | None) -> Mapping[Site, Tap]:
        """The taps that do it; see `glassworks.models.Edit`."""
        groups, amounts = self._locate(model)
        state, taps = None, dict[Site, list[Tap]]()
        if isinstance(self.where, Gate):
            state = GateState(self.where, self.coders[self.where.feature.coder_id], model, clean)
            taps[state.site] = [state.update]
        tokens = ActingTokens(self.where, model, state, beyond=self.source is None)
        acts = [Act(group, tokens, self._change(group, amounts, tokens), clean) for group in groups]
        for group, act in zip(groups, acts, strict=True):
            taps.setdefault(group.site, []).append(act.read)
        for group, act in zip(groups, acts, strict=True):
            for site in group.writes:
                taps.setdefault(site, []).append(act.writer(site))
        return {site: in_turn(own) for site, own in taps.items()}

    def _change(self, group: Coordinates, amounts: Float[Tensor, "arity row k"], tokens: ActingTokens) -> Change:
        """What the coordinates of one site change by."""
        change, model = OPERATIONS[self.operation].change, tokens.model
        if self.source is None:
            if amounts.shape[2] > 1 and group.columns is not None:
                amounts = amounts[..., group.columns]

            def by_amount(old: Tensor, _: Tensor, position: Tensor) -> Tensor:
                mine = amounts.to(old)
                return change(old, mine if mine.shape[1] <= 1 else mine[:, position.to(mine.device) % mine.shape[1]])

            return by_amount

        prompt = self.source.prompt if isinstance(self.source.prompt, str) else list(self.source.prompt)
        ids, where = model.tokens(prompt).tolist(), self.where if self.source.where is None else self.source.where
        positions = named_positions(where, len(ids), model.spans(ids))
        if not positions:
            raise BadInput("A patch replaces tokens of the prompt; name some, not what is generated.")
        with model.taps.exactly(()):
            values = group.read(model.capture(ids, [group.site])[group.site.name].float().flatten(1)[positions])

        def from_source(old: Tensor, row: Tensor, position: Tensor) -> Tensor:
            named = tokens.positions(prompts_of(model.taps.run))
            wrong = [len(replaced) for replaced in named if len(replaced) != len(values)]
            if wrong:
                raise BadInput(f"The patch takes {len(values)} tokens of its source for {wrong[0]}; name as many in "
                               "both prompts.")  # fmt: skip
            numbers = [named[r].index(p) for r, p in zip(row.tolist(), position.tolist(), strict=True)]
            return change(old, values[torch.tensor(numbers, device=values.device)][None].to(old))

        return from_source

    def plain(self) -> dict[str, Any]:
        """The edit as JSON values; `read_edit` reads it back."""
        source = self.source
        if source is not None:
            prompt = source.prompt if isinstance(source.prompt, str) else list(source.prompt)
            source = {"prompt": prompt, "where": None if source.where is None else _plain_where(source.where)}
        return {
            "operation": self.operation,
            "target": _plain_target(self.target),
            "amounts": [amount if abs(amount) != float("inf") else None for amount in self.amounts],
            "unit": self.unit,
            "sizes": list(self.sizes),
            "where": _plain_where(self.where),
            "error": self.error,
            "effect": self.effect,
            "source": source,
        }


def _plain_target(target: Target) -> dict[str, Any]:
    match target:
        case Features(refs):
            return {"features": [str(ref) for ref in refs]}
        case Direction(site, vector):
            return {"direction": list(vector), "site": str(site)}
        case Heads(heads):
            return {"heads": [list(head) for head in heads]}
        case Neurons(layer, indices):
            return {"neurons": list(indices), "layer": layer}
        case Whole(site):
            return {"whole": str(site)}


def _plain_where(where: Where) -> Any:
    match where:
        case Gate(feature, above, inner):
            return {"gate": str(feature), "above": above, "where": _plain_where(inner)}
        case str():
            return where
        case tuple():
            return list(where)
        case _:
            return {"characters": [where.start, where.stop]}


@final
@dataclass(frozen=True, eq=False)
class LiveSkips:
    """Lets changes pass through the skips of skip-transcoders where MLP outputs are frozen; made by `live_skips`.

    Freezing replays the whole MLP output, its skip part included; an attribution graph keeps that part live
    (Ameisen et al. 2025: only what is nonlinear is frozen). This edit puts the difference back.

    Attributes:
        coders: those that have a skip path.
        first: the first token whose MLPs the coders replace.
    """

    coders: tuple[Coder, ...]
    first: int

    frozen = ()
    stepwise = False

    def __str__(self) -> str:
        return f"keep {len(self.coders)} skips live"

    @property
    def reads(self) -> Sequence[Site]:
        """The sites that the coders read."""
        return [coder.reads[0] for coder in self.coders]

    def taps(self, model: Model, clean: Mapping[Site, Tensor] | None) -> Mapping[Site, Tap]:
        """The taps that do it, none where MLPs are live anyway; see `glassworks.models.Edit`."""
        if clean is None:
            return {}
        change: dict[Site, Tensor] = {}

        def reader(site: Site) -> Tap:
            def read(value: Tensor) -> None:
                change[site] = value - clean[site]
                change[site][:, : self.first] = 0

            return read

        def writer(site: Site) -> Tap:
            def add(value: Tensor) -> Tensor:
                for coder in self.coders:
                    skip = coder.skip(site) if site in coder.writes else None
                    if skip is not None:
                        value = value + (change[coder.reads[0]].to(skip) @ skip).to(value)
                return value

            return add

        writes = dict.fromkeys(site for coder in self.coders for site in coder.writes)
        return {site: reader(site) for site in self.reads} | {site: writer(site) for site in writes}


def live_skips(scope: Any, first: int | None = None) -> LiveSkips:
    """Make an edit that keeps a scope's skips live under `frozen=("mlps",)`, as an attribution graph does.

    Args:
        scope: its coders replace the MLPs.
        first: the first token whose MLPs they replace, `scope.masked(texts)`; by default 1 where they were not
            trained on BOS, else 0.
    """
    coders = [part for name in scope.replacement for part in scope[name].parts]
    kept = tuple(coder for coder in coders if any(coder.skip(write) is not None for write in coder.writes))
    return LiveSkips(kept, int("bos" in scope.untrained) if first is None else first)
