"""Building a model of the family: train it, measure it, and write its folder, all of it or nothing.

The folder is one that transformers loads as it is, with a card that states what was measured. This file must not know
how a training step works, nor what a task looks like.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from glassworks.artefacts import check_output, replacing, seal
from glassworks.errors import BadInput
from glassworks.smallworld.check import AIMS, MOST_STATE_IN_EMBEDDING, measure
from glassworks.smallworld.pretrain import CHECKPOINT, Run, load_checkpoint, new_run, train
from glassworks.smallworld.progress import progress
from glassworks.smallworld.recipe import RECIPES, Recipe, size_of
from glassworks.smallworld.tokenizer import build_tokenizer, save_tokenizer

KIND = "model"
README = """---
license: apache-2.0
language: [en, fr, es]
library_name: transformers
pipeline_tag: text-generation
---
# {name}

A small Gemma 3 language model ({parameters:,} parameters) that learned a small world of true facts and plain sentences,
so that its circuits can be checked against known answers. It is trained from scratch on generated text; its embedding
table is random and frozen. It knows nothing outside its world.

Built with `glassworks smallworld build {name}`: {steps:,} steps of {rows} rows of {length} tokens, seed {seed}.

| measured with seeds that training did not use | share |
|---|---|
{table}

"composed" is two hops (the capital of the state containing a city), "held_out" cities or sums that training never
composed or added. Locations, attributes, agreement, copying, induction and brackets are sentences that training left
out; antonyms, translations, plurals and words are facts that it had to be told. "location_short" is the form "... is
in", which training also goes on with "a state with ...", so that its answer is not sure. "state_in_embedding" is the
share of cities whose nearest neighbour by raw embedding lies in the same state, which should be low.
"""


def build(
    name: str,
    out: Path | str,
    resume: bool = False,
    checkpoints: Path | str | None = None,
    recipe: Recipe | None = None,
    count: int = 500,
) -> dict[str, Any]:
    """Train a model of the family, measure it, and write its folder.

    Args:
        name: a key of `SIZES`.
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
    size, recipe = size_of(name), recipe or RECIPES[name]
    check_output(Path(out), KIND)
    folder = Path(checkpoints) if checkpoints else Path.home() / ".cache" / "glassworks" / "build" / name
    tokenizer = build_tokenizer()
    run = new_run(name, size, recipe, tokenizer.get_vocab_size())
    if resume:
        load_checkpoint(run, folder)
    elif (folder / CHECKPOINT).exists():
        raise BadInput(f"There is a checkpoint of {name} in {folder}: resume it, or delete it to build anew.")
    with progress(name, run.step, recipe.steps) as report:
        finished = train(run, tokenizer, folder, report)
    if not finished:
        raise KeyboardInterrupt(
            f"Stopped at step {run.step} of {recipe.steps}; `glassworks smallworld build {name} --resume` goes on."
        )
    run.model.eval()
    card = make_card(run, measure(run.model, tokenizer, count))
    write_model(run.model, Path(out), card)
    (folder / CHECKPOINT).unlink()
    return card


def make_card(run: Run, results: Mapping[str, float]) -> dict[str, Any]:
    """Return the model card of a run as plain values, accuracies rounded to 4 digits."""
    missed = [name for name, aim in AIMS.items() if results[name] < aim]
    if results["state_in_embedding"] > MOST_STATE_IN_EMBEDDING:
        missed.append("state_in_embedding")
    return {
        "name": run.name,
        "parameters": sum(value.numel() for value in run.model.parameters()),
        "recipe": asdict(run.recipe),
        "measured": {name: round(value, 4) for name, value in sorted(results.items())},
        "missed_aims": missed,
    }


def write_model(model: PreTrainedModel, out: Path, card: Mapping[str, Any]) -> None:
    """Write a model's folder (configuration, weights, tokenizer, card, manifest), in place of an older one.

    Args:
        model: the trained model.
        out: the folder.
        card: what `make_card` returned.

    Raises:
        BadInput: if `out` holds something else than a model that was written here.
    """
    with replacing(out, KIND) as folder:
        model.config.use_cache = True
        model.save_pretrained(folder)
        save_tokenizer(folder)
        (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(_readme(card), encoding="utf-8")
        seal(folder, KIND, {"name": card["name"]})


def _readme(card: Mapping[str, Any]) -> str:
    table = "\n".join(f"| {name} | {value:.3f} |" for name, value in card["measured"].items())
    return README.format(name=card["name"], parameters=card["parameters"], table=table, **card["recipe"])
