"""Labels: a few words for every latent, made from its evidence by rule.

`oak, elm, birch -> leaves` reads: fires on these tokens and raises these logits. Left of the arrow, tokens
after `..` are earlier words that it depends on, where the token that it fires on says little. Where its logits say
nothing, `~> forest` names what comes later in texts where it fires. This module must not know models.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool
from torch import Tensor

from glassworks.coders import Evidence

LEFT, RIGHT = 3, 3
SPECIFIC = 0.5
NOTABLE = 1.5


TokenText = Callable[[int], str]
"""Gives the text of a token."""


def labels(text: TokenText, evidence: Evidence) -> list[str]:
    """Word a label for each latent of a coder, "" for those that were never active.

    Args:
        text: gives tokens' texts, `model.token_text`.
        evidence: of the coder.
    """
    informative = informative_logits(evidence)
    return [_label(text, evidence, latent, informative) for latent in range(len(evidence.density))]


def informative_logits(evidence: Evidence) -> Bool[Tensor, "F G"]:
    """Which of the top logits stand out.

    The fifth largest or the fifth smallest effect, whichever is nearer to 0, is taken as the size that chance
    reaches; a logit that is `NOTABLE` times larger is no chance.
    """
    chance = torch.minimum(evidence.top_logit_values[:, -1:].abs(), evidence.bottom_logit_values[:, -1:].abs())
    return evidence.top_logit_values > NOTABLE * chance


def _label(text: TokenText, evidence: Evidence, latent: int, informative: Tensor) -> str:
    if not evidence.density[latent]:
        return ""
    own = _texts(text, evidence.top_token_ids[latent], LEFT)
    specific = bool(evidence.top_token_weights[latent, 0] >= SPECIFIC * evidence.max_activation[latent])
    earlier = [] if specific else _texts(text, evidence.context_token_ids[latent], LEFT)
    left = f"{', '.join(earlier)} .. {own[0]}" if earlier and own else ", ".join(own or earlier)
    raised = _texts(text, evidence.top_logit_ids[latent][informative[latent]], RIGHT)
    if raised:
        return f"{left} -> {', '.join(raised)}"
    later = _texts(text, evidence.following_token_ids[latent], RIGHT)
    return f"{left} ~> {', '.join(later)}" if later else left


def _texts(text: TokenText, ids: Tensor, most: int) -> list[str]:
    words: list[str] = []
    for each in ids[ids >= 0].tolist():
        word = text(each).strip() or repr(text(each))
        if word not in words:
            words.append(word)
    return words[:most]
