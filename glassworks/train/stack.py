"""Stacking: coders of many layers that begin with the latents of coders of one layer each (Gemma Scope 2 report).

Layers are walked from early to late. Each gives its first latents (the most common ones of a Matryoshka coder); for
each of these the later layers' latents that read what it writes are marked off, so that no feature is taken twice, and
its decoder begins there as theirs. This module must not know the loop.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from glassworks.coders import Coder, JumpReLU, Scope
from glassworks.errors import BadInput
from glassworks.sites import Site
from glassworks.train.adopt import rescaled
from glassworks.train.attempt import Part
from glassworks.train.fleet import Fleet
from glassworks.train.learner import Learner

LIKE = 0.5
"""Cosine above which a later latent reads what an earlier one writes; the report takes the largest, at any cosine."""


def stack(fleet: Fleet, scope: Scope) -> None:
    """Begin every joint coder of a fleet with the latents of coders of one layer.

    Args:
        fleet: not started; of CLTs and crosscoders.
        scope: has a coder for each site that is read: an SAE for a crosscoder, a transcoder for a CLT.

    Raises:
        BadInput: a member reads one site only, or a coder does not write where it should.
    """
    for trainee in fleet.trainees:
        layout = trainee.objective.layout
        if len(layout.reads) < 2:
            raise BadInput(f"The member {trainee.member.name} reads one layer; only joint coders begin from several.")
        scalings = fleet.scalings[trainee.objective.centred]
        sources = [rescaled(scope.select(site.name, name=_name(scope, site)), scalings) for site in layout.reads]
        wrong = [each.id for each, site in zip(sources, layout.writes, strict=False) if each.writes != (site,)]
        if wrong or len(layout.writes) != len(sources):
            raise BadInput(f"The coder {wrong[0] if wrong else layout.kind} does not write where its layer does.")
        gather(trainee.learner, sources)


@torch.no_grad()
def gather(learner: Learner, sources: Sequence[Coder]) -> None:
    """Fill a learner's latents from coders of its layers, on scaled activations.

    Args:
        learner: with one part for each source, or with one for all.
        sources: of one read and one write site each, from early to late.
    """
    marked = [torch.zeros(each.d_latent, dtype=torch.bool) for each in sources]
    learner.b_dec.copy_(torch.cat([each.bias() for each in sources]))
    for number, source in enumerate(sources):
        part, rows, block = _place(learner, number, len(sources))
        chosen = (~marked[number]).nonzero()[: len(rows), 0]
        rows = rows[: len(chosen)]
        written = _read(part, rows, block, source, chosen)
        _write(learner, part, rows, source.writes[0], written)
        for later in range(number + 1, len(sources)):
            like, twins = _twins(written, sources[later], marked[later])
            _write(learner, part, rows[like], sources[later].writes[0], sources[later].decoder_rows(twins))
            marked[later][twins] = True
    for part in learner.parts:
        _lengthen(part)
        if learner.centre is not None:
            part.b_enc += part.w_enc @ learner.b_dec


def _place(learner: Learner, number: int, count: int) -> tuple[Part, Int[Tensor, " row"], slice]:
    """Which latents come from a source: their part, their rows, and the columns that read its site."""
    if len(learner.parts) > 1:
        part = learner.parts[number]
        return part, torch.arange(len(part.b_enc)), slice(None)
    (part,) = learner.parts
    each, width = len(part.b_enc) // count, part.w_enc.shape[1] // count
    return part, torch.arange(number * each, (number + 1) * each), slice(number * width, (number + 1) * width)


def _read(part: Part, rows: Tensor, block: slice, source: Coder, chosen: Tensor) -> Float[Tensor, "row d"]:
    """Give latents the encoder of others; returns what those write."""
    read = torch.zeros(len(rows), part.w_enc.shape[1])
    read[:, block] = source.encoder_rows(chosen)
    part.w_enc[rows], part.b_enc[rows], part.w_dec[rows] = read, source.encoder_bias(chosen), 0.0
    if isinstance(source.activation, JumpReLU) and "log_threshold" in part.learned:
        part.learned["log_threshold"][rows] = source.activation.threshold[chosen].clamp_min(1e-6).log()
    return source.decoder_rows(chosen)


def _write(learner: Learner, part: Part, rows: Tensor, site: Site, directions: Tensor) -> None:
    first = learner.columns(part.writes).start
    columns = learner.columns((site,))
    part.w_dec[rows, columns.start - first : columns.stop - first] = directions


def _twins(
    written: Float[Tensor, "row d"], later: Coder, marked: Bool[Tensor, " latent"]
) -> tuple[Bool[Tensor, " row"], Int[Tensor, " like"]]:
    """Which rows have a later latent, not yet marked, that reads what they write, and which one."""
    likeness = normalize(written) @ normalize(later.encoder_rows(torch.arange(later.d_latent))).T
    best = likeness.masked_fill(marked, -torch.inf).max(1)
    like = best.values > LIKE
    return like, best.indices[like]


def _lengthen(part: Part) -> None:
    """Decoder rows of length 1, with what is written unchanged."""
    lengths = part.norms.clamp_min(1e-12)
    part.w_dec /= lengths[:, None]
    part.w_enc *= lengths[:, None]
    part.b_enc *= lengths
    if "log_threshold" in part.learned:
        part.learned["log_threshold"].add_(lengths.log())


def _name(scope: Scope, site: Site) -> str | None:
    """The coder of a site's own name, where the scope has several there."""
    return site.name if site.name in scope.coders else None
