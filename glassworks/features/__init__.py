"""Features: what a coder's latents stand for, from evidence on text, in words."""

from glassworks.features.collect import collect, describe
from glassworks.features.labels import labels

__all__ = ["collect", "describe", "labels"]
