"""Language models with named sites: load, read, change, generate."""

from glassworks.models.architectures import families
from glassworks.models.load import load_model, load_vocabulary
from glassworks.models.model import Edit, Model, Prediction
from glassworks.models.run import Prompts, Run, cache_name
from glassworks.models.scoring import Projection, Scorer
from glassworks.models.skipping import ending, starting
from glassworks.models.taps import Tap
from glassworks.models.vocabulary import Prompt, Vocabulary
from glassworks.models.weights import Block, Norm

__all__ = [
    "Block",
    "Edit",
    "Model",
    "Norm",
    "Prediction",
    "Projection",
    "Prompt",
    "Prompts",
    "Run",
    "Scorer",
    "Tap",
    "Vocabulary",
    "cache_name",
    "ending",
    "families",
    "load_model",
    "load_vocabulary",
    "starting",
]
