"""Export: a learner as the coder that users load, of raw activations and with decoder rows of length 1.

All that training added is folded away exactly: the scaling of each site, the bias that was subtracted from the input,
and a choice that depends on a batch. This module must not know how anything was trained.
"""

from collections.abc import Mapping

from torch import Tensor

from glassworks.coders import Affine, Coder, Crosscoder, CrossLayer, Transcoder, fold, unit_decoder
from glassworks.sites import Site
from glassworks.train.attempt import Part
from glassworks.train.learner import Learner


def export(learner: Learner, scalings: Mapping[str, Affine]) -> Coder:
    """The coder of raw activations, without gradients.

    Decoder rows get length 1 where no choice among latents depends on it; TopK keeps the lengths it was trained with.

    Args:
        learner: trained on scaled activations.
        scalings: of each site, by name.
    """
    last = {site: part for part in learner.parts for site in part.writes}  # a bias is written once, by one part
    parts = [_coder(learner, part, {site for site in last if last[site] is part}) for part in learner.parts]
    kind = learner.objective.layout.kind
    whole = CrossLayer(parts, kind) if kind in ("clt", "causal_crosscoder") else parts[0]  # pyright: ignore[reportArgumentType]
    folded = fold(whole, scalings, scalings)  # pyright: ignore[reportArgumentType]
    return (unit_decoder(folded) if folded.activation.span == "latent" else folded).requires_grad_(False)


def _coder(learner: Learner, part: Part, biased: set[Site]) -> Crosscoder | Transcoder:
    """One part on scaled activations; of the sites that it writes, those in `biased` get their bias from it."""
    objective = learner.objective
    w_enc, b_enc, activation = objective.gate.encoder(part, part.w_enc.detach())
    if learner.centre is not None:
        b_enc = b_enc - w_enc @ learner.centre
    weights = {"w_enc": w_enc, "b_enc": b_enc.detach()} | _decoder(learner, part, biased)
    if len(part.reads) == len(learner.writes) == len(learner.parts) == 1:
        weights = {name.partition(".")[0]: value for name, value in weights.items()}
        return Transcoder(part.reads[0], part.writes[0], activation, weights, objective.prefixes)
    return Crosscoder(part.reads, part.writes, activation, weights, objective.prefixes)


def _decoder(learner: Learner, part: Part, biased: set[Site]) -> dict[str, Tensor]:
    sizes = [learner.widths[site] for site in part.writes]
    matrices = {"w_dec": part.w_dec, "w_skip": part.w_skip, "b_dec": learner.b_dec[learner.columns(part.writes)]}
    pieces = {name: value.detach().split(sizes, -1) for name, value in matrices.items() if value is not None}
    return {
        f"{name}.{site}": piece.clone()
        for name, found in pieces.items()
        for site, piece in zip(part.writes, found, strict=True)
        if name != "b_dec" or site in biased
    }
