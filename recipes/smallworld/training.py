"""The training loop of the small models: one thread, checkpoints every few minutes, exact resume.

An instruct model is fine-tuned by the same loop: its weights begin at those of a base model, and conversations are read
with base documents among them.

All randomness comes from the recipe's seed: the weights from the seed itself, the batch of a step from the seed and the
step's number. A checkpoint therefore holds weights, optimisers and the step, and a resumed run ends with bit-identical
weights. This file must not know how models are measured or stored.
"""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from tokenizers import Tokenizer
from torch import Tensor
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from glassworks.errors import BadArtefact, BadInput
from glassworks.smallworld import finetuning, stream
from recipes.smallworld.packing import BATCHES_PER_PART, Rows, Stream, training_rows
from recipes.smallworld.recipe import Recipe, Size
from recipes.smallworld.tokenizer import BOS, CONTEXT, EOS, PAD

SLIDING_WINDOW = 64
CHECKPOINT = "checkpoint.pt"
SECONDS_BETWEEN_CHECKPOINTS = 300.0
Report = Callable[[int, float, int], None]


@dataclass
class Run:
    """A model in training: the model, its optimisers, what it reads, and how many steps are done."""

    name: str
    recipe: Recipe
    model: Gemma3ForCausalLM
    optimisers: list[torch.optim.Optimizer]
    stream: Stream = stream
    step: int = 0

    def identity(self) -> dict[str, Any]:
        """Return what has to agree for a checkpoint to belong to this run."""
        return {"name": self.name, "recipe": asdict(self.recipe), "vocabulary": self.model.config.vocab_size}


def config(size: Size, vocabulary: int) -> Gemma3TextConfig:
    """Return the transformers configuration of a size.

    Args:
        size: the model's shape.
        vocabulary: number of tokens.
    """
    head = size.width // size.heads
    every_other = ["full_attention" if layer % 2 else "sliding_attention" for layer in range(size.layers - 1)]
    return Gemma3TextConfig(
        vocab_size=vocabulary,
        hidden_size=size.width,
        intermediate_size=size.mlp,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=1,
        head_dim=head,
        query_pre_attn_scalar=head,
        max_position_embeddings=CONTEXT,
        sliding_window=SLIDING_WINDOW,
        layer_types=[*every_other, "full_attention"],
        initializer_range=0.02,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )


def new_run(name: str, size: Size, recipe: Recipe, vocabulary: int) -> Run:
    """Return a run at step 0, its weights drawn from the recipe's seed.

    Args:
        name: the model's name.
        size: its shape.
        recipe: how to train it.
        vocabulary: number of tokens.
    """
    torch.manual_seed(recipe.seed)
    model = Gemma3ForCausalLM(config(size, vocabulary))
    table = model.model.embed_tokens.weight
    torch.nn.init.normal_(table, std=size.width**-0.5)
    return Run(name, recipe, model, optimisers_of(model, recipe))


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


def optimisers_of(model: Gemma3ForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Freeze the embedding table and return Muon for the matrices and AdamW for the norms."""
    model.model.embed_tokens.weight.requires_grad_(False)
    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    matrices = [value for _, value in named if value.ndim == 2]
    vectors = [value for _, value in named if value.ndim != 2]
    return [
        torch.optim.Muon(
            matrices,
            lr=recipe.rate,
            weight_decay=recipe.weight_decay,
            momentum=0.95,
            ns_steps=4,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(vectors, lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train(run: Run, tokenizer: Tokenizer, folder: Path, report: Report) -> bool:
    """Train a run to its end, with checkpoints, and stop early on SIGINT or SIGTERM.

    Args:
        run: where to start; it is changed in place.
        tokenizer: the small world's tokenizer.
        folder: where checkpoints go.
        report: called after every step with the step's number, its loss and its number of tokens.

    Returns:
        Whether the run reached its last step.
    """
    stopped: list[int] = []
    threads, before = torch.get_num_threads(), {}
    torch.set_num_threads(1)  # small matrices gain nothing from more threads, and sums keep their order
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, lambda number, frame: stopped.append(number))
    except ValueError:
        pass  # only the main thread may set handlers; elsewhere the caller has to stop us
    try:
        saved, rows = time.monotonic(), None
        while run.step < run.recipe.steps and not stopped:
            part, index = divmod(run.step, BATCHES_PER_PART)
            if rows is None or index == 0:
                rows = training_rows(tokenizer, run.recipe, part, run.stream)
            batch = rows.slice(index * run.recipe.rows, (index + 1) * run.recipe.rows)
            for group in (group for optimiser in run.optimisers for group in optimiser.param_groups):
                group["lr"] = rate_at(run.step, run.recipe)
            loss = loss_of(run.model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
            for optimiser in run.optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            run.step += 1
            report(run.step, loss.item(), int((batch.documents >= 0).sum()))
            if time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                save_checkpoint(run, folder)
                saved = time.monotonic()
    finally:
        torch.set_num_threads(threads)
        for number, handler in before.items():
            signal.signal(number, handler)
    save_checkpoint(run, folder)
    return run.step == run.recipe.steps


def rate_at(step: int, recipe: Recipe) -> float:
    """Return the learning rate of a step (counted from 0): linear warm-up, level, linear decay."""
    left = 1.0 - step / recipe.steps
    return recipe.rate * min(1.0, (step + 1) / recipe.warmup) * min(1.0, left / recipe.decay)


def loss_of(model: Gemma3ForCausalLM, rows: Rows) -> Float[Tensor, ""]:
    """Return the weighted mean of the next-token losses of packed rows."""
    mask = rows.mask()
    hidden = model.model(
        input_ids=rows.ids,
        attention_mask={"full_attention": mask, "sliding_attention": mask},
        position_ids=rows.positions,
        use_cache=False,
    ).last_hidden_state
    weights = rows.weights[:, 1:]
    counted = weights > 0
    logits = model.lm_head(hidden[:, :-1][counted])
    losses = torch.nn.functional.cross_entropy(logits, rows.ids[:, 1:][counted], reduction="none")
    return (losses * weights[counted]).sum() / weights[counted].sum()


def save_checkpoint(run: Run, folder: Path) -> None:
    """Write the run's checkpoint, in place of an older one, so that a crash leaves one of the two."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "identity": run.identity(),
        "step": run.step,
        "model": run.model.state_dict(),
        "optimisers": [optimiser.state_dict() for optimiser in run.optimisers],
    }
    fresh = folder / f"{CHECKPOINT}.new"
    torch.save(state, fresh)
    os.replace(fresh, folder / CHECKPOINT)


def load_checkpoint(run: Run, folder: Path) -> None:
    """Put a run into the state of its checkpoint.

    Raises:
        BadInput: if there is no checkpoint, or it belongs to another model or recipe.
        BadArtefact: if it cannot be read.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        raise BadInput(f"There is no checkpoint to resume in {folder}: build without resume first.")
    try:
        state = torch.load(path, weights_only=True)
    except Exception as error:
        raise BadArtefact(f"The checkpoint {path} cannot be read ({error}); delete it and build anew.") from error
    if state["identity"] != run.identity():
        raise BadInput(
            f"The checkpoint {path} belongs to another model or recipe ({state['identity']}, not {run.identity()}); "
            "give another folder of checkpoints, or delete it and build anew."
        )
    run.step = state["step"]
    run.model.load_state_dict(state["model"])
    for optimiser, saved in zip(run.optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(saved)
