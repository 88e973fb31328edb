"""What the benchmarks say of the machine and of themselves."""

import os
import platform
import resource
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def peak_mb() -> int:
    """The largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def machine(*packages: str) -> dict[str, Any]:
    """What it ran on, with the versions of packages."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": 1,
        "python": platform.python_version(),
        **{name: known(name) for name in packages},
    }


def known(name: str) -> str:
    """An installed version."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
