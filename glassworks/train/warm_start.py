"""Warm starts: training that begins with the weights of coders that exist.

A coder goes on where it was, on other text or for another model (a chat model's coders begin as those of the model that
it was tuned from); a coder of many layers begins with the latents of coders of one layer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import normalize

from glassworks.coders import Affine, Coder, JumpReLU, Scope, fold, unit_decoder
from glassworks.errors import BadInput, NotFound, Unsupported, nearest
from glassworks.train.gates import Gated
from glassworks.train.run import TrainingRun
from glassworks.train.trainer import Trainer

LIKE = 0.5
"""Cosine above which a later latent reads what an earlier one writes; the report takes the largest, at any cosine."""


def adopt(trainer: Trainer, scope: Scope) -> None:
    """Begin every run with the coder of its name, or of its sites where there is only one.

    Args:
        trainer: not started.
        scope: of coders of raw activations; the trainer's scaling is folded in.

    Raises:
        NotFound: a run has none.
        BadInput: it has other sites or another width.
    """
    for run in trainer.runs:
        name = run.spec.name
        fitting = [entry.name for entry in scope.entries if _ends(entry) == _ends(run.spec.layout)]
        source = name if name in scope.coders else fitting[0] if len(fitting) == 1 else ""
        if not source:
            raise NotFound(f"The scope {scope.name} has no coder {name!r} to begin with; {nearest(name, scope)}.")
        initialise(run, scope[source], trainer.scalings[run.spec.centred])


@torch.no_grad()
def initialise(run: TrainingRun, coder: Coder, scalings: Mapping[str, Affine]) -> None:
    """Give a run the weights of a coder of raw activations, for its own scaled ones.

    Args:
        run: of the same sites and width.
        coder: what it becomes; exact, apart from rounding.
        scalings: of each site.
    """
    if isinstance(run.spec.gate, Gated):
        raise Unsupported("A gated coder cannot begin as another: its gate and its magnitude would have to be guessed.")
    scaled = rescaled(coder, scalings)
    if _ends(coder) != _ends(run.spec.layout) or len(scaled.parts) != len(run.parts):
        raise BadInput(f"The coder {coder.id} reads or writes other sites than what should begin with it.")
    run.b_dec.copy_(torch.cat([scaled.bias(site) for site in run.writes]))
    for part, source in zip(run.parts, scaled.parts, strict=True):
        if source.d_latent != len(part.b_enc):
            raise BadInput(f"The coder {coder.id} has {source.d_latent} latents and not {len(part.b_enc)}.")
        rows = torch.arange(source.d_latent)
        w_enc = source.encoder_rows(rows)
        part.w_enc.copy_(w_enc)
        part.b_enc.copy_(source.encoder_bias(rows) + (w_enc @ run.b_dec.cpu() if run.centre is not None else 0.0))
        part.w_dec.copy_(torch.cat([source.decoder_rows(rows, site) for site in part.writes], dim=1))
        skips = [source.skip(site) for site in part.writes]
        if part.w_skip is not None and all(skip is not None for skip in skips):
            part.w_skip.copy_(torch.cat([skip for skip in skips if skip is not None], dim=1))
        if isinstance(source.activation, JumpReLU) and "log_threshold" in part.learned:
            part.learned["log_threshold"].copy_(source.activation.threshold.clamp_min(1e-6).log())


def rescaled(coder: Coder, scalings: Mapping[str, Affine]) -> Any:
    """A coder of raw activations as the same one of scaled ones, with decoder rows of length 1 where that is exact."""
    back = {
        name: Affine(-scaling.centre.cpu() * scaling.scale, 1 / scaling.scale) for name, scaling in scalings.items()
    }
    folded: Any = fold(coder, back, back)  # pyright: ignore[reportArgumentType]
    return unit_decoder(folded) if folded.activation.span == "latent" else folded


def stack(trainer: Trainer, scope: Scope) -> None:
    """Begin every joint coder of a trainer with the latents of coders of one layer each (Gemma Scope 2 report).

    Args:
        trainer: not started; of CLTs and crosscoders.
        scope: has a coder for each site that is read: an SAE for a crosscoder, a transcoder for a CLT.

    Raises:
        BadInput: a coder reads one site only, or does not write where it should.
    """
    for run in trainer.runs:
        layout, scalings = run.spec.layout, trainer.scalings[run.spec.centred]
        if len(layout.reads) < 2:
            raise BadInput(f"The coder {run.spec.name} reads one layer; only joint coders begin from several.")
        named = {site: site.name if site.name in scope.coders else None for site in layout.reads}  # of several there
        sources = [rescaled(scope.select(site.name, name=named[site]), scalings) for site in layout.reads]
        wrong = [source.id for source, site in zip(sources, layout.writes, strict=False) if source.writes != (site,)]
        if wrong or len(layout.writes) != len(sources):
            raise BadInput(f"The coder {wrong[0] if wrong else layout.kind} does not write where its layer does.")
        gather(run, sources)


@torch.no_grad()
def gather(run: TrainingRun, sources: Sequence[Coder]) -> None:
    """Fill a run's latents from coders of its layers, on scaled activations.

    Layers are walked from early to late. Each gives its first latents (the most common ones of a Matryoshka coder); for
    each of these the later layers' latents that read what it writes are marked off, so that no feature is taken twice,
    and its decoder begins there as theirs.

    Args:
        run: with one part for each source, or with one for all.
        sources: of one read and one write site each, from early to late.
    """
    marked = [torch.zeros(source.d_latent, dtype=torch.bool) for source in sources]
    run.b_dec.copy_(torch.cat([source.bias() for source in sources]))
    for number, source in enumerate(sources):
        part, rows, columns = run.parts[0], torch.arange(len(run.parts[0].b_enc)), slice(None)
        if len(run.parts) > 1:
            part = run.parts[number]
        else:  # one part for all: its latents and its columns are divided among the layers
            share, width = len(rows) // len(sources), part.w_enc.shape[1] // len(sources)
            rows = rows[number * share : (number + 1) * share]
            columns = slice(number * width, (number + 1) * width)
        chosen = (~marked[number]).nonzero()[: len(rows), 0]
        rows = rows[: len(chosen)]
        read = torch.zeros(len(rows), part.w_enc.shape[1])
        read[:, columns] = source.encoder_rows(chosen)
        part.w_enc[rows], part.b_enc[rows], part.w_dec[rows] = read, source.encoder_bias(chosen), 0.0
        if isinstance(source.activation, JumpReLU) and "log_threshold" in part.learned:
            part.learned["log_threshold"][rows] = source.activation.threshold[chosen].clamp_min(1e-6).log()
        written = source.decoder_rows(chosen)
        part.w_dec[rows, run.columns(source.writes, part)] = written
        for later, mark in zip(sources[number + 1 :], marked[number + 1 :], strict=True):
            likeness = normalize(written) @ normalize(later.encoder_rows(torch.arange(later.d_latent))).T
            best = likeness.masked_fill(mark, -torch.inf).max(1)
            like = best.values > LIKE
            twins = best.indices[like]
            part.w_dec[rows[like], run.columns(later.writes, part)] = later.decoder_rows(twins)
            mark[twins] = True
    for part in run.parts:  # decoder rows of length 1, with what is written unchanged
        lengths = part.norms.clamp_min(1e-12)
        part.w_dec /= lengths[:, None]
        part.w_enc *= lengths[:, None]
        part.b_enc *= lengths
        if "log_threshold" in part.learned:
            part.learned["log_threshold"].add_(lengths.log())
        if run.centre is not None:
            part.b_enc += part.w_enc @ run.b_dec


def _ends(coder: Any) -> tuple[set[Any], set[Any]]:
    return set(coder.reads), set(coder.writes)
