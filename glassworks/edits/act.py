"""How an edit acts: its target as coordinates in a model, and the taps that find tokens and change coordinates there.

What a tap knows of the text comes from the model's `Run`, so that a token that comes alone after a key-value cache is
treated as it would be within its text.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassworks.coders import Coder
from glassworks.edits.targets import Direction, FeatureRef, Features, Heads, Neurons, Target, Whole
from glassworks.edits.where import Gate, Where, named_positions, position_in
from glassworks.errors import BadInput, NotFound, Unsupported
from glassworks.models import Model, Prompts, Run, Tap
from glassworks.sites import Site

Clean = Mapping[Site, Tensor] | None
"""Values of the unedited run by site, where parts of the model are frozen."""
Values = Float[Tensor, "token width"]
"""Values of a site at some tokens, in float32 at least."""
Read = Callable[[Values], Float[Tensor, "token k"]]
Change = Callable[[Float[Tensor, "token k"], Int[Tensor, " token"], Int[Tensor, " token"]], Float[Tensor, "token k"]]
"""Gives new - old of coordinates, from the old ones and each token's row and position."""


@final
@dataclass(frozen=True, eq=False)
class Coordinates:
    """The coordinates of a target that are read at one site of a model.

    Attributes:
        site: where they are read.
        count: how many there are; 0 where that depends on the text.
        read: gives them from values of the site.
        write: gives the value of a write site with the coordinates changed, from (site, value, change, what was read
            at the read site); it may write to the value.
        writes: where changes of them are written.
        columns: their numbers among the target's coordinates; None is all of them.
        positions: for each, the one position of the prompt that it names, or None.
    """

    site: Site
    count: int
    read: Read
    write: Callable[[Site, Values, Float[Tensor, "token k"], Values], Values]
    writes: tuple[Site, ...]
    columns: Sequence[int] | None = None
    positions: Sequence[int | None] = ()


def coordinates_of(target: Target, model: Model, coders: Mapping[str, Coder], keep: bool = True) -> list[Coordinates]:
    """The coordinates of a target in a model, by read site.

    Args:
        target: what is changed.
        model: where.
        coders: those of its features, by id.
        keep: whether the part of a site's value that its coder does not explain stays.

    Raises:
        NotFound: the model has no such site, head or neuron.
        BadInput: a vector or coder of another width.
    """

    def check_width(site: Site, width: int, what: str) -> None:
        right = model.width(site)
        if width != right:
            raise BadInput(f"The {what} has the width {width}; {site} of {model.name} has the width {right}.")

    def check_index(what: str, highest: int, count: int, layer: int) -> None:
        if highest >= count:
            raise NotFound(f"There is no {what} {highest} in layer {layer}; there are 0 to {count - 1}.")

    match target:
        case Features(refs):
            for name in dict.fromkeys(ref.coder_id for ref in refs):
                coder, one = coders[name], torch.tensor([next(ref.index for ref in refs if ref.coder_id == name)])
                check_width(coder.reads[0], coder.encoder_rows(one).shape[1], f"coder {name}")
                for site in coder.writes:
                    check_width(site, coder.decoder_rows(one, site).shape[1], f"coder {name}")
            return [_features(name, refs, coders[name], keep) for name in dict.fromkeys(ref.coder_id for ref in refs)]
        case Direction(site, numbers):
            check_width(site, len(numbers), "vector")
            vector = torch.tensor(numbers)

            def component(x: Values) -> Float[Tensor, "token 1"]:
                along = vector.to(x)
                return (x @ along / (along @ along))[:, None]

            return [
                Coordinates(
                    site, 1, component, lambda _, value, change, x: value + change * vector.to(value), writes=(site,)
                )
            ]
        case Heads(heads):
            d_head, groups = model.d_head, []
            for layer in sorted({layer for layer, _ in heads}):
                site = Site("attn_heads", layer)
                mine = [number for number, head in enumerate(heads) if head[0] == layer]
                check_index("head", max(heads[number][1] for number in mine), model.width(site) // d_head, layer)
                taken = [heads[number][1] * d_head + at for number in mine for at in range(d_head)]
                columns = [number * d_head + at for number in mine for at in range(d_head)]
                groups.append(_columns(site, taken, len(taken), columns))
            return groups
        case Neurons(layer, indices):
            site = Site("mlp_neurons", layer)
            check_index("neuron", max(indices), model.width(site), layer)
            return [_columns(site, list(indices), len(indices))]
        case Whole(site):
            return [_columns(site, slice(None), model.width(site))]


def _features(name: str, refs: Sequence[FeatureRef], coder: Coder, keep: bool) -> Coordinates:
    """Activations of one coder's features; a change is written along their decoder rows, at every write site."""
    columns = [number for number, ref in enumerate(refs) if ref.coder_id == name]
    indices = torch.tensor([refs[number].index for number in columns])
    rows: dict[Site, Tensor] = {}  # decoder rows, read and widened once

    def write(site: Site, value: Values, change: Float[Tensor, "token k"], x: Values) -> Values:
        if site not in rows:
            rows[site] = coder.decoder_rows(indices.to(value.device), site).to(value)
        base = value
        if not keep:
            base = coder.reconstruct(coder.encode(x), x, site)
        return torch.addmm(base.to(value), change.to(value), rows[site])

    positions = [refs[number].position for number in columns]
    read = feature_reader(coder, indices)
    return Coordinates(coder.reads[0], len(columns), read, write, tuple(coder.writes), columns, positions)


def _columns(site: Site, taken: Any, count: int, columns: Sequence[int] | None = None) -> Coordinates:
    """Some numbers of a site, or all of them, as they are."""

    def write(_: Site, value: Values, change: Float[Tensor, "token k"], x: Values) -> Values:
        value[:, taken] += change.to(value)
        return value

    return Coordinates(site, count, lambda x: x[:, taken], write, (site,), columns)


def feature_reader(coder: Coder, indices: Int[Tensor, " k"]) -> Read:
    """A function that gives the activations of some latents; it encodes only these where the activation allows it."""
    activation = coder.activation
    own, column = indices.unique(return_inverse=True)
    try:
        rows, bias = coder.encoder_rows(own), coder.encoder_bias(own)
    except Unsupported:  # the coder scales every token by itself
        rows = bias = None
    if activation.span != "latent" or rows is None:

        def select(x: Values) -> Float[Tensor, "token k"]:
            latents, wanted = coder.encode(x), own.to(x.device)
            slot = torch.searchsorted(wanted, latents.indices).clamp(max=len(wanted) - 1)
            hit = wanted[slot] == latents.indices
            dense = latents.values.new_zeros(latents.tokens, len(wanted))
            return dense.index_put((latents.positions[hit], slot[hit]), latents.values[hit])[:, column]

        return select
    tensors: dict[str, Any] = {name: tensor[own] for name, tensor in activation.tensors().items()}
    gate = replace(activation, **tensors)  # pyright: ignore[reportArgumentType]
    ascending = torch.equal(own, indices)

    def encode(x: Values) -> Float[Tensor, "token k"]:
        preactivations = torch.nn.functional.linear(x.to(rows), rows, bias)
        active = preactivations * gate.active(preactivations)
        return active if ascending else active[:, column]

    return encode


def wide(value: Tensor) -> Tensor:
    """The same numbers in float32 or wider, one axis after (row, token)."""
    return value.to(torch.promote_types(value.dtype, torch.float32)).flatten(2)


def prompts_of(run: Run) -> Prompts:
    """What the texts of a forward began with; BadInput where that is not known."""
    if run.prompts is None:
        raise BadInput(
            "An edit cannot know where a prompt begins or ends that the key-value cache held before, or whose "
            "attention mask has more than two axes; run it in the same block, with a mask (row, token)."
        )
    return run.prompts


@final
class GateState:
    """Where a gate is open: follows its feature through the forwards over one key-value cache."""

    def __init__(self, gate: Gate, coder: Coder, model: Model, clean: Clean) -> None:
        self.site, self._gate, self._model, self._clean = coder.reads[0], gate, model, clean
        self._read = feature_reader(coder, torch.tensor([gate.feature.index]))
        self._run: Run | None = None
        self._start = 0  # the first token whose activation is known
        self._active = torch.empty(0)

    def update(self, value: Tensor) -> None:
        """Note where the feature is active; after a key-value cache, beside the tokens that it holds."""
        x = wide(value if self._clean is None else self._clean[self.site])
        active = self._read(x.flatten(0, 1)).reshape(x.shape[:2]) > self._gate.above
        run = self._model.taps.run
        if run.follows(self._run) and run.cached >= self._start and len(active) == len(self._active):
            self._active = torch.cat([self._active[:, : run.cached - self._start], active], dim=1)
        else:
            self._start, self._active = run.cached, active
        self._run = run

    def open(self, site: Site, start: int, tokens: int) -> Bool[Tensor, "row #token"]:
        """At which of the tokens from a position on it is open; BadInput where that is not known."""
        run, feature = self._model.taps.run, self._gate.feature
        if self._run is not run:
            raise BadInput(f"The gate {feature} is read at {self.site}, which comes after {site}.")
        at = [start]
        if feature.position is not None and run.prompts is not None:
            prompts = zip(run.prompts.firsts, run.prompts.lengths, strict=True)
            at = [first + position_in(feature.position, length) for first, length in prompts]
        if min(at) < self._start or (run.prompts is None and feature.position is not None):
            raise BadInput(f"The gate {feature} did not see the tokens of the cache; run them within the same block.")
        if feature.position is not None:
            return self._active[torch.arange(len(at)), [each - self._start for each in at]][:, None]
        if start < run.cached and run.prompts is not None and run.prompts.reordered:
            raise Unsupported(f"The gate {feature} cannot follow beams that change places; generate without beams.")
        return self._active[:, start - self._start :][:, :tokens]


@final
class ActingTokens:
    """The tokens where an edit acts, forward by forward.

    Attributes:
        model: the model that runs.
    """

    def __init__(self, where: Where, model: Model, gate: GateState | None, beyond: bool = True) -> None:
        """With `beyond` false the edit acts within the prompt only, whatever its place says."""
        self.model, self._gate, self._where = model, gate, where
        inner = where.where if isinstance(where, Gate) else where
        self._everywhere = beyond and inner == "all"
        self._beyond = beyond and inner in ("all", "generated")
        self._prompts: Prompts | None = None  # whose positions are known
        self._positions: list[list[int]] = []

    def positions(self, prompts: Prompts) -> list[list[int]]:
        """The selected positions of each row's prompt, in the order in which they are named."""
        if self._prompts is not prompts:
            self._prompts, self._positions = prompts, []
            for row, (first, length) in enumerate(zip(prompts.firsts, prompts.lengths, strict=True)):
                spans = None
                if prompts.ids is not None and not isinstance(self._where, str | tuple):
                    spans = self.model.spans(prompts.ids[row, first : first + length].tolist())
                self._positions.append(named_positions(self._where, length, spans))
        return self._positions

    def select(self, site: Site, value: Tensor) -> tuple[Int[Tensor, " token"], Int[Tensor, " token"]]:
        """The row and the token of each selected part of a site's value."""
        run, tokens = self.model.taps.run, value.shape[1]
        start = run.start(value)
        chosen = torch.full((len(value), tokens), self._beyond)
        if not self._everywhere or run.prompts is not None:
            prompts = prompts_of(run)
            if start < prompts.width:
                index = torch.arange(start, start + tokens)
                firsts = torch.tensor(prompts.firsts)[:, None]
                chosen &= index >= firsts + torch.tensor(prompts.lengths)[:, None]
                for row, (first, positions) in enumerate(zip(prompts.firsts, self.positions(prompts), strict=True)):
                    named = [first + position - start for position in positions]
                    chosen[row, [token for token in named if 0 <= token < tokens]] = True
        if self._gate is not None and bool(chosen.any()):
            chosen &= self._gate.open(site, start, tokens).to(chosen.device)
        row, token = chosen.to(value.device).nonzero(as_tuple=True)
        return row, token


@final
class Act:
    """Changes of one site's coordinates in one forward: read first, then written at every write site."""

    def __init__(self, coordinates: Coordinates, tokens: ActingTokens, change: Change, clean: Clean) -> None:
        self._coordinates, self._tokens, self._change, self._clean = coordinates, tokens, change, clean
        self._pending: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def read(self, value: Tensor) -> None:
        """Find the tokens, read the live (or clean) coordinates there, and keep what they change by."""
        coordinates, run, self._pending = self._coordinates, self._tokens.model.taps.run, None
        row, token = self._tokens.select(coordinates.site, value)
        start, own = run.start(value), None
        position = token + start
        if run.prompts is not None:
            position = position - torch.tensor(run.prompts.firsts, device=token.device)[row]
        if any(each is not None for each in coordinates.positions):
            # features that name a position change there only; -1 is any position
            own = torch.tensor(
                [
                    [-1 if each is None else position_in(each, length) for each in coordinates.positions]
                    for length in prompts_of(run).lengths
                ],
                device=row.device,
            )[row]
            own = (own == position[:, None]) | (own < 0)
            kept = own.any(1)
            row, token, position, own = row[kept], token[kept], position[kept], own[kept]
        if len(row):
            x = wide(value if self._clean is None else self._clean[coordinates.site])[row, token]
            change = self._change(coordinates.read(x), row, position)
            self._pending = row, token, x, change if own is None else change * own

    def writer(self, site: Site) -> Tap:
        """The tap that writes the change at a site, in float32 at least."""

        def write(value: Tensor) -> Tensor | None:
            if self._pending is None:
                return None
            row, token, x, change = self._pending
            result = value.to(torch.promote_types(value.dtype, torch.float32), copy=True).flatten(2)
            result[row, token] = self._coordinates.write(site, result[row, token], change, x)
            return result.reshape(value.shape)

        return write


def in_turn(taps: Sequence[Tap]) -> Tap:
    """One tap that does what several do, each on what the one before left."""

    def apply(value: Tensor) -> Tensor:
        for tap in taps:
            replacement = tap(value)
            value = value if replacement is None else replacement
        return value

    return apply
