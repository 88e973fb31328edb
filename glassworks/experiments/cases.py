"""Cases, and the batches in which they run.

A case is one labelled item. A batch is the rows of one forward: what interventions need before it, and what metrics
read after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassworks.errors import BadInput, NotFound
from glassworks.models import Model, Prompt
from glassworks.sites import Site

if TYPE_CHECKING:
    from glassworks.experiments.interventions import Intervention

BLOCK_LOGITS = 1 << 21
"""Logits that are compared at a time in float64."""


@final
@dataclass(frozen=True)
class Case:
    """One labelled item of an experiment.

    Attributes:
        prompt: text or token ids.
        answer: what should follow: the text or id of a token, or several ids, which run behind the prompt (teacher
            forced), so that a whole reply can be matched without generating it.
        foil: the token that the answer is compared with.
        source: the prompt whose activations a patch carries into this one; equally many tokens.
        group: the name of what is resampled together (document, template, city); by default each case is its own.
        name: by default the case's number.
        kept: for each token, whether replacements act there and activation metrics count it; by default all do.
            Coders are not trained on every position: see `document_cases`.
    """

    prompt: Prompt
    answer: str | int | Sequence[int] | None = None
    foil: str | int | None = None
    source: Prompt | None = None
    group: str = ""
    name: str = ""
    kept: Sequence[bool] | None = None

    def label(self, model: Model, which: str = "answer") -> list[int]:
        """The token ids of the answer or the foil; none where the case has none."""
        text = getattr(self, which)
        if not isinstance(text, str):
            return [] if text is None else [text] if isinstance(text, int) else list(text)
        try:
            return [model.token_id(text)]
        except NotFound:
            if not isinstance(self.prompt, str):
                raise
            # Several tokens: what the tokenizer makes of them behind the prompt.
            return model.tokens(self.prompt + text).tolist()[len(model.tokens(self.prompt)) :]


@final
@dataclass(eq=False)
class Batch:
    """The rows of one forward.

    Attributes:
        model: what runs.
        cases: of each row, with answers and foils as ids.
        interventions: of each row; all of them act in the same forward.
        ids: (row, token), shorter rows filled up.
        ends: how many tokens each prompt has.
        lengths: the same with the answer behind it.
        whole: whether some metric reads predictions after the last token of a row, which nothing follows.
        clean: the same rows as the model runs them by itself.
        source: the run of the rows' source prompts, where something is carried from it.
        logits: (row, token, vocabulary), or of the last token only.
        values: the values at sites that metrics or interventions read, after the intervention acted.
        texts: generated continuations, where some metric reads them.
    """

    model: Model
    cases: Sequence[Case]
    interventions: Sequence["Intervention"]
    ids: Int[Tensor, "row token"]
    ends: Int[Tensor, " row"]
    lengths: Int[Tensor, " row"]
    whole: bool = True
    clean: "Batch | None" = None
    source: "Batch | None" = None
    logits: Tensor = field(default_factory=lambda: torch.zeros(0))
    values: dict[Site, Tensor] = field(default_factory=dict)
    texts: Sequence[str] = ()

    @cached_property
    def mask(self) -> Bool[Tensor, "row token"]:
        """Which tokens are real, and kept by their case."""
        mask = self.place < self.lengths[:, None]
        for row, case in enumerate(self.cases):
            if case.kept is not None:
                kept = torch.tensor(case.kept, dtype=torch.bool, device=mask.device)
                mask[row, : len(kept)] &= kept
        return mask

    @property
    def place(self) -> Int[Tensor, " token"]:
        """The position of each token."""
        return torch.arange(self.ids.shape[1], device=self.ids.device)

    @property
    def last(self) -> Float[Tensor, "row vocabulary"]:
        """Logits after each prompt, in float64."""
        at = self.ends - 1 if self.logits.shape[1] > 1 else torch.zeros_like(self.ends)
        return self.logits[torch.arange(len(at), device=at.device), at].double()

    @cached_property
    def labels(self) -> dict[str, Int[Tensor, "row 1"]]:
        """First token of each case's `answer` and `foil`; BadInput where a case lacks one."""
        labels = {}
        for which in ("answer", "foil"):
            ids = [case.label(self.model, which)[:1] for case in self.cases]
            if all(ids):
                labels[which] = torch.tensor(ids, device=self.ids.device)
        return labels

    def pick(self, numbers: Float[Tensor, "row vocabulary"], which: str = "answer") -> Float[Tensor, "row 1"]:
        """The number of each row that belongs to its answer or foil; BadInput where a case has none."""
        if which not in self.labels:
            raise BadInput(f"A metric needs the {which} of every case; give Case(prompt, {which}=...).")
        return numbers.gather(1, self.labels[which])

    @cached_property
    def scored(self) -> Bool[Tensor, "row token"]:
        """After which tokens predictions are compared."""
        return self.place < self.lengths[:, None] - (0 if self.whole else 1)

    @cached_property
    def reference(self) -> "Reference":
        """What this run predicts, for others to be compared with."""
        return Reference(self.logits[self.scored])

    @cached_property
    def scores(self) -> tuple[Float[Tensor, "row token"], Float[Tensor, "row token"]]:
        """Loss of the next token, and KL(clean || this run), after each token; 0 where there is no next one."""
        targets = self.ids.roll(-1, 1)[self.scored]
        reference = (self.clean or self).reference
        numbers = reference.compare(self.logits[self.scored], targets)
        empty = torch.zeros(self.scored.shape, dtype=torch.float64, device=self.ids.device)
        loss, divergence = (empty.masked_scatter(self.scored, each) for each in numbers)
        if self.clean is None:  # rounding only
            divergence = torch.zeros_like(divergence)
        return loss.masked_fill(self.place >= self.lengths[:, None] - 1, 0.0), divergence

    def rows(self, index: Sequence[int]) -> "Batch":
        """Some rows, in another order or repeated; itself, with all that was computed, where that is all of them."""
        if list(index) == list(range(len(self.cases))):
            return self
        width, at = int(self.lengths[index].max()), list(index)
        return replace(
            self,
            cases=[self.cases[row] for row in at],
            interventions=[self.interventions[row] for row in at],
            ids=self.ids[at, :width],
            ends=self.ends[at],
            lengths=self.lengths[at],
            clean=None,
            source=None,
            logits=self.logits[at, :width],
            values={site: value[at, :width] for site, value in self.values.items()},
            texts=[self.texts[row] for row in at] if self.texts else (),
        )


@final
class Reference:
    """Predictions that others are compared with, a few rows at a time: float64 sums, probabilities kept in float32.

    Args:
        logits: the predictions, (token, vocabulary).
    """

    def __init__(self, logits: Float[Tensor, "token vocabulary"]) -> None:
        self.rows, self.logits = max(1, BLOCK_LOGITS // logits.shape[1]), logits
        logs = [block.double().log_softmax(-1) for block in logits.split(self.rows)]
        self.p = [log.exp().float() for log in logs]
        self.mass = [p.double().sum(-1) for p in self.p]
        self.negentropy = [(p.double() * log).sum(-1) for p, log in zip(self.p, logs, strict=True)]

    def compare(
        self, logits: Float[Tensor, "token vocabulary"], targets: Int[Tensor, " token"]
    ) -> tuple[Float[Tensor, " token"], Float[Tensor, " token"]]:
        """The loss of logits, and KL(reference || logits) = sum p (log p - q) + logsumexp(q), at each token."""
        losses, divergences = [], []
        columns: Any = (
            self.p,
            self.mass,
            self.negentropy,
            self.logits.split(self.rows),
            targets.split(self.rows),
            logits.split(self.rows),
        )
        for p, mass, negentropy, before, target, after in zip(*columns, strict=True):
            q = after.double()
            whole = q.logsumexp(-1)
            losses.append(whole - q.gather(1, target[:, None])[:, 0])
            divergence = (negentropy - torch.einsum("tv,tv->t", p.double(), q) + whole * mass).clamp(min=0)
            ruled_out = divergence.isnan()  # 0 * -inf: a token that a model rules out adds nothing
            if ruled_out.any():
                divergence[ruled_out] = kl_divergence(before[ruled_out], after[ruled_out])
            divergences.append(divergence)
        return torch.cat(losses), torch.cat(divergences)


def kl_divergence(
    clean: Float[Tensor, "*row vocabulary"], changed: Float[Tensor, "*row vocabulary"]
) -> Float[Tensor, "*row"]:
    """KL(clean || changed) of logits in nats, in float64; a token that is ruled out adds nothing."""
    p, q = (torch.log_softmax(logits.double(), dim=-1) for logits in (clean, changed))
    return torch.where(p > -torch.inf, p.exp() * (p - q), 0.0).sum(-1)
