"""Which kernels run on which machine."""

import os
from functools import cache
from importlib.util import find_spec

from glassworks.errors import BadInput
from glassworks.train.kernels.kernels import Kernels


def kernels(device: str) -> Kernels:
    """The fastest kernels for a device.

    Compiled by numba on the processor, where numba is there; by Triton on a GPU, where it is; else plain torch.
    The environment variable GLASSWORKS_KERNELS (`torch`, `numba`, `triton`) chooses another.

    Args:
        device: a torch device's type.
    """
    fitting = {"cpu": "numba", "cuda": "triton"}.get(device, "torch")
    default = fitting if find_spec(fitting) else "torch"
    return named(os.environ.get("GLASSWORKS_KERNELS", default))


@cache
def named(name: str) -> Kernels:
    """The kernels of a name.

    Args:
        name: `torch`, `numba` or `triton`.
    """
    match name:
        case "torch":
            from glassworks.train.kernels.plain import Plain as Found
        case "numba":
            from glassworks.train.kernels.jit import Jit as Found
        case "triton":
            from glassworks.train.kernels.tiles import Tiles as Found
        case _:
            raise BadInput(f"There are no kernels {name!r}; GLASSWORKS_KERNELS may be torch, numba or triton.")
    return Found()
