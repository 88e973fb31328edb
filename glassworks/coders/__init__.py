"""Coders: what turns activations into sparse features and back.

Plain torch on site names: this room never sees a language model, so that coders train from stored activations
with no model in memory.
"""

from glassworks.coders.activations import Activation, BatchTopK, GroupMax, JumpReLU, ReLU, TopK
from glassworks.coders.coder import Coder
from glassworks.coders.crosscoder import Crosscoder
from glassworks.coders.crosslayer import CrossLayer
from glassworks.coders.entries import Entry, grouped, width_word
from glassworks.coders.evidence import Evidence
from glassworks.coders.export import export_scope
from glassworks.coders.folding import Affine, fold, gated, unit_decoder
from glassworks.coders.latents import Latents
from glassworks.coders.pertoken import PerToken
from glassworks.coders.releases import RELEASES
from glassworks.coders.scope import Scope, load_scope, replacement_of, save_scope
from glassworks.coders.shelf import Shelf, entry_of
from glassworks.coders.transcoder import Transcoder
from glassworks.coders.weights import Matrix, Stored, open_tensors, resident

__all__ = [
    "RELEASES",
    "Activation",
    "Affine",
    "BatchTopK",
    "Coder",
    "CrossLayer",
    "Crosscoder",
    "Entry",
    "Evidence",
    "GroupMax",
    "JumpReLU",
    "Latents",
    "Matrix",
    "PerToken",
    "ReLU",
    "Scope",
    "Shelf",
    "Stored",
    "TopK",
    "Transcoder",
    "entry_of",
    "export_scope",
    "fold",
    "gated",
    "grouped",
    "load_scope",
    "open_tensors",
    "replacement_of",
    "resident",
    "save_scope",
    "unit_decoder",
    "width_word",
]
