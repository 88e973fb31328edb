"""Coders: what turns activations into sparse features and back.

Plain torch on site names: this room never sees a language model, so that coders train from stored activations
with no model in memory.
"""

from glassworks.coders.activations import Activation, BatchTopK, JumpReLU, ReLU, TopK
from glassworks.coders.coder import Coder, Transcoder
from glassworks.coders.evidence import Evidence
from glassworks.coders.folding import Affine, fold, unit_decoder
from glassworks.coders.latents import Latents
from glassworks.coders.scope import Scope, load_scope, save_scope

__all__ = [
    "Activation",
    "Affine",
    "BatchTopK",
    "Coder",
    "Evidence",
    "JumpReLU",
    "Latents",
    "ReLU",
    "Scope",
    "TopK",
    "Transcoder",
    "fold",
    "load_scope",
    "save_scope",
    "unit_decoder",
]
