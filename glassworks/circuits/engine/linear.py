"""The frozen model: attention layers with constant patterns, skip paths, what is written and what is read.

With attention patterns, norm scales and MLP outputs frozen, nothing nonlinear is left, so an edge of the attribution
graph is a bilinear form of a source vector and a target covector. This module knows tensors only, neither models nor
coders; how all edges are found in one go, `sweep` knows.

The residual stream is read and written at stages:

    2l        before block l (stage 0: the embeddings; stage 2L: what the final norm reads)
    2l + 1    between attention and MLP of block l; nothing reads here where the two run in parallel

From stage 2l to 2l + 1 attention l adds its part, or, where a coder replaces its output, sources are written; from
2l + 1 to 2l + 2 the MLP's output is written, a constant or a source, plus the live skip path of a transcoder where it
has one.

Letters: q positions of a causal prefix, r rows (targets) of a block, d width of the residual stream.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

TILE = 256  # positions mixed at a time: half of a long pattern is zero, and is left out tile by tile


@final
@dataclass(frozen=True, eq=False)
class FrozenAttention:
    """One attention layer whose pattern and norm scales are constants, its norms folded into its weights.

    Attributes:
        pattern: attention weights times the scale of the norm after (by query) and before (by key).
        w_v: value matrices with the gain, and the centring, of the norm before.
        w_o: output matrices with the gain, and the centring, of the norm after.
        constant: what it adds for a stream of zeros: all of its biases.
        reach: how many positions it looks back at most: with a sliding window fewer than the prompt has.
    """

    pattern: Float[Tensor, "head token token"]
    w_v: Float[Tensor, "kv_head d_head d_model"]
    w_o: Float[Tensor, "head d_model d_head"]
    constant: Float[Tensor, "token d_model"]
    reach: int

    @property
    def out(self) -> Float[Tensor, "width d_model"]:
        """The output matrices of all heads, one below the other."""
        return self.w_o.mT.flatten(0, 1)

    def heads(self, stream: Float[Tensor, "token d_model"]) -> Float[Tensor, "token width"]:
        """What its heads make of a stream, side by side, without biases: what its output matrices read."""
        values = stream @ self.w_v.mT
        return torch.cat([self.pattern[head] @ values[key_value] for key_value, head in self.head_pairs()], dim=1)

    def forward(self, stream: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """The stream after the layer: itself, plus what attention adds, biases included."""
        return stream + self.constant + self.heads(stream) @ self.out

    def backward(self, g: Float[Tensor, "r q d_model"]) -> Float[Tensor, "r q d_model"]:
        """Covectors before the layer from covectors after it: `g + sum_h W_V^T pattern_h^T W_O^T g`."""
        before = g.clone()
        carry([self], [before])
        return before

    def spread(
        self, z: Float[Tensor, "r width"], positions: Int[Tensor, " r"], before: Float[Tensor, "r q d_model"]
    ) -> None:
        """Add to covectors before the layer what covectors on its heads' outputs, at one position each, come to."""
        z = z.view(len(z), len(self.w_o), -1)
        values = torch.stack([z[:, head] @ self.w_v[key_value] for key_value, head in self.head_pairs()], dim=1)
        before.baddbmm_(self.pattern[:, positions, : before.shape[1]].permute(1, 2, 0), values)

    def mix(self, z: Float[Tensor, "width cell"], q: int) -> Float[Tensor, "kv_width cell"]:
        """Covectors on values from covectors on what the heads give; a cell is a row at a position.

        Positions come last, so that mixing them is one matrix product for all rows and components of a head.
        """
        heads = z.view(len(self.w_o), -1, q)
        values = z.new_zeros(len(self.w_v), heads.shape[1], q)
        for start in range(0, q, TILE):
            keys, queries = slice(start, start + TILE), slice(start, min(start + TILE + self.reach, q))
            for key_value, head in self.head_pairs():
                values[key_value, :, keys].addmm_(heads[head, :, queries], self.pattern[head, queries, :q][:, keys])
        return values.view(-1, z.shape[1])

    def head_pairs(self) -> Iterator[tuple[int, int]]:
        """Every query head behind the key-value head that serves it."""
        return ((head * len(self.w_v) // len(self.w_o), head) for head in range(len(self.w_o)))


def carry(layers: Sequence[FrozenAttention], blocks: Sequence[Float[Tensor, "_ _ d_model"]]) -> None:
    """Carry covectors from after an attention layer to before it, in place; prompts share the products with weights.

    Args:
        layers: the layer as it is frozen on each of several prompts: other patterns, the same weights.
        blocks: the covectors of each prompt.
    """
    cells = [len(each) * each.shape[1] for each in blocks]
    flat = joined([each.view(size, each.shape[2]) for each, size in zip(blocks, cells, strict=True)], 0)
    heads = (layers[0].out @ flat.T).split(cells, dim=1)
    values = [layer.mix(z.contiguous(), each.shape[1]) for layer, z, each in zip(layers, heads, blocks, strict=True)]
    flat.addmm_(joined(values, 1).T, layers[0].w_v.flatten(0, 1))
    if len(blocks) > 1:
        for each, passed in zip(blocks, flat.split(cells), strict=True):
            each.copy_(passed.view(each.shape))


def joined(parts: Sequence[Tensor], dim: int) -> Tensor:
    """Several tensors as one; a single one is not copied."""
    return torch.cat(list(parts), dim) if len(parts) > 1 else parts[0]


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

    def backward(self, g: Float[Tensor, "r q d_model"]) -> Float[Tensor, "r q d_model"]:
        """What covectors at its write stage add to the covectors at its read stage."""
        return (g @ self.weight.T) * self.factor[: g.shape[1]]


@final
@dataclass(frozen=True, eq=False)
class FrozenModel:
    """The frozen model.

    Attributes:
        attentions: its attention layers.
        skips: the skip paths of its transcoders.
        replaced: layers whose attention output is made of sources: only what reads that output goes through them.
    """

    attentions: tuple[FrozenAttention, ...]
    skips: tuple[Skip, ...] = ()
    replaced: frozenset[int] = frozenset()

    @property
    def last(self) -> int:
        """The last stage, which the final norm reads."""
        return 2 * len(self.attentions)


@final
@dataclass(frozen=True, eq=False)
class Targets:
    """What the rows of the graph are about: linear reads of the residual stream, or of what attention heads give.

    Attributes:
        stage: where each is read; what reads the heads of layer l reads at stage 2l + 1.
        position: at which token.
        covector: what it reads of the stream, norm folded in.
        constant: what its value has besides: the bias of its encoder and of the norm before it.
        inside: what it reads of what the heads of the layer give; None where nothing does.
    """

    stage: Int[Tensor, " t"]
    position: Int[Tensor, " t"]
    covector: Float[Tensor, "t d_model"]
    constant: Float[Tensor, " t"]
    inside: Float[Tensor, "t width"] | None = None

    def __len__(self) -> int:
        return len(self.stage)

    def __getitem__(self, rows: Tensor | slice) -> "Targets":
        inside = None if self.inside is None else self.inside[rows]
        return Targets(self.stage[rows], self.position[rows], self.covector[rows], self.constant[rows], inside)

    @classmethod
    def cat(cls, parts: Sequence["Targets"]) -> "Targets":
        """Several tables as one."""
        names = ("stage", "position", "covector", "constant")
        inner = [part.inside for part in parts if part.inside is not None]
        inside = None
        if inner:
            width = inner[0].shape[1]
            wide = [inner[0].new_zeros(len(part), width) if part.inside is None else part.inside for part in parts]
            inside = torch.cat(wide)
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names}, inside=inside)


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

    def score(self, g: Float[Tensor, "r q d_model"], edges: Float[Tensor, "column _"]) -> None:
        """Add the products of every source of the prefix with the first r rows' covectors to the edges."""
        r, q, _ = g.shape
        scores = g.new_empty(self.starts[q], r)
        for position in range(q):
            here = slice(self.starts[position], self.starts[position + 1])
            if here.start < here.stop:
                torch.mm(self.vectors[here], g[:, position].T, out=scores[here])
        edges[:, :r].index_add_(0, self.columns[: len(scores)], scores)


def constants(
    model: FrozenModel, writes: Mapping[int, Float[Tensor, "token d_model"]]
) -> Float[Tensor, "stage token d_model"]:
    """The part of the residual stream that comes from no source, carried forward from constants alone.

    Args:
        model: the frozen model; its attention and norm biases enter here.
        writes: the constants that enter at a stage: decoder biases, outputs at masked positions.
    """
    stages: list[Tensor] = [torch.zeros_like(model.attentions[0].constant)]
    for stage in range(1, model.last + 1):
        open_ = stage % 2 and stage // 2 not in model.replaced
        stream = model.attentions[stage // 2].forward(stages[-1]) if open_ else stages[-1].clone()
        if stage in writes:
            stream += writes[stage]
        for skip in model.skips:
            if skip.write == stage:
                stream += skip.forward(stages[skip.read])
        stages.append(stream)
    return torch.stack(stages)


def biases(
    model: FrozenModel, targets: Targets, constants: Float[Tensor, "stage token d_model"]
) -> Float[Tensor, " t"]:
    """The part of each target's value that comes from no source."""
    found = targets.constant + (targets.covector * constants[targets.stage, targets.position]).sum(1)
    if targets.inside is not None:
        for layer, attention in enumerate(model.attentions):
            rows = (targets.stage == 2 * layer + 1).nonzero()[:, 0]
            heads = attention.heads(constants[2 * layer])
            found[rows] += (targets.inside[rows] * heads[targets.position[rows]]).sum(1)
    return found
