"""Objectives: what is trained towards what. An objective is sites to read and write, learners, and loss terms.

Objectives differ in where a learner's rows come from; all are trained by the one loop, which this module must
not know.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from glassworks.evals import replacing
from glassworks.harvest import pad
from glassworks.models import Model
from glassworks.train.learner import Attempt, Learner
from glassworks.train.schedule import Sparsity
from glassworks.train.terms import Term


class Objective(ABC):
    """Gives the losses of a batch."""

    learners: Sequence[Learner]

    @abstractmethod
    def losses(self, batch: Any, share: float) -> dict[str, Float[Tensor, ""]]:
        """The weighted losses of a batch by name; the loop minimises their sum.

        Args:
            batch: what the objective's stream gives.
            share: how much of the training is over, 0 to 1.
        """


@final
class Layerwise(Objective):
    """Every learner writes its own layer from rows that were recorded in the true model.

    Args:
        learners: one for each pair of sites.
        terms: weight and loss term by name.
        sparsity: how many latents may be active over the training.
    """

    def __init__(
        self, learners: Sequence[Learner], terms: Mapping[str, tuple[float, Term]], sparsity: Sparsity
    ) -> None:
        self.learners, self.terms, self.sparsity = learners, terms, sparsity

    def losses(self, batch: Mapping[str, Tensor], share: float) -> dict[str, Float[Tensor, ""]]:
        """The terms of each learner, named `term/site`.

        Args:
            batch: site name -> rows.
            share: how much of the training is over.
        """
        found: dict[str, Tensor] = {}
        for learner in self.learners:
            name, write = learner.coder.id, learner.coder.writes[0].name
            attempt = learner(batch[name], batch[write], self.sparsity(share))
            found |= {f"{term}/{name}": weight * loss(attempt) for term, (weight, loss) in self.terms.items()}
            learner.remember(attempt)
        return found


@final
class Replaced(Objective):
    """All learners at once stand in for the model's MLPs, and its predictions should stay what they were.

    The loss is the divergence KL(true || replaced) of the next token, averaged over positions. Gradients flow
    through the frozen model, so that later layers learn to cope with the errors of earlier ones.

    Args:
        model: the frozen model.
        learners: one for each MLP.
        sparsity: how many latents may be active over the training.
        weight: of the divergence.
        first: positions before this one keep the true MLP.
    """

    def __init__(
        self, model: Model, learners: Sequence[Learner], sparsity: Sparsity, weight: float = 1.0, first: int = 0
    ) -> None:
        self.model, self.learners, self.sparsity = model, learners, sparsity
        self.weight, self.first = weight, first

    def losses(self, batch: Sequence[Sequence[int]], share: float) -> dict[str, Float[Tensor, ""]]:
        """The divergence.

        Args:
            batch: documents, token ids each.
            share: how much of the training is over.
        """
        ids, real = pad(batch)
        predicts = real.clone()
        real[:, : self.first] = False
        with torch.no_grad():
            true = self.model.hf(input_ids=ids, use_cache=False).logits[predicts].log_softmax(-1)
        k = self.sparsity(share)

        def stand(learner: Learner, x: Tensor, y: Tensor) -> Tensor:
            attempt: Attempt = learner(x, y, k)
            return attempt.raw()

        stands = {
            (each.coder.reads[0], each.coder.writes[0]): (lambda x, y, each=each: stand(each, x, y))
            for each in self.learners
        }
        with replacing(self.model, stands, real):
            replaced = self.model.hf(input_ids=ids, use_cache=False).logits[predicts].log_softmax(-1)
        divergence = functional.kl_div(replaced, true, log_target=True, reduction="batchmean")
        return {"divergence": self.weight * divergence}


@final
class Joint(Objective):
    """Several objectives of the same learners at once; its batches are one batch for each of them.

    Args:
        objectives: what is summed up.
    """

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self.objectives = objectives
        self.learners = objectives[0].learners

    def losses(self, batch: Sequence[Any], share: float) -> dict[str, Float[Tensor, ""]]:
        """All losses of all objectives."""
        found: dict[str, Tensor] = {}
        for objective, part in zip(self.objectives, batch, strict=True):
            found |= objective.losses(part, share)
        return found
