"""Proofs run before an issue ends; each leaves its figures in benchmarks/results."""

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import glassworks

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


@pytest.fixture
def keep() -> Callable[[str, dict[str, Any]], None]:
    """Write figures as JSON, with the versions that they were measured with."""

    def write(name: str, figures: dict[str, Any]) -> None:
        versions = {"glassworks": glassworks.__version__, "torch": torch.__version__}
        versions |= {"transformers": transformers.__version__, "python": platform.python_version()}
        RESULTS.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"versions": versions, **figures}, indent=1, ensure_ascii=False)
        (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")

    return write
