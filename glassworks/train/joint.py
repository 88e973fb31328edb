"""The replaced model: all coders at once stand in for the model's MLPs, and its predictions should stay what they were.

A companion of a fleet: beside each member's own loss on the true model's rows, the divergence of the replaced model
is made small, so that later layers learn to cope with the errors of earlier ones. Of this room's files only this one,
and the recipes that use it, know a model.
"""

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from glassworks.evals import replacing
from glassworks.harvest import pad
from glassworks.models import Model
from glassworks.sites import Site
from glassworks.train.attempt import Part, Share
from glassworks.train.fleet import Fleet
from glassworks.train.trainee import Trainee


@final
class Texts:
    """Random documents of similar length.

    Args:
        documents: token ids each.
        tokens: size of a batch's rectangle.
        seed: of the order.
    """

    def __init__(self, documents: Sequence[Sequence[int]], tokens: int, seed: int) -> None:
        self.documents = sorted(documents, key=len)
        self.tokens = tokens
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self) -> list[Sequence[int]]:
        """Documents, token ids each."""
        anchor = int(torch.randint(len(self.documents), (), generator=self.generator))
        count = min(max(1, self.tokens // len(self.documents[anchor])), len(self.documents))
        start = max(0, min(anchor - 4 * count, len(self.documents) - 8 * count))
        near = self.documents[start : start + 8 * count]
        chosen = torch.randperm(len(near), generator=self.generator)[:count]
        return [near[number] for number in chosen.tolist()]

    def state(self) -> dict[str, Tensor]:
        """Its random generator."""
        return {"generator": self.generator.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take the generator up again."""
        self.generator.set_state(state["generator"])


@final
class Divergence:
    """KL(true || replaced) of the next token, averaged over positions; gradients flow through the frozen model.

    Args:
        model: the frozen model.
        texts: what it reads.
        weight: of the divergence.
        first: positions before this one keep the true MLP.
    """

    def __init__(self, model: Model, texts: Texts, weight: float = 1.0, first: int = 0) -> None:
        self.model, self.texts, self.weight, self.first = model, texts, weight, first

    def __call__(self, fleet: Fleet, step: int) -> dict[str, float]:
        """Add its gradient to that of the members."""
        loss = self.loss(fleet, self.texts.draw(), step)
        loss.backward()
        return {"divergence": float(loss.detach())}

    def loss(self, fleet: Fleet, documents: Sequence[Sequence[int]], step: int) -> Tensor:
        """The weighted divergence on some documents."""
        ids, real = (each.to(self.model.device) for each in pad(documents))
        predicts = real.clone()
        real[:, : self.first] = False
        with torch.no_grad():
            true = self.model.hf(input_ids=ids, use_cache=False).logits[predicts].log_softmax(-1)
        with replacing(self.model, _stands(fleet, step), real):
            replaced = self.model.hf(input_ids=ids, use_cache=False).logits[predicts].log_softmax(-1)
        return self.weight * functional.kl_div(replaced, true, log_target=True, reduction="batchmean")

    def state(self) -> dict[str, Tensor]:
        """That of its texts."""
        return self.texts.state()

    def restore(self, state: dict[str, Tensor]) -> None:
        """That of its texts."""
        self.texts.restore(state)


def _stands(fleet: Fleet, step: int) -> dict[tuple[Site, ...], Callable[..., Tensor]]:
    """What every member puts at each site that it writes."""
    found: dict[tuple[Site, ...], Callable[..., Tensor]] = {}
    for trainee in fleet.trainees:
        encoded: dict[Part, Share] = {}  # a part that writes at several sites encodes once
        for write in trainee.learner.writes:
            reads = [part.reads[0] for part in trainee.learner.parts if write in part.writes]
            found[(*reads, write)] = _stand(fleet, trainee, write, encoded, step)
    return found


def _stand(fleet: Fleet, trainee: Trainee, write: Site, encoded: dict[Part, Share], step: int) -> Callable[..., Tensor]:
    learner, scalings = trainee.learner, fleet.scalings[trainee.objective.centred]

    def stand(*rows: Tensor) -> Tensor:
        total = learner.b_dec[learner.columns((write,))]
        for part, x in zip([part for part in learner.parts if write in part.writes], rows, strict=False):
            if part not in encoded:
                scaled = scalings[part.reads[0].name](x)
                encoded[part] = learner.share(part, {part.reads[0].name: scaled}, step)
            total = total + learner.contribution(encoded[part], write)
        return scalings[write.name].undo(total)

    return stand
