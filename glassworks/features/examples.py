"""The strongest examples of every latent, with the tokens around them.

Ten copies of one sentence teach nothing, so examples on different tokens in different sentences come first.
This module must not know models.
"""

from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks.coders import Latents
from glassworks.harvest import Recording

CANDIDATES = 24


def examples(
    latents: Latents, recording: Recording, most: int, before: int, after: int
) -> tuple[Int[Tensor, "F K W"], Float[Tensor, "F K W"]]:
    """Find examples.

    Args:
        latents: of the recording's rows.
        recording: the rows' tokens, documents and positions.
        most: K, examples of each latent.
        before: tokens of the window before the example's token.
        after: tokens after it; W = before + 1 + after.

    Returns:
        Token ids (-1 outside of the document) and activations of the windows, strongest first.
    """
    rows = _strongest(latents, recording, most)
    places = rows[..., None] + torch.arange(-before, after + 1)
    outside = (places < 0) | (places >= len(recording.tokens)) | (rows[..., None] < 0)
    places = places.clamp(0, len(recording.tokens) - 1)
    outside |= recording.documents[places] != recording.documents[rows.clamp_min(0)][..., None]
    values = _activations(latents, places)
    return recording.tokens[places].masked_fill(outside, -1), values.masked_fill(outside, 0.0)


def _strongest(latents: Latents, recording: Recording, most: int) -> Int[Tensor, "F K"]:
    """The rows of the examples; -1 where there are fewer."""
    order = torch.argsort(latents.values, descending=True, stable=True)
    order = order[torch.argsort(latents.indices[order], stable=True)]
    rows = latents.positions[order]
    starts = torch.searchsorted(latents.indices[order], torch.arange(latents.d_latent + 1)).tolist()
    tokens = recording.tokens.tolist()
    places = (recording.positions - recording.positions.min()).tolist()
    found = torch.full((latents.d_latent, most), -1)
    for latent, (start, stop) in enumerate(pairwise(starts)):
        candidates = rows[start : min(stop, start + CANDIDATES * most)].tolist()
        chosen = _different([(row, tuple(tokens[row - min(places[row], 3) : row + 1])) for row in candidates], most)
        found[latent, : len(chosen)] = torch.tensor(chosen, dtype=torch.long)
    return found


def _different(candidates: list[tuple[int, tuple[int, ...]]], most: int) -> list[int]:
    """The first rows with another text (their last tokens), those whose own token is not seen yet coming first."""
    fresh: list[int] = []
    again: list[int] = []
    texts: set[tuple[int, ...]] = set()
    seen: set[int] = set()
    for row, text in candidates:
        if text not in texts:
            (again if text[-1] in seen else fresh).append(row)
            texts.add(text)
            seen.add(text[-1])
        if len(fresh) == most:
            break
    return (fresh + again)[:most]


def _activations(latents: Latents, places: Int[Tensor, "F K W"]) -> Float[Tensor, "F K W"]:
    """Each latent's activations at rows of its own, by binary search in the sorted entries."""
    if not len(latents.values):
        return torch.zeros(places.shape)
    keys = latents.positions * latents.d_latent + latents.indices
    wanted = places * latents.d_latent + torch.arange(latents.d_latent)[:, None, None]
    found = torch.searchsorted(keys, wanted).clamp_max(len(keys) - 1)
    return latents.values[found].where(keys[found] == wanted, torch.zeros(()))
