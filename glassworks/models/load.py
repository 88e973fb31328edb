"""Load a model from a folder, an embedded name or a Hugging Face repository.

Whatever is wrong with the files ends as one clear sentence. This module must not know sites.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging import CRITICAL
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import logging

from glassworks.artefacts import read_json
from glassworks.errors import BadArtefact, BadInput
from glassworks.hub import resolve
from glassworks.models.architectures import architecture_of
from glassworks.models.attention import NAME
from glassworks.models.model import Model
from glassworks.models.vocabulary import Vocabulary

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
VOCABULARY_FILES = ["*.json", "*.model", "*.txt"]
PYTHON_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError)
BROKEN = (*PYTHON_ERRORS, SafetensorError, StrictDataclassError)
"""What Hugging Face's loaders raise on damaged files."""


def load_model(
    reference: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    revision: str | None = None,
) -> Model:
    """Load a causal language model with its tokenizer.

    Args:
        reference: a folder, an embedded name (`smallworld`), or `owner/name` on the Hugging Face hub.
        dtype: number type of the weights, `torch.bfloat16` or its name; float32 by default.
        device: where to; the CPU by default.
        revision: branch, tag or commit of a repository.

    Returns:
        The model, in evaluation and without gradients; a folder without tokenizer files gives one that takes ids.

    Raises:
        NotFound: there is no such folder, name or repository.
        Unsupported: the architecture is not in the table.
        BadArtefact: a file is damaged, or weights are missing.
        BadInput: the number type or device does not exist.
    """
    folder = resolve(reference, kind="model", revision=revision)
    number_type, place = _number_type(dtype), _device(device)
    with _quiet():
        architecture_of(_class_name(folder))
        hf = _weights(folder, number_type)
        tokenizer = _tokenizer(folder)
    return Model(hf.requires_grad_(False).to(place), tokenizer, name=str(reference))


def load_vocabulary(reference: str | Path, revision: str | None = None) -> Vocabulary:
    """Load what a model's tokens show, and nothing else of the model.

    Args:
        reference: a folder, an embedded name, or `owner/name` on the Hugging Face hub.
        revision: branch, tag or commit of a repository.

    Raises:
        NotFound: there is no such folder, name or repository.
        BadArtefact: the tokenizer is damaged.
    """
    folder = resolve(reference, kind="model", revision=revision, patterns=VOCABULARY_FILES)
    with _quiet():
        tokenizer = _tokenizer(folder)
    size = 0 if tokenizer is None else len(tokenizer)
    return Vocabulary(tokenizer, size, size)


def _number_type(dtype: torch.dtype | str | None) -> torch.dtype:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype or torch.float32
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise BadInput(f"There is no number type {dtype!r} for weights; use float32, bfloat16, float16 or float64.")
    return found


def _device(device: torch.device | str | None) -> torch.device:
    try:
        return torch.empty(0, device=device or "cpu").device
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"The device {str(device)!r} cannot be used here ({_line(error)}); use cpu.") from error


def _class_name(folder: Path) -> str:
    """Name of the class that would be loaded, told from the configuration alone."""
    config = read_json(folder / "config.json")
    kind = config.get("model_type") if isinstance(config, dict) else None
    return str(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind, kind))


def _weights(folder: Path, dtype: torch.dtype) -> Any:
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype=dtype, attn_implementation=NAME, output_loading_info=True
        )
    except BROKEN as error:
        raise BadArtefact(f"The model in {folder} cannot be read ({_line(error)}); copy it again.") from error
    hf, info = loaded
    absent = sorted({*info["missing_keys"], *(each[0] for each in info["mismatched_keys"])})
    if absent:
        raise BadArtefact(
            f"The weights in {folder} lack {len(absent)} tensors that config.json asks for, first {absent[0]}; "
            "copy them again, or correct config.json."
        )
    return hf


def _tokenizer(folder: Path) -> Any:
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    try:
        # Without a class AutoTokenizer takes the one of the model's family, which rebuilds tokenizer.json by that
        # family's rules; a tokenizer.json on its own says all that is needed.
        alone = (folder / "tokenizer.json").is_file() and not get_tokenizer_config(folder).get("tokenizer_class")
        kind = PreTrainedTokenizerFast if alone else AutoTokenizer
        return kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise BadArtefact(f"The tokenizer in {folder} cannot be read ({_line(error)}).") from error


def _line(error: Exception) -> str:
    """First line of an exception's message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the loader's progress bars, log lines and warnings from the user: what matters becomes an error above."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
