"""Losses: next-token losses and divergences of a model while something stands in for its activations.

Every batch runs once as it is and once for each replacement. Divergences are KL(true || replaced), from
log-softmaxes in float64.
"""

from collections.abc import Mapping, Sequence
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassworks.evals.replaced import Replacement, replacing
from glassworks.evals.strata import strata
from glassworks.evals.tally import Tally
from glassworks.harvest import batches, pad
from glassworks.models import Model
from glassworks.sites import Site

LOGITS = 1 << 26
"""Logits that are held for a batch: 256 MiB, which for small vocabularies `BATCH_TOKENS` undercuts."""
BATCH_TOKENS = 4096
ROW_LOGITS = 1 << 21
"""Logits that are compared at a time in float64."""
TRUE = "true"
Documents = Sequence[Sequence[int]]
Marks = Sequence[Sequence[bool]]


@final
class Losses:
    """The next-token losses and divergences of a model under several replacements, by document and stratum.

    Args:
        model: the model.
        replacements: by name; `true`, the unchanged model, is always measured.
        documents: token ids each.
        answers: which tokens of each document are answers, a grouping of their own.
        kept: which positions of each document are replaced, by default all; the others keep what the model gives.
    """

    def __init__(
        self,
        model: Model,
        replacements: Mapping[str, Replacement],
        documents: Documents,
        answers: Marks | None = None,
        kept: Marks | None = None,
    ) -> None:
        self.replacements = dict(replacements)
        self.columns = {name: 1 + 2 * number for number, name in enumerate((TRUE, *replacements))}
        self.tally = Tally(1 + 2 * len(self.columns))
        self.counts = torch.bincount(torch.tensor([token for each in documents for token in each]))
        most = min(BATCH_TOKENS, max(1, LOGITS // model.vocab_size))
        for numbers in batches(documents, most):
            ids, real = (each.to(model.device) for each in pad([documents[number] for number in numbers]))
            inside = real & _marks(kept, numbers).to(model.device) if kept is not None else real
            rows = self._run(model, ids, real[:, 1:], inside)
            self.tally.add(rows, self._groups(numbers, ids.cpu(), real[:, 1:].cpu(), answers))

    def loss(self, sums: Float[Tensor, "*group column"], names: Sequence[str]) -> Float[Tensor, "*group"]:
        """Mean loss a token under replacements, averaged over them."""
        return sums[..., [self.columns[name] for name in names]].mean(-1) / sums[..., 0]

    def kl(self, sums: Float[Tensor, "*group column"], names: Sequence[str]) -> Float[Tensor, "*group"]:
        """Mean divergence a token under replacements, averaged over them."""
        return sums[..., [self.columns[name] + 1 for name in names]].mean(-1) / sums[..., 0]

    def answers(self) -> Float[Tensor, " column"]:
        """The sums over answers."""
        return self.tally.by("answer")[1]

    @torch.no_grad()
    def _run(self, model: Model, ids: Tensor, wanted: Tensor, inside: Tensor) -> Float[Tensor, "token column"]:
        """The columns of one rectangle of documents, of the tokens that are wanted."""
        clean: dict[Site, Tensor] = {}
        late = set().union(*(each.clean for each in self.replacements.values()))
        keep = {site: lambda value, site=site: clean.update({site: value[inside]}) for site in late}
        with model.tapped(keep):
            logits = model.hf(input_ids=ids, use_cache=False).logits[:, :-1][wanted]
        truth = Truth(logits, ids[:, 1:][wanted])
        columns = [torch.ones(len(logits), dtype=torch.float64, device=logits.device), *truth.compare(logits)]
        for each in self.replacements.values():
            with replacing(model, each.stands, inside, clean):
                columns += truth.compare(model.hf(input_ids=ids, use_cache=False).logits[:, :-1][wanted])
        return torch.stack(columns, 1)

    def _groups(self, numbers: list[int], ids: Tensor, wanted: Tensor, answers: Marks | None) -> dict[str, Tensor]:
        document = torch.tensor(numbers)[:, None].expand_as(wanted)[wanted]
        position = torch.arange(1, ids.shape[1]).expand_as(wanted)[wanted]
        groups = dict(strata(ids[:, 1:][wanted], document, position, self.counts))
        return groups if answers is None else groups | {"answer": _marks(answers, numbers)[:, 1:][wanted].long()}


@final
class Truth:
    """What the unchanged model predicts, to compare other predictions with; in float64, a few rows at a time.

    Args:
        logits: the model's.
        targets: the tokens that came.
    """

    def __init__(self, logits: Float[Tensor, "token vocab"], targets: Int[Tensor, " token"]) -> None:
        self.targets, self.rows = targets, max(1, ROW_LOGITS // logits.shape[1])
        logs = [each.double().log_softmax(-1) for each in logits.split(self.rows)]
        self.p = [each.exp().float() for each in logs]
        self.mass = [p.double().sum(-1) for p in self.p]
        self.order = [(p.double() * each).sum(-1) for p, each in zip(self.p, logs, strict=True)]

    def compare(self, logits: Float[Tensor, "token vocab"]) -> tuple[Tensor, Tensor]:
        """The loss of logits, and KL(true || logits) = sum p (log p - q) + logsumexp(q), of each token."""
        losses, divergences = [], []
        columns = (self.p, self.mass, self.order, self.targets.split(self.rows), logits.split(self.rows))
        for p, mass, order, target, each in zip(*columns, strict=True):
            q = each.double()
            whole = q.logsumexp(-1)
            losses.append(whole - q.gather(1, target[:, None])[:, 0])
            divergences.append((order - torch.einsum("tv,tv->t", p.double(), q) + whole * mass).clamp(min=0))
        return torch.cat(losses), torch.cat(divergences)


def _marks(marks: Marks, numbers: Sequence[int]) -> Bool[Tensor, "document token"]:
    return pad([[int(mark) for mark in marks[number]] for number in numbers])[0].bool()
