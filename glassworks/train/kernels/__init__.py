"""Kernels: the few operations of the sparse engine that are worth code of their own, one file for each machine."""

import os
from functools import cache
from importlib.util import find_spec

from glassworks.errors import BadInput
from glassworks.train.kernels.kernels import Kernels, Pattern, TorchKernels, kept, total

__all__ = ["Kernels", "Pattern", "kept", "kernels", "named", "total"]


def kernels(device: str) -> Kernels:
    """The fastest kernels for a device.

    Compiled by numba on the processor, where numba is installed; by Triton on a GPU, where it is; else plain torch.
    The environment variable GLASSWORKS_KERNELS (`torch`, `numba`, `triton`) chooses another.

    Args:
        device: a torch device's type.
    """
    fitting = {"cpu": "numba", "cuda": "triton"}.get(device, "torch")
    default = fitting if find_spec(fitting) else "torch"
    return named(os.environ.get("GLASSWORKS_KERNELS", default))


@cache
def named(name: str) -> Kernels:
    """The kernels called `torch`, `numba` or `triton`."""
    match name:
        case "torch":
            return TorchKernels()
        case "numba":
            from glassworks.train.kernels.numba_kernels import NumbaKernels

            return NumbaKernels()
        case "triton":
            from glassworks.train.kernels.triton_kernels import TritonKernels

            return TritonKernels()
    raise BadInput(f"There are no kernels {name!r}; GLASSWORKS_KERNELS may be torch, numba or triton.")
