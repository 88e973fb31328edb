"""Harvest: run a model over text and keep the activations at chosen sites."""

from glassworks.harvest.activations import Activations, Statistics, moments
from glassworks.harvest.contexts import Contexts, Document, Reading
from glassworks.harvest.corpus import Corpus
from glassworks.harvest.documents import batches, pad
from glassworks.harvest.estimate import estimate
from glassworks.harvest.live import Live
from glassworks.harvest.plan import Storing, make_plan
from glassworks.harvest.record import Recording, record
from glassworks.harvest.rollouts import Sampling, write_rollouts
from glassworks.harvest.shuffled import Shuffled
from glassworks.harvest.store import Store, load_store
from glassworks.harvest.streams import Rows, Stream, frequency_weights, pairs
from glassworks.harvest.writing import harvest

__all__ = [
    "Activations",
    "Contexts",
    "Corpus",
    "Document",
    "Live",
    "Reading",
    "Recording",
    "Rows",
    "Sampling",
    "Shuffled",
    "Statistics",
    "Store",
    "Storing",
    "Stream",
    "batches",
    "estimate",
    "frequency_weights",
    "harvest",
    "load_store",
    "make_plan",
    "moments",
    "pad",
    "pairs",
    "record",
    "write_rollouts",
]
