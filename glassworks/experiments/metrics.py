"""Metrics: named numbers of a run on a case.

A metric gives values and weights: means over cases are weighted, a loss by its tokens, a fraction of variance by the
variance, so that ratios of sums come out exactly as on the whole text.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.coders import Coder
from glassworks.errors import BadInput
from glassworks.experiments.cases import Batch
from glassworks.experiments.rebuild import Rebuilder
from glassworks.sites import Site

Values = Float[Tensor, "row k"]
KINDS_OF_MEAN = ("mean", "last", "token")


@final
@dataclass(frozen=True, eq=False)
class Metric:
    """A named number of a run on a case.

    Attributes:
        name: its name in the table.
        measure: gives values of each row of a batch, or values and their weights; those of weight 0 are left out.
        reads: sites whose values it needs, in `batch.values`.
        last: whether the logits after the prompt are enough.
        whole: whether it reads predictions that no token follows.
        new_tokens: how many tokens are generated for it, in `batch.texts`.
        at: the name of the k-th value, where there are several: a token, a stratum.
    """

    name: str
    measure: Callable[[Batch], Values | tuple[Values, Values]]
    reads: Sequence[Site] = ()
    last: bool = False
    whole: bool = False
    new_tokens: int = 0
    at: Callable[[int], str] = lambda k: ""


def loss(by: str = "mean", marks: Callable[[Batch], Tensor] | None = None, name: str = "loss") -> Metric:
    """Cross-entropy of the next token, in nats.

    Args:
        by: the `mean` over a row, the prediction after the prompt (`last`), or each `token`.
        marks: of a batch, which predicted tokens count, (row, token); by default all.
        name: in the table.
    """
    return _per_token(name, lambda batch: batch.scores[0], by, marks, 1)


def kl(by: str = "mean", marks: Callable[[Batch], Tensor] | None = None, name: str = "kl") -> Metric:
    """KL(clean || run) of the next token, in nats; the mean is over predictions that a token follows. See `loss`."""
    return _per_token(name, lambda batch: batch.scores[1], by, marks, 1 if by == "mean" else 0)


def _per_token(
    name: str, numbers: Callable[[Batch], Tensor], by: str, marks: Callable[[Batch], Tensor] | None, drop: int
) -> Metric:
    if by not in KINDS_OF_MEAN:
        raise BadInput(f"A number of every token is given by {', '.join(KINDS_OF_MEAN)}; got {by!r}.")

    def measure(batch: Batch) -> tuple[Tensor, Tensor]:
        values = numbers(batch)
        weights = (batch.place < batch.lengths[:, None] - drop).double()
        if marks is not None:  # of the tokens that are predicted
            weights = weights * marks(batch).roll(-1, 1)
        if by == "last":
            weights = (batch.place == batch.ends[:, None] - 1).double()
        if by == "token":
            return values, weights
        count = weights.sum(1, keepdim=True)
        return (values * weights).sum(1, keepdim=True) / count.clamp(min=1e-30), count

    at = str if by == "token" else (lambda k: "")
    return Metric(name if by == "mean" else f"{name} {by}", measure, whole=not drop, at=at)


def logit_difference() -> Metric:
    """Logit of the answer minus that of the foil, after the prompt."""
    return Metric("logit difference", lambda batch: batch.pick(batch.last) - batch.pick(batch.last, "foil"), last=True)


def probability() -> Metric:
    """Probability of the answer's first token after the prompt."""
    return Metric("probability", lambda batch: batch.pick(batch.last.softmax(-1)), last=True)


def exact_match(name: str = "exact match") -> Metric:
    """Whether greedy decoding gives the whole answer, read off one teacher-forced forward: 1 or 0."""

    def measure(batch: Batch) -> Tensor:
        first = batch.logits.argmax(-1).tolist()
        hits = []
        for row, end, case in zip(first, batch.ends.tolist(), batch.cases, strict=True):
            answer = case.label(batch.model)
            if not answer:
                raise BadInput("exact_match needs the answer of every case; give Case(prompt, answer=...).")
            hits.append([float(row[end - 1 : end - 1 + len(answer)] == answer)])
        return torch.tensor(hits, dtype=torch.float64)

    return Metric(name, measure)


def judged(name: str, judge: str | Callable[[str], float], new_tokens: int = 12) -> Metric:
    """Generated text, judged by a regular expression that matches from its beginning, or by a function.

    Texts are generated one at a time; where the reply's words are fixed, `exact_match` needs one forward for all.
    """

    def score(text: str) -> float:
        return float(judge(text)) if callable(judge) else float(re.match(judge, text.strip()) is not None)

    def measure(batch: Batch) -> Tensor:
        return torch.tensor([[score(text)] for text in batch.texts], dtype=torch.float64)

    return Metric(name, measure, new_tokens=new_tokens)


def projection(name: str, site: Site | str, vector: Float[Tensor, " d"]) -> Metric:
    """The activation after the prompt along a vector: a probe's score, or the component along a direction."""
    place = Site.parse(site)

    def measure(batch: Batch) -> Tensor:
        rows = batch.values[place][torch.arange(len(batch.ends)), batch.ends - 1]
        return (rows.double() @ vector.to(rows.device).double())[:, None]

    return Metric(name, measure, reads=[place])


def l0(coder: Coder, name: str = "") -> Metric:
    """How many latents of a coder are active at a token."""

    def numbers(batch: Batch, rows: Mapping[str, Tensor]) -> Tensor:
        count = Rebuilder(coder).latents(rows).counts.double()
        return torch.stack([count, torch.ones_like(count)])

    return _of_rows(name or f"L0 {coder.id}", coder.reads, numbers)


def fvu(coder: Coder, mean: Float[Tensor, " d"], write: Site | None = None, name: str = "") -> Metric:
    """Fraction of variance unexplained at a site that a coder writes.

    Args:
        coder: of any kind.
        mean: of the activations there; a case weighs the squared distance of its tokens from it.
        write: the site, by default the first that it writes.
        name: by default of the coder.
    """
    site = coder.check_write(write)

    def numbers(batch: Batch, rows: Mapping[str, Tensor]) -> Tensor:
        truth, guess = rows[site.name].double(), Rebuilder(coder)(rows, site).double()
        return torch.stack([(truth - guess).square().sum(1), (truth - mean.to(truth)).square().sum(1)])

    return _of_rows(name or f"FVU {coder.id}", [*dict.fromkeys((*coder.reads, site))], numbers)


def _of_rows(name: str, reads: Sequence[Site], numbers: Callable[[Batch, Mapping[str, Tensor]], Tensor]) -> Metric:
    """The ratio of two sums over the kept tokens of a case."""

    def measure(batch: Batch) -> tuple[Tensor, Tensor]:
        columns: Any = numbers(batch, {site.name: batch.values[site][batch.mask] for site in reads}).double()
        empty = torch.zeros(batch.mask.shape, dtype=torch.float64, device=batch.mask.device)
        top, bottom = (empty.masked_scatter(batch.mask, each).sum(1, keepdim=True) for each in columns)
        return top / bottom.clamp(min=1e-300), bottom

    return Metric(name, measure, reads)
