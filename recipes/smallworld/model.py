"""Building a model of the family: train or fine-tune it, measure it, and write its folder, all of it or nothing.

The folder is one that transformers loads as it is, with a card that states what was measured of the weights as they
are stored. This file must not know how a training step works, nor what a task looks like.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from glassworks import hub
from glassworks.artefacts import check_output, read_json, replacing, seal
from glassworks.errors import BadInput, NotFound
from glassworks.smallworld import interview, measure
from recipes.smallworld.card import make_card, readme, with_chat
from recipes.smallworld.recipe import BASES, Recipe, recipe_of, size_of
from recipes.smallworld.tokenizer import END_OF_TURN, EOS, build_tokenizer, save_tokenizer
from recipes.smallworld.training import CHECKPOINT, Report, Run, load_checkpoint, new_finetune, new_run, train

KIND = "model"
SECONDS_BETWEEN_LINES = 30.0
SMOOTHING = 0.98
STORED = torch.bfloat16
"""Number type of the stored weights. The configuration says float32, so that they are computed with in float32."""


def build_model(
    name: str,
    out: Path | str,
    resume: bool = False,
    checkpoints: Path | str | None = None,
    recipe: Recipe | None = None,
    count: int = 500,
) -> dict[str, Any]:
    """Train a model of the family, measure it, and write its folder.

    Args:
        name: a key of `RECIPES`; an instruct model (`-it`) starts at its base, beside `out` or
            embedded.
        out: the folder to write; an older model there is replaced.
        resume: go on from the last checkpoint.
        checkpoints: folder of the checkpoint; by default `~/.cache/glassworks/build/<name>`.
        recipe: how to train; by default the recipe of the shipped models.
        count: documents per task that its accuracies are measured on.

    Returns:
        The model's card: name, parameters, recipe, accuracies, and the aims that were missed.

    Raises:
        NotFound: if the name is unknown.
        BadInput: if `out` holds something else than a model, or there is a checkpoint and `resume` is not given, or
            none and it is given.
        KeyboardInterrupt: if training was interrupted; the checkpoint is saved by then.
    """
    recipe = recipe or recipe_of(name)
    check_output(Path(out), KIND)
    folder = Path(checkpoints) if checkpoints else Path.home() / ".cache" / "glassworks" / "build" / name
    tokenizer = build_tokenizer()
    base = _base(BASES[name], Path(out)) if name in BASES else None
    run = _run(name, recipe, base, tokenizer)
    if resume:
        load_checkpoint(run, folder)
    elif (folder / CHECKPOINT).exists():
        raise BadInput(f"There is a checkpoint of {name} in {folder}: resume it, or delete it to build anew.")
    with progress(name, run.step, recipe.steps) as report:
        finished = train(run, tokenizer, folder, report)
    if not finished:
        raise KeyboardInterrupt(
            f"Stopped at step {run.step} of {recipe.steps}; `python -m recipes.smallworld {name} --resume` goes on."
        )
    card = finish(run, tokenizer, Path(out), count, base)
    (folder / CHECKPOINT).unlink()
    return card


def finish(run: Run, tokenizer: Tokenizer, out: Path, count: int, base: Path | None = None) -> dict[str, Any]:
    """Round a trained model to the number type that is stored, measure it, and write it.

    Args:
        run: at its end.
        tokenizer: the small world's.
        out: the folder to write.
        count: documents per task.
        base: folder of the base model, for an instruct model.

    Returns:
        The model's card.
    """
    model = run.model.eval().type(STORED).float()
    card = make_card(run.name, run.model, asdict(run.recipe), measure(model, tokenizer, count))
    if base is not None:
        card = with_chat(card, read_json(base / "card.json"), interview(model, tokenizer, count))
    write_model(run.model, out, card)
    return card


def _run(name: str, recipe: Recipe, base: Path | None, tokenizer: Tokenizer) -> Run:
    if base is None:
        return new_run(name, size_of(name), recipe, tokenizer.get_vocab_size())
    return new_finetune(name, base, recipe)


def _base(name: str, out: Path) -> Path:
    """The folder of a base model: beside the one that is written, or embedded."""
    beside = out.with_name(name)
    if beside.is_dir():
        return beside
    try:
        return hub.resolve(name)
    except NotFound as error:
        raise BadInput(f"There is no {name} in {out.parent}, nor embedded; build it first.") from error


def write_model(model: PreTrainedModel, out: Path, card: Mapping[str, Any]) -> None:
    """Write a model's folder (configuration, weights, tokenizer, card, manifest), in place of an older one.

    Args:
        model: the trained model.
        out: the folder.
        card: what `make_card` returned; one with "chat" makes it an instruct model.

    Raises:
        BadInput: if `out` holds something else than a model that was written here.
    """
    with replacing(out, KIND) as folder:
        model.config.use_cache = True
        if "chat" in card:
            model.generation_config.eos_token_id = [EOS, END_OF_TURN]
        rounded = {name: value.to(STORED) for name, value in model.named_parameters()}  # tied ones once
        model.save_pretrained(folder, state_dict=rounded)
        save_tokenizer(folder, chat="chat" in card)
        (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(readme(card), encoding="utf-8")
        seal(folder, KIND, {"name": card["name"]})


@contextmanager
def progress(name: str, start: int, steps: int) -> Iterator[Report]:
    """Show a progress bar on a terminal, or a line now and then elsewhere, with loss and tokens per second.

    Args:
        name: what is being trained.
        start: steps that are done already.
        steps: steps in all.

    Yields:
        What has to be called after each step with the step's number, its loss and its number of tokens.
    """
    console = Console(stderr=True)
    text = TextColumn("loss {task.fields[loss]:.3f}, {task.fields[speed]:,.0f} tokens/s")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), text, TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=steps, completed=start, loss=0.0, speed=0.0)
        began, seen, mean, line = time.monotonic(), 0, 0.0, time.monotonic()

        def report(step: int, loss: float, tokens: int) -> None:
            nonlocal seen, mean, line
            seen += tokens
            mean = loss if not mean else SMOOTHING * mean + (1 - SMOOTHING) * loss
            now = time.monotonic()
            speed = seen / max(now - began, 1e-9)
            bar.update(task, completed=step, loss=mean, speed=speed)
            if not console.is_terminal and now - line > SECONDS_BETWEEN_LINES:
                line = now
                console.print(f"{name}: step {step}/{steps}, loss {mean:.3f}, {speed:,.0f} tokens/s")

        yield report
