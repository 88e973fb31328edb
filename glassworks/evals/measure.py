"""One table for a scope: what every coder loses alone, and what all of them lose together."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from glassworks.coders import Scope
from glassworks.evals.fidelity import fidelity
from glassworks.evals.replaced import recovered
from glassworks.harvest import record
from glassworks.models import Model


def measure(
    model: Model, scope: Scope, documents: Sequence[Sequence[int]], answers: Sequence[Sequence[bool]] | None = None
) -> dict[str, Any]:
    """Measure a scope on text that it was not trained on.

    Args:
        model: the scope's model.
        scope: its replacement coders are put in all at once.
        documents: token ids each.
        answers: which tokens of each document are answers, measured apart as well.

    Returns:
        Plain values: `coders` (id -> fvu, l0, dead, tokens), `recovered` and `recovered_answers` (share of the
        next-token loss that all coders together recover against mean ablation), and `losses` behind them.
    """
    first = int("bos" in scope.untrained)
    coders = [scope[name] for name in scope.replacement]
    sites = {site for coder in coders for site in (coder.reads[0], coder.writes[0])}
    recording = record(model, documents, sorted(sites), first)
    alone = {
        each.id: asdict(fidelity(each, recording.values[each.reads[0].name], recording.values[each.writes[0].name]))
        for each in coders
    }
    whole = recovered(model, coders, documents, recording, None, first)
    result: dict[str, Any] = {"coders": alone, "recovered": whole.share, "losses": {"all": asdict(whole)}}
    if answers is not None:
        ends = recovered(model, coders, documents, recording, answers, first)
        result |= {"recovered_answers": ends.share}
        result["losses"]["answers"] = asdict(ends)
    return result
