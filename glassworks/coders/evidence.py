"""Evidence: what was seen of a coder's latents on a corpus, as tensors that are saved beside the coder.

The room `features` collects it; it lies here because a scope carries it. This module must not know how it
was collected.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks.errors import BadArtefact


@final
@dataclass(frozen=True, eq=False)
class Evidence:
    """Evidence for every latent of one coder (F latents).

    Attributes:
        density: share of the corpus' tokens where it is active.
        max_activation: the largest activation seen.
        example_tokens: token ids around its K strongest examples, windows of W tokens; -1 where there is none.
        example_activations: its activations on them.
        top_token_ids: the T tokens that it fires on most, specific ones first; -1 where there are fewer.
        top_token_weights: its mean activation on them.
        context_token_ids: the tokens whose presence, there or earlier, goes with a high activation; for latents
            that fire late in a sentence on what was said before; -1 where there are fewer.
        following_token_ids: the tokens that come later where it was active; -1 where there are fewer.
        top_logit_ids: the tokens whose logits its decoder row raises most.
        top_logit_values: by how much, for an activation of 1 and a final norm scale of 1.
        bottom_logit_ids: the tokens whose logits it lowers most.
        bottom_logit_values: by how much.
    """

    density: Float[Tensor, " F"]
    max_activation: Float[Tensor, " F"]
    example_tokens: Int[Tensor, "F K W"]
    example_activations: Float[Tensor, "F K W"]
    top_token_ids: Int[Tensor, "F T"]
    top_token_weights: Float[Tensor, "F T"]
    context_token_ids: Int[Tensor, "F T"]
    following_token_ids: Int[Tensor, "F T"]
    top_logit_ids: Int[Tensor, "F G"]
    top_logit_values: Float[Tensor, "F G"]
    bottom_logit_ids: Int[Tensor, "F G"]
    bottom_logit_values: Float[Tensor, "F G"]

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def narrowed(self) -> dict[str, Tensor]:
        """The tensors by name as they are stored: whole numbers exactly, others to 3 digits."""
        return {name: _narrow(each) for name, each in self.tensors().items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Evidence":
        """Read it back, widened to 64-bit ids and 32-bit floats; BadArtefact where a tensor is missing."""
        missing = [each.name for each in fields(cls) if each.name not in tensors]
        if missing:
            raise BadArtefact(f"The evidence lacks {', '.join(missing)}; collect it again.")
        return cls(**{each.name: _wide(tensors[each.name]) for each in fields(cls)})


def _narrow(value: Tensor) -> Tensor:
    largest = float(value.abs().max()) if value.numel() else 0.0
    if value.is_floating_point():
        return value.half() if largest < torch.finfo(torch.float16).max else value.float()
    return value.to(torch.int16 if largest <= torch.iinfo(torch.int16).max else torch.int32)


def _wide(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value.long()
