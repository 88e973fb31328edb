"""Which outcomes a graph explains: the likeliest next tokens, named tokens, or differences of two.

An outcome is a linear read of the final stream: an unembedding row minus the mean row, or minus another one. This
module must not know what the graph makes of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks.circuits.nodes import LOGIT, Nodes
from glassworks.errors import BadInput
from glassworks.models import Model

Token = str | int
Outcome = Token | tuple[Token, Token]
"""A token's text or id; or two of them, the difference of whose logits is meant."""


@final
@dataclass(frozen=True, eq=False)
class Outcomes:
    """The chosen outcomes.

    Attributes:
        ids: vocabulary id of each; the vocabulary's size or more for a difference.
        probability: of its token (for a difference: of the first one).
        labels: the token's text; `a - b` for a difference.
        value: demeaned logit before soft-capping; for a difference, the difference.
        rows: what it reads behind the final norm.
        constant: the part of its value that comes from the unembedding's bias.
    """

    ids: Int[Tensor, " k"]
    probability: Float[Tensor, " k"]
    labels: tuple[str, ...]
    value: Float[Tensor, " k"]
    rows: Float[Tensor, "k d_model"]
    constant: Float[Tensor, " k"]

    def nodes(self, layer: int, position: int) -> Nodes:
        """The outcomes as logit nodes."""
        columns = {
            "layer": torch.full_like(self.ids, layer),
            "position": torch.full_like(self.ids, position),
            "index": self.ids,
            "probability": self.probability,
        }
        return Nodes.build(LOGIT, columns, self.labels)


def likeliest(probabilities: Float[Tensor, " vocab"], share: float = 0.95, most: int = 10) -> list[int]:
    """The smallest set of tokens whose probabilities sum to a share, or the most allowed."""
    top = probabilities.topk(min(most, len(probabilities)))
    enough = int((top.values.cumsum(0) < share).sum()) + 1
    return top.indices[:enough].tolist()


def choose(model: Model, logits: Float[Tensor, " vocab"], targets: Sequence[Outcome] | None) -> Outcomes:
    """Make outcomes from what the user named, or else from the likeliest tokens.

    Args:
        model: gives tokens and unembedding.
        logits: after soft-capping, as the model returns them.
        targets: tokens, by text or id, or pairs of them.

    Raises:
        NotFound: a text that is not exactly one token of the vocabulary.
        BadInput: an id outside the vocabulary, the same target twice, or no target at all.
    """
    probabilities = logits.softmax(0)
    named = likeliest(probabilities) if targets is None else [targets] if isinstance(targets, str) else targets
    pairs = [_pair(model, each) for each in named]
    if not pairs or len(set(pairs)) < len(pairs) or any(a == b for a, b in pairs):
        raise BadInput("The targets are empty or name one twice; name at least one token, each once.")
    first = torch.tensor([a for a, _ in pairs])
    matrix, bias = model.unembedding
    raw = _uncapped(logits, model.softcap)
    return Outcomes(
        ids=torch.tensor([a if b is None else model.vocab_size + i for i, (a, b) in enumerate(pairs)]),
        probability=probabilities[first],
        labels=tuple(_text(model, *pair) for pair in pairs),
        value=_against(raw, pairs),
        rows=_against(matrix, pairs),
        constant=raw.new_zeros(len(pairs)) if bias is None else _against(bias, pairs),
    )


def _pair(model: Model, target: Outcome) -> tuple[int, int | None]:
    if isinstance(target, tuple):
        first, second = target
        return _id(model, first), _id(model, second)
    return _id(model, target), None


def _text(model: Model, first: int, second: int | None) -> str:
    text = model.token_text(first)
    return text if second is None else f"{text.strip()} - {model.token_text(second).strip()}"


def _id(model: Model, token: Token) -> int:
    if isinstance(token, str):
        return model.token_id(token)
    if not 0 <= token < model.vocab_size:
        raise BadInput(f"The target {token} is outside the vocabulary; ids go from 0 to {model.vocab_size - 1}.")
    return int(token)


def _against(values: Float[Tensor, "vocab *d"], pairs: Sequence[tuple[int, int | None]]) -> Float[Tensor, "k *d"]:
    """Each pair's first value minus its second, or minus the mean over the vocabulary."""
    mean = values.mean(0, dtype=torch.float32)
    return torch.stack([values[a].float() - (mean if b is None else values[b].float()) for a, b in pairs])


def _uncapped(logits: Float[Tensor, " vocab"], softcap: float | None) -> Float[Tensor, " vocab"]:
    """Logits before `softcap * tanh(x / softcap)`."""
    return logits.float() if softcap is None else softcap * torch.atanh(logits.double() / softcap).float()
