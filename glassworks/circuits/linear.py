"""The frozen model of one prompt: a linear map from what is written into the residual stream to what is read from it.

With attention patterns, norm scales and MLP outputs frozen, nothing nonlinear is left, so an edge of the attribution
graph is a bilinear form of a source vector and a target covector, and all of them come from one backward sweep of
covectors through a few matrix products per layer. No autograd, and no forward pass of the model: this module knows
tensors only, neither models nor coders.

The residual stream is read and written at stages:

    2l        before block l (stage 0: the embeddings; stage 2L: what the final norm reads)
    2l + 1    between attention and MLP of block l; nothing reads here where the two run in parallel

From stage 2l to 2l + 1 attention l adds its part; from 2l + 1 to 2l + 2 the MLP's output is written, a constant or a
source, plus the live skip path of a transcoder where it has one.

Letters: q positions of a causal prefix, r rows (targets) of a block, d width of the residual stream.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 2**24  # numbers in a block of covectors (64 MiB of float32): bounds the memory of a sweep


@final
@dataclass(frozen=True, eq=False)
class FrozenAttention:
    """One attention layer whose pattern and norm scales are constants, its norms folded into its weights.

    Attributes:
        pattern: attention weights times the scale of the norm after (by query) and before (by key).
        w_v: value matrices with the gain, and the centring, of the norm before.
        w_o: output matrices with the gain, and the centring, of the norm after.
        constant: what it adds for a stream of zeros: all of its biases.
    """

    pattern: Float[Tensor, "head token token"]
    w_v: Float[Tensor, "kv_head d_head d_model"]
    w_o: Float[Tensor, "head d_model d_head"]
    constant: Float[Tensor, "token d_model"]

    def forward(self, stream: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """The stream after the layer: itself, plus what attention adds, biases included."""
        after = stream + self.constant
        for key_value, head in self._heads():
            after += self.pattern[head] @ (stream @ self.w_v[key_value].T) @ self.w_o[head].T
        return after

    def backward(self, g: Float[Tensor, "q r d_model"]) -> Float[Tensor, "q r d_model"]:
        """Covectors before the layer from covectors after it: `g + sum_h W_V^T pattern_h^T W_O^T g`.

        Positions lead, so that mixing them is one matrix product for all rows together.
        """
        q, r, d = g.shape
        before = g.clone()
        values = g.new_zeros(len(self.w_v), q, r * self.w_v.shape[1])
        for key_value, head in self._heads():
            through = g.view(q * r, d) @ self.w_o[head]
            values[key_value].addmm_(self.pattern[head, :q, :q].T, through.view(values.shape[1:]))
        for w_v, value in zip(self.w_v, values, strict=True):
            before.view(q * r, d).addmm_(value.view(q * r, len(w_v)), w_v)
        return before

    def first(self, covectors: Float[Tensor, "r d_model"], q: int) -> Float[Tensor, "q r d_model"]:
        """What `backward` makes of covectors at the last of q positions alone, for a fraction of its cost."""
        heads = torch.stack([covectors @ self.w_o[head] @ self.w_v[key_value] for key_value, head in self._heads()])
        before = torch.einsum("hq,hrd->qrd", self.pattern[:, q - 1, :q], heads)
        before[-1] += covectors
        return before

    def _heads(self) -> Iterator[tuple[int, int]]:
        """Every query head behind the key-value head that serves it."""
        return ((head * len(self.w_v) // len(self.w_o), head) for head in range(len(self.w_o)))


@final
@dataclass(frozen=True, eq=False)
class Skip:
    """The linear path of a skip-transcoder, its input norm folded in: `factor * (stream @ weight) + constant`.

    Attributes:
        read: stage that it reads.
        write: stage that it writes.
        weight: the skip matrix behind the norm's gain and centring.
        factor: the norm's scale; 0 where the transcoder is off.
        constant: what it adds for a stream of zeros.
    """

    read: int
    write: int
    weight: Float[Tensor, "d_model d_model"]
    factor: Float[Tensor, "token 1"]
    constant: Float[Tensor, "token d_model"]

    def forward(self, stream: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """What it writes, from the stream that it reads."""
        return self.factor * (stream @ self.weight) + self.constant

    def backward(self, g: Float[Tensor, "q r d_model"]) -> Float[Tensor, "q r d_model"]:
        """What covectors at its write stage add to the covectors at its read stage."""
        return (g @ self.weight.T) * self.factor[: len(g), None]


@final
@dataclass(frozen=True, eq=False)
class FrozenModel:
    """The frozen model: its attention layers and the skip paths of its transcoders."""

    attentions: tuple[FrozenAttention, ...]
    skips: tuple[Skip, ...] = ()

    @property
    def last(self) -> int:
        """The last stage, which the final norm reads."""
        return 2 * len(self.attentions)


@final
@dataclass(frozen=True, eq=False)
class Targets:
    """What the rows of the graph are about: linear reads of the residual stream.

    Attributes:
        stage: where each is read.
        position: at which token.
        covector: what it reads, norm folded in.
        constant: what its value has besides: the bias of its encoder and of the norm before it.
    """

    stage: Int[Tensor, " t"]
    position: Int[Tensor, " t"]
    covector: Float[Tensor, "t d_model"]
    constant: Float[Tensor, " t"]

    def __len__(self) -> int:
        return len(self.stage)

    def __getitem__(self, rows: Tensor) -> "Targets":
        return Targets(self.stage[rows], self.position[rows], self.covector[rows], self.constant[rows])

    @classmethod
    def cat(cls, parts: list["Targets"]) -> "Targets":
        """Several tables as one."""
        fields = ("stage", "position", "covector", "constant")
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in fields))


@final
@dataclass(frozen=True, eq=False)
class Writes:
    """The source vectors that enter the residual stream at one stage, sorted by position.

    Attributes:
        columns: which source each belongs to; one source may write at several stages.
        vectors: what it adds to the stream.
        starts: where each position's sources start; one more entry at the end.
    """

    columns: Int[Tensor, " k"]
    vectors: Float[Tensor, "k d_model"]
    starts: list[int]

    @classmethod
    def sort(
        cls,
        positions: Int[Tensor, " k"],
        columns: Int[Tensor, " k"],
        vectors: Float[Tensor, "k d_model"],
        tokens: int,
    ) -> "Writes":
        """Sort vectors by position, for a prompt of so many tokens."""
        order = positions.argsort(stable=True)
        counts = torch.bincount(positions, minlength=tokens)
        return cls(columns[order], vectors[order], [0, *counts.cumsum(0).tolist()])

    def score(self, g: Float[Tensor, "q r d_model"], edges: Float[Tensor, "column _"]) -> None:
        """Add the products of every source of the prefix with the first r rows' covectors to the edges."""
        q, r, _ = g.shape
        scores = g.new_empty(self.starts[q], r)
        for position in range(q):
            here = slice(self.starts[position], self.starts[position + 1])
            torch.mm(self.vectors[here], g[position].T, out=scores[here])
        edges[:, :r].index_add_(0, self.columns[: len(scores)], scores)


def edges(
    model: FrozenModel, sources: Mapping[int, Writes], targets: Targets, columns: int, block: int = BLOCK
) -> Float[Tensor, "t column"]:
    """Every direct linear effect of a source on a target (design: attribution.md, section 3).

    Args:
        model: the frozen model.
        sources: what is written, by stage.
        targets: what is read.
        columns: how many sources there are.
        block: how many numbers a block of covectors may hold.

    Returns:
        `A[t, s]`, the part of target t's value that comes from source s, in the targets' order.
    """
    matrix = targets.covector.new_zeros(len(targets), columns)
    for rows in _blocks(targets, block):
        matrix[rows] = _sweep(model, sources, targets[rows], columns).T
    return matrix


def _blocks(targets: Targets, block: int) -> Iterator[Int[Tensor, " r"]]:
    """Rows that one sweep serves: of one position, the last stage first, few enough for the memory."""
    order = targets.stage.argsort(descending=True, stable=True)
    order = order[targets.position[order].argsort(stable=True)]
    positions, counts = targets.position[order].unique_consecutive(return_counts=True)
    for position, rows in zip(positions.tolist(), order.split(counts.tolist()), strict=True):
        yield from rows.split(max(1, block // ((position + 1) * targets.covector.shape[1])))


def _sweep(
    model: FrozenModel, sources: Mapping[int, Writes], targets: Targets, columns: int
) -> Float[Tensor, "column r"]:
    """Carry covectors of one position backwards; each joins at its stage, and every stage's sources are scored."""
    edges = targets.covector.new_zeros(columns, len(targets))
    g = targets.covector.new_zeros(int(targets.position[0]) + 1, 0, targets.covector.shape[1])
    skipped: list[tuple[Skip, Tensor]] = []
    for stage in range(int(targets.stage[0]), -1, -1):
        for skip, arriving in skipped:
            if skip.read == stage:
                g[:, : arriving.shape[1]] += arriving
        joining = targets.covector[targets.stage == stage]
        if stage % 2:  # nothing is written here, so what joins goes straight through the attention layer
            attention = model.attentions[stage // 2]
            g = torch.cat([attention.backward(g), attention.first(joining, len(g))], dim=1)
            continue
        if len(joining):
            g = torch.cat([g, g.new_zeros(len(g), *joining.shape)], dim=1)
            g[-1, -len(joining) :] = joining
        if stage in sources:
            sources[stage].score(g, edges)
        skipped += [(skip, skip.backward(g)) for skip in model.skips if skip.write == stage]
    return edges


def constants(
    model: FrozenModel, writes: Mapping[int, Float[Tensor, "token d_model"]]
) -> Float[Tensor, "stage token d_model"]:
    """The part of the residual stream that comes from no source, carried forward from constants alone.

    Args:
        model: the frozen model; its attention and norm biases enter here.
        writes: the constants that enter at a stage: decoder biases, MLP outputs at masked positions.
    """
    stages: list[Tensor] = [torch.zeros_like(model.attentions[0].constant)]
    for stage in range(1, model.last + 1):
        stream = model.attentions[stage // 2].forward(stages[-1]) if stage % 2 else stages[-1].clone()
        if stage in writes:
            stream += writes[stage]
        for skip in model.skips:
            if skip.write == stage:
                stream += skip.forward(stages[skip.read])
        stages.append(stream)
    return torch.stack(stages)


def biases(targets: Targets, constants: Float[Tensor, "stage token d_model"]) -> Float[Tensor, " t"]:
    """The part of each target's value that comes from no source."""
    return targets.constant + (targets.covector * constants[targets.stage, targets.position]).sum(1)
