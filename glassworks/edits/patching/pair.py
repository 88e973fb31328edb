"""Two prompts that differ in what matters, and what tells their outcomes apart.

Patching carries values of one prompt's run into the other's. This module must not know what is carried.
"""

from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks.errors import BadInput
from glassworks.models import Model, Prompt

Way = Literal["denoising", "noising"]
"""Denoising carries values of the clean run into the corrupt one and asks what is enough to restore the outcome;
noising carries values of the corrupt run into the clean one and asks what is needed for it (Heimersheim and Nanda
2024, "How to use and interpret activation patching")."""
WAYS: tuple[Way, ...] = ("denoising", "noising")


@final
@dataclass(frozen=True)
class Metric:
    """What a run is judged by: the difference of two tokens' logits, or one token's log-probability.

    Attributes:
        name: as it was written, `A - B`.
        token: id of the token that is right on the clean prompt.
        minus: id of the token whose logit is subtracted; None for a log-probability.
    """

    name: str
    token: int
    minus: int | None = None

    @classmethod
    def parse(cls, model: Model, text: str) -> "Metric":
        """Read `A - B` or `A`; a token is its text, or `#17` by its id.

        Raises:
            NotFound: a text is no single token.
            BadInput: an id that the model does not know.
        """
        first, minus, second = text.partition(" - ")
        return cls(text, token_of(model, first.strip()), token_of(model, second.strip()) if minus else None)

    def __call__(self, logits: Float[Tensor, "*row vocab"]) -> Float[Tensor, "*row"]:
        """The value of each row of logits, in nats, in float64: patches may do very little."""
        logits = logits.double()
        if self.minus is None:
            return torch.log_softmax(logits, -1)[..., self.token]
        return logits[..., self.token] - logits[..., self.minus]


def token_of(model: Model, text: str) -> int:
    """The id of a token by its text, or written `#17`; NotFound or BadInput where there is none."""
    if not (text.startswith("#") and text[1:].isdecimal()):
        return model.token_id(text)
    if int(text[1:]) >= model.vocab_size:
        raise BadInput(f"There is no token {text}; the model knows ids 0 to {model.vocab_size - 1}.")
    return int(text[1:])


@final
@dataclass(frozen=True, eq=False)
class Pair:
    """A clean and a corrupt prompt of equally many tokens, and the metric that tells them apart.

    Attributes:
        model: what runs.
        clean: ids of the prompt with the outcome that is asked for.
        corrupt: ids of the prompt without it.
        metric: judges the logits after the last token.
    """

    model: Model
    clean: Int[Tensor, " token"]
    corrupt: Int[Tensor, " token"]
    metric: Metric

    @classmethod
    def of(cls, model: Model, clean: Prompt, corrupt: Prompt, metric: str | Metric) -> "Pair":
        """Read two prompts and a metric.

        Args:
            model: what runs.
            clean: the prompt with the outcome that is asked for.
            corrupt: the same but for what should change the outcome.
            metric: `A - B`, where A follows the clean prompt and B the corrupt one; or `A`, its log-probability.

        Raises:
            BadInput: the prompts have different lengths, or are the same.
            NotFound: the metric names no token.
        """
        ids, others = model.tokens(clean), model.tokens(corrupt)
        if len(ids) != len(others):
            raise BadInput(
                f"The clean prompt has {len(ids)} tokens ({_spelled(model, ids)}) and the corrupt one {len(others)} "
                f"({_spelled(model, others)}); word them with equally many, so that positions correspond."
            )
        if ids.equal(others):
            raise BadInput("The clean and the corrupt prompt are the same; change what should change the outcome.")
        return cls(model, ids, others, metric if isinstance(metric, Metric) else Metric.parse(model, metric))

    def runs(self, way: Way) -> tuple[Int[Tensor, " token"], Int[Tensor, " token"]]:
        """The prompt that is changed, and the prompt whose values are carried into it."""
        if way not in WAYS:
            raise BadInput(f"Patching goes in the directions {', '.join(WAYS)}; got {way!r}.")
        return (self.corrupt, self.clean) if way == "denoising" else (self.clean, self.corrupt)

    @property
    def texts(self) -> list[str]:
        """What the tokens show; where the prompts differ, `clean/corrupt`."""
        pairs = zip(self.clean.tolist(), self.corrupt.tolist(), strict=True)
        texts = [[self.model.token_text(each) for each in pair] for pair in pairs]
        return [one if one == other else f"{one}/{other.strip()}" for one, other in texts]


def _spelled(model: Model, ids: Int[Tensor, " token"]) -> str:
    return "|".join(model.token_text(each) for each in ids.tolist())
