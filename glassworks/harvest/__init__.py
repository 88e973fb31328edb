"""Harvest: run a model over text and keep the activations at chosen sites."""

from glassworks.harvest.documents import batches, pad
from glassworks.harvest.record import Recording, record

__all__ = ["Recording", "batches", "pad", "record"]
