"""Graft: a circuit of model A that runs beside model B and changes B's output.

B's states are read through maps into A's space, where the circuit's nodes work as in A: each reads what the map brings
plus what the nodes below it changed. A node contributes what the map cannot predict: its value minus the value that is
expected from B's state. What the circuit's last layer writes goes through one more map into B's last states. How
strongly nodes count is fitted to at most 16 demonstrations, with neutral text that keeps everything else in place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassworks import artefacts
from glassworks.errors import BadArtefact, BadInput, NotFound, Unsupported, nearest
from glassworks.harvest import pad
from glassworks.models import Model, Run, Tap
from glassworks.sites import Site
from glassworks.transfer.parts import KINDS, CircuitPart, Memory

KIND = "graft"
MOST = 16
SCALARS = ("one", "group", "node")
Affine = tuple[Tensor, Tensor]
"""Weight and bias."""


@final
@dataclass(frozen=True, eq=False)
class MappedPart:
    """A part of a circuit with what maps B's states to it.

    Attributes:
        part: the nodes.
        group: name of their supernode.
        source: the site of B that they read.
        down: weight and bias of the map from that site to the part's own.
        base: weight and bias that give the expected values of the nodes from B's state.
        gains: how strongly each node counts.
    """

    part: CircuitPart
    group: str
    source: Site
    down: Affine
    base: Affine
    gains: Float[Tensor, " node"]

    def __len__(self) -> int:
        return len(self.part.names)

    def change(self, x: Tensor, moved: Tensor | float, start: int, memory: Memory, gains: Tensor) -> Tensor:
        """What the nodes add to A's stream: (value - expected value) times gain, written.

        Args:
            x: states of B at `source` (row, token, d_b).
            moved: what nodes below have changed, in A's space.
            start: position of the first token.
            memory: of earlier tokens.
            gains: one for each node.
        """
        values = self.part.read(x @ self.down[0] + self.down[1] + moved, start, memory)
        expected = (x @ self.base[0] + self.base[1]).reshape(values.shape)
        return self.part.write((values - expected) * gains[:, None])


@final
@dataclass(frozen=True, eq=False)
class Graft:
    """A circuit carried into another model; an edit, as `model.edit(...)` takes it.

    Example:
        ```python
        with model_b.edit(graft.without("heads.2")):
            print(model_b.generate(prompt))
        ```

    Attributes:
        a: name of the model that the circuit is from.
        b: name of the model that it is for.
        parts: of the circuit, from below; those of the last layer write into B.
        up: the map from A's last states to B's, (d_a, d_b).
        target: the site of B that is written.
        facts: how it was made; plain JSON values.
    """

    a: str
    b: str
    parts: tuple[MappedPart, ...]
    up: Float[Tensor, "d_a d_b"]
    target: Site
    facts: Mapping[str, Any] = field(default_factory=dict)

    frozen = ()
    stepwise = True

    def __repr__(self) -> str:
        nodes = sum(len(part) for part in self.parts)
        return f"Graft({self.a!r} -> {self.b!r}: {nodes} nodes in {', '.join(self.groups)})"

    @property
    def reads(self) -> Sequence[Site]:
        """The sites of B that it reads."""
        return list(dict.fromkeys(part.source for part in self.parts))

    @property
    def groups(self) -> list[str]:
        """Its supernodes, from below."""
        return list(dict.fromkeys(part.group for part in self.parts))

    @property
    def writers(self) -> list[bool]:
        """Which parts write into B: the features of the circuit's last layer; all others stay beside it."""
        return writers([mapped.part for mapped in self.parts])

    @property
    def gains(self) -> Float[Tensor, " node"]:
        """How strongly each node counts, parts in order."""
        return torch.cat([part.gains for part in self.parts])

    def with_gains(self, gains: Float[Tensor, " node"]) -> "Graft":
        """The same with other gains."""
        split = gains.split([len(part) for part in self.parts])
        parts = [replace(part, gains=own) for part, own in zip(self.parts, split, strict=True)]
        return replace(self, parts=tuple(parts))

    def without(self, *groups: str) -> "Graft":
        """The same with some supernodes switched off.

        Raises:
            NotFound: there is no such group.
        """
        wrong = [name for name in groups if name not in self.groups]
        if wrong:
            raise NotFound(f"The graft has no group {wrong[0]!r}; {nearest(wrong[0], self.groups)}.")
        off = [torch.zeros_like(part.gains) if part.group in groups else part.gains for part in self.parts]
        return self.with_gains(torch.cat(off))

    def only(self, *groups: str) -> "Graft":
        """The same with all other supernodes switched off."""
        self.without(*groups)
        return self.without(*(name for name in self.groups if name not in groups))

    def delta(
        self,
        states: Mapping[Site, Float[Tensor, "row token d_b"]],
        gains: Float[Tensor, " node"] | None = None,
        start: int = 0,
        memory: list[Memory] | None = None,
    ) -> Float[Tensor, "row token d_b"]:
        """What is added to B's states at `target`.

        Args:
            states: B's at `reads`.
            gains: one for each node, instead of the graft's own.
            start: position of the first token.
            memory: one for each part, of earlier tokens; needed where `start` is not 0.
        """
        gains = self.gains if gains is None else gains
        memory = [{} for _ in self.parts] if memory is None else memory
        moved: Tensor | float = 0.0
        written: Tensor | float = 0.0
        split = gains.split([len(part) for part in self.parts])
        for part, own, kept, writes in zip(self.parts, split, memory, self.writers, strict=True):
            change = part.change(states[part.source], moved, start, kept, own)
            if writes:
                written = written + change
            else:
                moved = moved + change
        return written @ self.up if isinstance(written, Tensor) else torch.zeros(())

    def taps(self, model: Model, clean: Mapping[Site, Tensor] | None) -> Mapping[Site, Tap]:
        """The taps that add the graft; see `glassworks.models.Edit`.

        Raises:
            BadInput: the model has another width or depth than the one that the graft was made for.
            Unsupported: MLPs are frozen.
        """
        if clean is not None:
            raise Unsupported("A graft runs a circuit of its own, so it cannot act where MLPs are frozen.")
        self.check(model)
        states: dict[Site, Tensor] = {}
        memory: list[Memory] = [{} for _ in self.parts]
        before: list[Run] = []

        def reader(site: Site) -> Tap:
            return lambda value: states.__setitem__(site, value.float())

        def write(value: Tensor) -> Tensor:
            run = model.taps.run
            start = run.start(value)
            if run.prompts is None or any(run.prompts.firsts) or (run.prompts.reordered and run.cached):
                raise Unsupported("A graft reads texts from their first token on, row by row: pad on the right, and "
                                  "use neither beams nor a cache that was filled outside.")  # fmt: skip
            if start and not (before and run.follows(before[0]) and before[0].end == start):
                raise Unsupported("A graft remembers its text token by token, so generation cannot go back; "
                                  "use no assisted generation.")  # fmt: skip
            before[:] = [run]
            if not start:
                for kept in memory:
                    kept.clear()
            return value.float() + self.delta(states, start=start, memory=memory)

        # Sites are read before the target is written: the last stream lies behind all that is read.
        return {**{site: reader(site) for site in self.reads}, self.target: write}

    def check(self, model: Model) -> None:
        """Raise BadInput unless the graft fits a model."""
        depth, width = (self.target.layer or 0) + 1, self.up.shape[1]
        if model.n_layers != depth or model.d_model != width:
            raise BadInput(
                f"The graft was made for {self.b} with {depth} layers of width {width}; {model.name} has "
                f"{model.n_layers} of width {model.d_model}, so make one for it."
            )

    def save(self, path: str | Path) -> artefacts.Artefact:
        """Write it as an artefact of kind `graft`: the rows that it needs, and nothing else of A."""
        rows, tensors = [], {"up": self.up}
        for number, mapped in enumerate(self.parts):
            own = {f"part.{name}": value for name, value in mapped.part.weights.items()}
            own |= {"down.weight": mapped.down[0], "down.bias": mapped.down[1], "gains": mapped.gains}
            own |= {"base.weight": mapped.base[0], "base.bias": mapped.base[1]}
            tensors |= {f"{number}.{name}": value for name, value in own.items()}
            row = {"group": mapped.group, "source": mapped.source.name, "kind": mapped.part.kind}
            rows.append({**row, "facts": dict(mapped.part.facts)})
        fields = {"a": self.a, "b": self.b, "target": self.target.name, "groups": self.groups}
        fields |= {"facts": dict(self.facts)}
        return artefacts.write(path, KIND, fields, {"graft": tensors}, {"stations": rows}, [self.a, self.b])


def writers(parts: Sequence[CircuitPart]) -> list[bool]:
    """Which parts of a circuit write into the other model: the features of its last layer."""
    last = max((part.layer for part in parts), default=0)
    return [part.layer == last and part.kind == "features" for part in parts]


def load_graft(path: str | Path) -> Graft:
    """Read what `Graft.save` wrote.

    Raises:
        NotFound: there is no such folder.
        BadArtefact: it is damaged, or holds something else.
    """
    stored = artefacts.read(path, KIND)
    tensors, fields = stored.tensors("graft"), stored.fields

    def below(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    try:
        parts = []
        for number, row in enumerate(stored.table("stations")):
            own = below(f"{number}.")
            part = KINDS[row["kind"]](row["facts"], below(f"{number}.part."))
            down, base = ((own[f"{name}.weight"], own[f"{name}.bias"]) for name in ("down", "base"))
            parts.append(MappedPart(part, row["group"], Site.parse(row["source"]), down, base, own["gains"]))
        target = Site.parse(fields["target"])
        return Graft(fields["a"], fields["b"], tuple(parts), tensors["up"], target, fields["facts"])
    except (KeyError, TypeError) as error:
        raise BadArtefact(f"The graft {path} lacks or misstates {error}; make it again.") from error


@final
@dataclass(frozen=True)
class Demonstrations:
    """What gains are fitted to.

    Attributes:
        wanted: prompts that should get the reply.
        reply: its first words, as they follow the prompt.
        unwanted: matched negatives, after which B's output should not change.
        neutral: general text, where nothing should change.
    """

    wanted: Sequence[str]
    reply: str
    unwanted: Sequence[str]
    neutral: Sequence[str]

    def __post_init__(self) -> None:
        """Raise BadInput for no prompts, or too many."""
        count = len(self.wanted) + len(self.unwanted)
        if not self.wanted or not self.unwanted or not self.neutral or count > MOST:
            raise BadInput(
                f"Gains are fitted to 2 to {MOST} prompts, some of each kind, and neutral text; got "
                f"{len(self.wanted)} wanted, {len(self.unwanted)} unwanted and {len(self.neutral)} neutral."
            )


@final
@dataclass(frozen=True)
class Fitting:
    """How gains are fitted.

    Attributes:
        scalars: `one` (what is written), `group` (one for each supernode), or `node`.
        steps: of Adam.
        rate: its step size.
        still: weight of what must not change after matched negatives, KL in nats.
        quiet: weight of what must not change in neutral text, KL in nats per token.
        shrink: weight of the squared distance of gains from 1, where there are several.
    """

    scalars: str = "one"
    steps: int = 80
    rate: float = 0.05
    still: float = 1.0
    quiet: float = 5.0
    shrink: float = 0.002


DEFAULT_FITTING = Fitting()


@final
@dataclass(frozen=True, eq=False)
class _Clean:
    """B's states on token rows; the places whose logits count, their log-probabilities and the tokens that follow."""

    states: dict[Site, Tensor]
    last: Tensor
    places: Bool[Tensor, "row token"]
    logs: Float[Tensor, "place vocab"]
    following: Int[Tensor, " place"]


def fit_gains(graft: Graft, b: Model, demonstrations: Demonstrations, fitting: Fitting = DEFAULT_FITTING) -> Graft:
    """Fit gains by gradient descent; B and the circuit stay as they are.

    Args:
        graft: with the gains to begin with.
        b: the model that it is for.
        demonstrations: what to fit to.
        fitting: the settings.

    Raises:
        NotFound: there is no such choice of scalars.
    """
    if fitting.scalars not in SCALARS:
        raise NotFound(f"Gains cannot be fitted by {fitting.scalars!r}; {nearest(fitting.scalars, SCALARS)}.")
    graft.check(b)
    # B runs once: only the graft changes while gains are fitted.
    replies = [(b.tokens(prompt).tolist(), b.tokens(prompt + demonstrations.reply)) for prompt in demonstrations.wanted]
    places = [range(len(prompt) - 1, len(whole) - 1) for prompt, whole in replies]
    still = [b.tokens(prompt).tolist() for prompt in demonstrations.unwanted]
    quiet = [b.tokens(text).tolist()[: b.context_length] for text in demonstrations.neutral]
    wanted = _run_clean(graft, b, [whole.tolist() for _, whole in replies], places)
    unwanted = _run_clean(graft, b, still, [range(len(row) - 1, len(row)) for row in still])
    neutral = _run_clean(graft, b, quiet, [range(len(row)) for row in quiet])

    def logs(clean: _Clean, gains: Tensor) -> Float[Tensor, "place vocab"]:
        return next_logs(b, (clean.last + graft.delta(clean.states, gains))[clean.places])

    def kl(clean: _Clean, gains: Tensor) -> Float[Tensor, ""]:
        return (clean.logs.exp() * (clean.logs - logs(clean, gains))).sum(-1).mean()

    # Which scalar each node's gain is.
    nodes = [(part.group, writes) for part, writes in zip(graft.parts, graft.writers, strict=True) for _ in part.gains]
    rows = {
        "node": torch.eye(len(nodes)),
        "one": torch.tensor([[float(writes)] for _, writes in nodes]),
        "group": torch.tensor([[float(group == name) for name in graft.groups] for group, _ in nodes]),
    }
    spread = rows[fitting.scalars]
    scalars = torch.ones(spread.shape[1], requires_grad=True)
    optimiser = torch.optim.Adam([scalars], lr=fitting.rate)
    fixed = graft.gains * (spread.sum(1) == 0)
    for _ in range(fitting.steps):
        gains = fixed + graft.gains * (spread @ scalars)
        reply_loss = -logs(wanted, gains).gather(1, wanted.following[:, None]).sum() / len(demonstrations.wanted)
        change = fitting.still * kl(unwanted, gains) + fitting.quiet * kl(neutral, gains)
        loss = reply_loss + change + fitting.shrink * (scalars - 1).square().sum() * (len(scalars) > 1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return graft.with_gains((fixed + graft.gains * (spread @ scalars)).detach())


def _run_clean(graft: Graft, b: Model, rows: Sequence[Sequence[int]], places: Sequence[range]) -> _Clean:
    ids, _ = pad(rows)
    values = b.capture(ids, [*graft.reads, graft.target], batch_size=len(ids))
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    for row, at in enumerate(places):
        mask[row, at.start : at.stop] = True
    following = torch.cat([ids[:, 1:], torch.zeros_like(ids[:, :1])], 1)
    last = values[graft.target.name].float()
    states = {site: values[site.name].float() for site in graft.reads}
    return _Clean(states, last, mask, next_logs(b, last[mask]), following[mask])


def next_logs(b: Model, last: Float[Tensor, "place d_b"]) -> Float[Tensor, "place vocab"]:
    """Log-probabilities of the next token, from B's last states."""
    weight, bias = b.unembedding
    logits = b.final_norm(last) @ weight.float().T
    logits = logits if bias is None else logits + bias
    return (logits if b.softcap is None else b.softcap * torch.tanh(logits / b.softcap)).log_softmax(-1)
