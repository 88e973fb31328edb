"""Collect evidence: run text through a model and its coders, and keep what each latent does.

Evidence is deterministic: the same text gives the same evidence. This module must not know how it is worded.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.coders import Coder, Evidence, Latents, Scope
from glassworks.features.examples import examples
from glassworks.features.labels import labels
from glassworks.features.tokens import TokenMeans
from glassworks.harvest import Recording, record
from glassworks.models import Model

EXAMPLES, BEFORE, AFTER, TOKENS, LOGITS = 6, 9, 3, 6, 5
NEAR_BEST = 0.1
ROWS = 4096


def collect(model: Model, scope: Scope, documents: Sequence[Sequence[int]]) -> dict[str, Evidence]:
    """Collect the evidence of every coder of a scope.

    Args:
        model: the scope's model.
        scope: its coders.
        documents: token ids each.

    Returns:
        Coder id -> evidence.
    """
    first = int("bos" in scope.untrained)
    found: dict[str, Evidence] = {}
    for name, coder in scope.single.items():
        recording = record(model, documents, list(coder.reads), first)
        found[name] = _evidence(model, coder, recording)
    return found


def describe(model: Model, scope: Scope, documents: Sequence[Sequence[int]]) -> Scope:
    """Collect a scope's evidence and label its latents, in place; returns the scope."""
    scope.evidences.update(collect(model, scope, documents))
    scope.labels.update({name: labels(model.token_text, each) for name, each in scope.evidences.items()})
    return scope


@torch.no_grad()
def _evidence(model: Model, coder: Coder, recording: Recording) -> Evidence:
    means = TokenMeans(model.vocab_size, coder.d_latent)
    latents = _encode(coder, recording, means)
    tokens, activations = examples(latents, recording, EXAMPLES, BEFORE, AFTER)
    largest = torch.zeros(coder.d_latent).scatter_reduce(0, latents.indices, latents.values, "amax")
    top_ids, top_weights = means.own(TOKENS)
    effects = logit_effects(model, coder)
    top, bottom = effects.topk(LOGITS, dim=1), effects.topk(LOGITS, dim=1, largest=False)
    return Evidence(
        density=torch.bincount(latents.indices, minlength=coder.d_latent) / len(recording.tokens),
        max_activation=largest,
        example_tokens=tokens,
        example_activations=activations,
        top_token_ids=top_ids,
        top_token_weights=top_weights,
        context_token_ids=means.context(TOKENS, NEAR_BEST),
        following_token_ids=means.following(TOKENS, NEAR_BEST),
        top_logit_ids=top.indices,
        top_logit_values=top.values,
        bottom_logit_ids=bottom.indices,
        bottom_logit_values=bottom.values,
    )


def _encode(coder: Coder, recording: Recording, means: TokenMeans) -> Latents:
    """Encode all rows, documents of one length at a time, and sum up which tokens they go with."""
    starts = torch.cat([torch.zeros(1, dtype=torch.long), recording.documents.diff().nonzero().squeeze(1) + 1])
    lengths = torch.diff(starts, append=torch.tensor([len(recording.tokens)]))
    positions, indices, activations = [], [], []
    for length in lengths.unique().tolist():
        for group in starts[lengths == length].split(max(1, ROWS // length)):
            rows = group[:, None] + torch.arange(length)
            read: Any = {site.name: recording.values[site.name][rows] for site in coder.reads}
            latents = coder.encode(read if len(read) > 1 else next(iter(read.values())))
            means.add(recording.tokens[rows], latents.dense())
            positions.append(rows.flatten()[latents.positions])
            indices.append(latents.indices)
            activations.append(latents.values)
    order = torch.argsort(torch.cat(positions) * coder.d_latent + torch.cat(indices))
    shape = (len(recording.tokens), coder.d_latent)
    return Latents(torch.cat(positions)[order], torch.cat(indices)[order], torch.cat(activations)[order], shape)


def logit_effects(model: Model, coder: Coder) -> Float[Tensor, "d_latent vocabulary"]:
    """What each latent adds to the logits by the direct path from all its write sites, for activation 1 and scale 1.

    The final norm's gain is applied (and its centring, where it has one); attention and later MLPs are not.
    """
    latents = torch.arange(coder.d_latent)
    rows = torch.stack([coder.decoder_rows(latents, write) for write in coder.writes]).sum(0)
    norm, (unembedding, _) = model.final_norm, model.unembedding
    rows = rows - rows.mean(1, keepdim=True) if norm.centred else rows
    rows = rows if norm.gain is None else rows * norm.gain.float()
    return rows @ unembedding.float().T
