"""Rollouts: what a model itself answers to prompts, as a corpus of token ids.

Some are made at once, each group with a seed of its own, and a group is written when it is whole: so rollouts that were
interrupted go on and end the same. This module must not know activations.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, final

import torch

from glassworks.errors import BadInput
from glassworks.harvest.contexts import Document, token_ids
from glassworks.models import Model


@final
@dataclass(frozen=True)
class Sampling:
    """How answers are sampled.

    Attributes:
        tokens: the most that are added to a prompt.
        temperature: 0 takes the likeliest token each time.
        seed: of the sampling.
        together: prompts that are answered at once.
    """

    tokens: int = 256
    temperature: float | int = 1.0
    seed: int = 0
    together: int = 32


@torch.no_grad()
def write_rollouts(
    model: Model,
    prompts: Iterable[Document],
    out: Path,
    sampling: Sampling | None = None,
    report: Callable[[int], None] | None = None,
) -> Path:
    """Let a model answer prompts, or go on letting it.

    Args:
        model: the model.
        prompts: texts, or chats whose last message is the user's.
        out: a .jsonl file; a line is `{"tokens": [...], "prompt": its length, ...}`, which a `Corpus` reads.
        sampling: how.
        report: is called with the number of tokens that were added since the last call.

    Returns:
        The file.

    Raises:
        BadInput: the file holds rollouts of other settings, or a prompt fills the model's context.
    """
    sampling = sampling or Sampling()
    made = {"model": model.name, **asdict(sampling)}
    done = _whole_groups(out, made)
    out.parent.mkdir(parents=True, exist_ok=True)
    waiting = islice(token_ids(model, prompts), done, None)
    while group := list(islice(waiting, sampling.together)):
        answers = _answers(model, group, sampling, sampling.seed * 1_000_003 + done)
        done += len(group)
        lines = [
            json.dumps({"tokens": prompt + answer, "prompt": len(prompt), "made": made})
            for prompt, answer in zip(group, answers, strict=True)
        ]
        with out.open("a", encoding="utf-8") as stream:
            stream.write("".join(f"{line}\n" for line in lines))
        if report:
            report(sum(map(len, answers)))
    return out


def _answers(model: Model, prompts: list[list[int]], sampling: Sampling, seed: int) -> list[list[int]]:
    width = max(map(len, prompts))
    most = min(sampling.tokens, model.context_length - width)
    if most < 1:
        raise BadInput(f"A prompt of {width} tokens leaves no room in the model's context of {model.context_length}.")
    ids = torch.tensor([[each[0]] * (width - len(each)) + each for each in prompts], device=model.device)
    real = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in prompts], device=model.device)
    heat: dict[str, Any] = {"do_sample": False}
    if sampling.temperature:
        heat = {"do_sample": True, "temperature": float(sampling.temperature), "top_k": 0, "top_p": 1.0}
    end = model.hf.generation_config.eos_token_id  # pyright: ignore
    ends = {end} if isinstance(end, int) else {*(end or ())}
    filler = min(ends, default=0)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        found = model.hf.generate(  # pyright: ignore
            input_ids=ids, attention_mask=real, max_new_tokens=most, pad_token_id=filler, **heat
        )
    return [_until(each, ends) for each in found[:, width:].tolist()]


def _until(tokens: list[int], ends: set[int]) -> list[int]:
    last = next((place for place, token in enumerate(tokens) if token in ends), len(tokens) - 1)
    return tokens[: last + 1]


def _whole_groups(out: Path, made: dict[str, Any]) -> int:
    """How many prompts are answered; what is left of a group that was interrupted is cut off."""
    if not out.is_file():
        return 0
    lines = [line for line in out.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    if lines and json.loads(lines[0]).get("made") != made:
        raise BadInput(f"The file {out} holds rollouts of other settings; give the same ones, or choose another file.")
    whole = len(lines) // made["together"] * made["together"]
    with out.open("r+", encoding="utf-8") as stream:
        stream.truncate(sum(len(line.encode()) for line in lines[:whole]))
    return whole
