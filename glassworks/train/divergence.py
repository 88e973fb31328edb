"""The loss of the replaced model: all coders at once replace the model's MLPs, and its predictions should stay.

An auxiliary loss of a trainer: beside each coder's own loss on the true model's rows, the divergence of the replaced
model is made small, so that later layers learn to cope with the errors of earlier ones. Of this room's files only this
one, and the recipes of the embedded scopes, know a model.
"""

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from glassworks.experiments import replacing
from glassworks.harvest import pad
from glassworks.models import Model
from glassworks.sites import Site
from glassworks.train.output import CoderPart, PartOutput
from glassworks.train.trainer import Trainer


@final
class Divergence:
    """KL(true || replaced) of the next token, averaged over positions; gradients flow through the frozen model.

    Args:
        model: the frozen model.
        documents: token ids each; every step reads some of similar length, drawn at random.
        tokens: size of a step's rectangle.
        seed: of the draws.
        weight: of the divergence.
        first: positions before this one keep the true MLP.
    """

    def __init__(
        self,
        model: Model,
        documents: Sequence[Sequence[int]],
        tokens: int,
        seed: int = 0,
        weight: float = 1.0,
        first: int = 0,
    ) -> None:
        self.model, self.documents, self.tokens = model, sorted(documents, key=len), tokens
        self.generator, self.weight, self.first = torch.Generator().manual_seed(seed), weight, first

    def __call__(self, trainer: Trainer, step: int) -> dict[str, float]:
        """Add its gradient to that of the coders."""
        loss = self.loss(trainer, self.draw(), step)
        loss.backward()
        return {"divergence": float(loss.detach())}

    def draw(self) -> list[Sequence[int]]:
        """Random documents of similar length."""
        anchor = int(torch.randint(len(self.documents), (), generator=self.generator))
        count = min(max(1, self.tokens // len(self.documents[anchor])), len(self.documents))
        start = max(0, min(anchor - 4 * count, len(self.documents) - 8 * count))
        near = self.documents[start : start + 8 * count]
        chosen = torch.randperm(len(near), generator=self.generator)[:count]
        return [near[number] for number in chosen.tolist()]

    def loss(self, trainer: Trainer, documents: Sequence[Sequence[int]], step: int) -> Tensor:
        """The weighted divergence on some documents."""
        ids, real = (tensor.to(self.model.device) for tensor in pad(documents))
        predicts = real.clone()
        real[:, : self.first] = False
        with torch.no_grad():
            true = self.model.hf(input_ids=ids, use_cache=False).logits[predicts].log_softmax(-1)
        with replacing(self.model, _replacements(trainer, step), real):
            replaced = self.model.hf(input_ids=ids, use_cache=False).logits[predicts].log_softmax(-1)
        return self.weight * functional.kl_div(replaced, true, log_target=True, reduction="batchmean")

    def state(self) -> dict[str, Tensor]:
        """The random generator."""
        return {"generator": self.generator.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore the generator."""
        self.generator.set_state(state["generator"])


def _replacements(trainer: Trainer, step: int) -> dict[tuple[Site, ...], Callable[..., Tensor]]:
    """What the coders write at each site, as functions of what they read."""
    replacements: dict[tuple[Site, ...], Callable[..., Tensor]] = {}
    for run in trainer.runs:
        scalings = trainer.scalings[run.spec.centred]
        outputs: dict[CoderPart, PartOutput] = {}  # a part that writes at several sites encodes once
        for write in run.writes:
            parts = [part for part in run.parts if write in part.writes]

            def rebuilt(*rows: Tensor, run=run, write=write, parts=parts, scalings=scalings, outputs=outputs) -> Tensor:
                total = run.b_dec[run.columns((write,))]
                for part, x in zip(parts, rows, strict=False):
                    if part not in outputs:
                        read = part.reads[0].name
                        outputs[part] = run.part_output(part, {read: scalings[read](x)}, step)
                    total = total + run.contribution(outputs[part], write)
                return scalings[write.name].undo(total)

            replacements[(*(part.reads[0] for part in parts), write)] = rebuilt
    return replacements
