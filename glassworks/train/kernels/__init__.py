"""Kernels: the few operations of the sparse engine that are worth code of their own, one file for each machine."""

from glassworks.train.kernels.choice import kernels, named
from glassworks.train.kernels.gradients import kept, total
from glassworks.train.kernels.kernels import Kernels
from glassworks.train.kernels.pattern import Pattern

__all__ = ["Kernels", "Pattern", "kept", "kernels", "named", "total"]
