"""Adoption: training that begins with the weights of coders that exist.

A coder goes on where it was, on other text or for another model (a chat model's coders begin as those of the model that
it was tuned from); a coder of many layers begins with the latents of coders of one layer. This module must not know
the loop.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from glassworks.coders import Affine, Coder, JumpReLU, Scope, fold, unit_decoder
from glassworks.errors import BadInput, NotFound, Unsupported, nearest
from glassworks.train.attempt import Part
from glassworks.train.fleet import Fleet
from glassworks.train.gates import Gated
from glassworks.train.learner import Learner


def adopt(fleet: Fleet, scope: Scope) -> None:
    """Begin every member with the coder of its name, and of its sites where there is only one.

    Args:
        fleet: not started.
        scope: of coders of raw activations; the fleet's scaling is folded in.

    Raises:
        NotFound: a member has none.
        BadInput: it has other sites or another width.
    """
    for trainee in fleet.trainees:
        name = trainee.member.name
        fitting = [each.name for each in scope.entries if _ends(each) == _ends(trainee.objective.layout)]
        found = name if name in scope.coders else fitting[0] if len(fitting) == 1 else ""
        if not found:
            raise NotFound(f"The scope {scope.name} has no coder {name!r} to begin with; {nearest(name, scope)}.")
        take_up(trainee.learner, scope[found], fleet.scalings[trainee.objective.centred])


@torch.no_grad()
def take_up(learner: Learner, coder: Coder, scalings: Mapping[str, Affine]) -> None:
    """Give a learner the weights of a coder of raw activations, for its own scaled ones.

    Args:
        learner: of the same sites and width.
        coder: what it becomes; exact, apart from rounding.
        scalings: of each site.
    """
    if isinstance(learner.objective.gate, Gated):
        raise Unsupported("A gated coder cannot begin as another: its gate and its magnitude would have to be guessed.")
    scaled = rescaled(coder, scalings)
    if _ends(coder) != _ends(learner.objective.layout) or len(scaled.parts) != len(learner.parts):
        raise BadInput(f"The coder {coder.id} reads or writes other sites than what should begin with it.")
    learner.b_dec.copy_(torch.cat([scaled.bias(site) for site in learner.writes]))
    for part, its in zip(learner.parts, scaled.parts, strict=True):
        if its.d_latent != len(part.b_enc):
            raise BadInput(f"The coder {coder.id} has {its.d_latent} latents and not {len(part.b_enc)}.")
        _copy(learner, part, its)


def rescaled(coder: Coder, scalings: Mapping[str, Affine]) -> Any:
    """A coder of raw activations as the same one of scaled ones, with decoder rows of length 1 where that is exact."""
    back = {name: Affine(-each.centre.cpu() * each.scale, 1 / each.scale) for name, each in scalings.items()}
    folded: Any = fold(coder, back, back)  # pyright: ignore[reportArgumentType]
    return unit_decoder(folded) if folded.activation.span == "latent" else folded


def _copy(learner: Learner, part: Part, its: Coder) -> None:
    rows = torch.arange(its.d_latent)
    w_enc = its.encoder_rows(rows)
    part.w_enc.copy_(w_enc)
    part.b_enc.copy_(its.encoder_bias(rows) + (w_enc @ learner.b_dec.cpu() if learner.centre is not None else 0.0))
    part.w_dec.copy_(torch.cat([its.decoder_rows(rows, site) for site in part.writes], dim=1))
    skips = [its.skip(site) for site in part.writes]
    if part.w_skip is not None and all(skip is not None for skip in skips):
        part.w_skip.copy_(torch.cat([skip for skip in skips if skip is not None], dim=1))
    if isinstance(its.activation, JumpReLU):
        set_threshold(part, its.activation.threshold)


def set_threshold(part: Part, threshold: Tensor) -> None:
    """Give a part's latents their thresholds, where its gate learns them."""
    if "log_threshold" in part.learned:
        part.learned["log_threshold"].copy_(threshold.clamp_min(1e-6).log())


def _ends(each: Any) -> tuple[set[Any], set[Any]]:
    return set(each.reads), set(each.writes)
