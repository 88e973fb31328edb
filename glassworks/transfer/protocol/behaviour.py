"""Behaviour: what a system says on a task's test prompts, and what became of everything else.

A system is anything that scores next tokens: a model, a model with a graft, two models' logits together. This module
must not know which.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.harvest import pad
from glassworks.models import Model
from glassworks.transfer.protocol.task import Task

System = Callable[[Tensor], Float[Tensor, "row token vocab"]]
"""Token ids (row, token), padded at the end -> scores of the next token."""
ROWS = 32


@final
@dataclass(frozen=True, eq=False)
class Behaviour:
    """What a system does on a task.

    Attributes:
        hits: set of test prompts -> for each, whether the reply begins with the behaviour's words.
        odds: set -> log-odds of the first word.
        kl: for each neutral text, its mean divergence from the model without change, in nats a token.
        loss: for each neutral text, how much its mean loss rose, in nats a token.
        probes: kind -> share of probes answered right.
    """

    hits: Mapping[str, Float[Tensor, " prompt"]]
    odds: Mapping[str, Float[Tensor, " prompt"]]
    kl: Float[Tensor, " text"]
    loss: Float[Tensor, " text"]
    probes: Mapping[str, float]


@final
class Judge:
    """Measures systems that speak one model's tokens on one task.

    Args:
        b: the model whose tokens count, and whose unchanged scores others are held against.
        task: the task.
    """

    def __init__(self, b: Model, task: Task) -> None:
        self.b, self.task = b, task
        self._texts = [b.tokens(each).tolist()[: b.context_length] for each in task.neutral_test]
        self._clean: list[Tensor] = []

    def behaviour(self, system: System) -> Behaviour:
        """Measure a system."""
        found = {name: self._replies(system, prompts) for name, (prompts, _) in self.task.tests.items()}
        kl, loss = self._drift(system)
        probes = {name: self._right(system, rows) for name, rows in self.task.probes.items()}
        hits = {name: each[0] for name, each in found.items()}
        return Behaviour(hits, {name: each[1] for name, each in found.items()}, kl, loss, probes)

    def hits(self, system: System, names: Sequence[str] = ("wanted", "unwanted")) -> dict[str, Tensor]:
        """Only which replies to some sets of test prompts begin with the behaviour's words."""
        return {name: self._replies(system, self.task.tests[name][0])[0] for name in names}

    def _replies(self, system: System, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        hits, odds = [], []
        for rows, places, logits in self._run(system, [(each, self.task.reply) for each in prompts]):
            for row, (first, last), scores in zip(rows, places, logits, strict=True):
                words = torch.tensor(row[first:last])
                hits.append(float((scores[first - 1 : last - 1].argmax(-1) == words).all()))
                odds.append(_log_odds(scores[first - 1], row[first]))
        return torch.tensor(hits), torch.tensor(odds)

    def _right(self, system: System, probes: Sequence[tuple[str, str]]) -> float:
        right = 0
        for rows, places, logits in self._run(system, probes):
            for row, (first, last), scores in zip(rows, places, logits, strict=True):
                right += bool((scores[first - 1 : last - 1].argmax(-1) == torch.tensor(row[first:last])).all())
        return right / max(len(probes), 1)

    def _drift(self, system: System) -> tuple[Tensor, Tensor]:
        if not self._clean:
            self._clean = [each for _, each in _scored(plain(self.b), self._texts)]
        kls, losses = [], []
        for (rows, now), clean in zip(_scored(system, self._texts), self._clean, strict=True):
            for row, one, other in zip(rows, clean, now, strict=True):
                before, after = (each[: len(row)].double().log_softmax(-1) for each in (one, other))
                kls.append(float((before.exp() * (before - after)).sum(-1).mean()))
                following = torch.tensor(row[1:])[:, None]
                change = before[:-1].gather(1, following) - after[:-1].gather(1, following)
                losses.append(float(change.mean()) if len(row) > 1 else 0.0)
        return torch.tensor(kls), torch.tensor(losses)

    def _run(self, system: System, asked: Sequence[tuple[str, str]]):
        """Rows of prompt and answer, where the answers are, and scores."""
        rows = [self.b.tokens(prompt + answer).tolist() for prompt, answer in asked]
        places = [(len(self.b.tokens(prompt)), len(row)) for (prompt, _), row in zip(asked, rows, strict=True)]
        for number, (some, logits) in enumerate(_scored(system, rows)):
            yield some, places[number * ROWS : number * ROWS + len(some)], logits


def plain(model: Model) -> System:
    """A model as a system; edits that act on it act."""

    @torch.no_grad()
    def score(ids: Tensor) -> Tensor:
        return model.hf(input_ids=ids.to(model.device), use_cache=False).logits.float().cpu()

    return score


def edited(model: Model, *edits) -> System:
    """A model with edits as a system."""

    def score(ids: Tensor) -> Tensor:
        with model.edit(*edits):
            return plain(model)(ids)

    return score


def _scored(system: System, rows: Sequence[list[int]]):
    for start in range(0, len(rows), ROWS):
        some = rows[start : start + ROWS]
        yield some, system(pad(some)[0])


def _log_odds(scores: Tensor, word: int) -> float:
    logs = scores.double().log_softmax(-1)
    rest = torch.cat([logs[:word], logs[word + 1 :]]).logsumexp(0)
    return float(logs[word] - rest)
