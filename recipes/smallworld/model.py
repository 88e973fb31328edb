"""Building a model of the family: train or fine-tune it, measure it, and write its folder, all of it or nothing.

The folder is one that transformers loads as it is, with a card that states what was measured of the weights as they
are stored. This file must not know how a training step works, nor what a task looks like.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from glassworks import hub
from glassworks.artefacts import check_output, read_json, replacing, seal
from glassworks.errors import BadInput, NotFound, nearest
from glassworks.models import Model
from glassworks.pages import progress_line
from glassworks.studies import interview, measure
from recipes.smallworld.card import make_card, readme, with_chat
from recipes.smallworld.recipe import BASES, RECIPES, SIZES, Recipe
from recipes.smallworld.tokenizer import END_OF_TURN, EOS, build_tokenizer, fast_tokenizer, save_tokenizer
from recipes.smallworld.training import CHECKPOINT, Run, load_checkpoint, new_finetune, new_run, train

KIND = "model"
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
    if name not in RECIPES:
        raise NotFound(f"There is no recipe for {name!r}; {nearest(name, RECIPES)}.")
    out, recipe = Path(out), recipe or RECIPES[name]
    check_output(out, KIND)
    folder = Path(checkpoints) if checkpoints else Path.home() / ".cache" / "glassworks" / "build" / name
    tokenizer, base = build_tokenizer(), None
    if name in BASES:
        base = out.with_name(BASES[name])
        try:
            base = base if base.is_dir() else hub.resolve(BASES[name])
        except NotFound as error:
            raise BadInput(f"There is no {BASES[name]} in {out.parent}, nor embedded; build it first.") from error
        run = new_finetune(name, base, recipe)
    else:
        run = new_run(name, SIZES[name], recipe, tokenizer.get_vocab_size())
    if resume:
        load_checkpoint(run, folder)
    elif (folder / CHECKPOINT).exists():
        raise BadInput(f"There is a checkpoint of {name} in {folder}: resume it, or delete it to build anew.")
    with progress(name, recipe.steps) as report:
        finished = train(run, tokenizer, folder, report)
    if not finished:
        raise KeyboardInterrupt(
            f"Stopped at step {run.step} of {recipe.steps}; `python -m recipes.smallworld {name} --resume` goes on."
        )
    card = finish(run, tokenizer, out, count, base)
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
    rounded = run.model.eval().type(STORED).float()
    model = Model(rounded, fast_tokenizer(tokenizer), run.name)
    card = make_card(run.name, rounded, asdict(run.recipe), measure(model, count))
    if base is not None:
        card = with_chat(card, read_json(base / "card.json"), interview(model, count))
    write_model(rounded, out, card)
    return card


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
def progress(name: str, steps: int) -> Iterator[Callable[[int, float, int], None]]:
    """Show loss and tokens per second on stderr.

    Yields:
        What has to be called after each step with the step's number, its loss and its number of tokens.
    """
    began, seen, mean = time.monotonic(), 0, 0.0
    with progress_line(name) as update:

        def report(step: int, loss: float, tokens: int) -> None:
            nonlocal seen, mean
            seen += tokens
            mean = SMOOTHING * mean + (1 - SMOOTHING) * loss if mean else loss
            speed = seen / max(time.monotonic() - began, 1e-9)
            update(f"{name}: step {step}/{steps}, loss {mean:.3f}, {speed:,.0f} tokens/s")

        yield report
