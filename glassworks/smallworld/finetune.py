"""Making an instruct model of a base model: a short fine-tuning on conversations, with base documents among them.

The same loop, optimisers and checkpoints as in training; what differs is where the weights begin and what is read.
This file must not know how models are measured or stored.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import Gemma3ForCausalLM

from glassworks.smallworld.chat import finetuning
from glassworks.smallworld.pretrain import Run, optimisers_of
from glassworks.smallworld.recipe import SIZES, Recipe

SUFFIX = "-it"
BASES: Mapping[str, str] = {name + SUFFIX: name for name in SIZES}
"""Instruct model -> base model."""


def new_finetune(name: str, base: Path, recipe: Recipe) -> Run:
    """Return a fine-tuning at step 0, its weights those of a base model.

    Args:
        name: the instruct model's name.
        base: the base model's folder.
        recipe: how to train it.
    """
    model = Gemma3ForCausalLM.from_pretrained(base, local_files_only=True, dtype=torch.float32)
    model.train()
    return Run(name, recipe, model, optimisers_of(model, recipe), finetuning)
