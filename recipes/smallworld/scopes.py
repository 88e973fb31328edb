"""The embedded models' scopes: the recipe with which they are shipped.

The text is harvested once, and every kind of coder learns from the same store, all its layers in one trainer. Coders
that replace the MLPs then go through a second stage, all together in the replaced model.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import final

import torch

from glassworks import smallworld
from glassworks.coders import Crosscoder, Scope, Shelf, Transcoder, replacement_of
from glassworks.errors import BadInput
from glassworks.experiments import evaluate
from glassworks.harvest import Activations, Reading, Rows, harvest, load_store
from glassworks.models import Model
from glassworks.train import (
    Adam,
    AuxK,
    BatchTopK,
    Dead,
    Divergence,
    Layout,
    Ramp,
    Rate,
    Reconstruction,
    Spec,
    Start,
    Trainer,
    fit,
    layouts,
)

FIRST = 1
"""Position 0 holds the beginning-of-text token, whose activations are one constant: nothing to learn there."""

DOCUMENTS, HELD_OUT = 16_000, 2_000
"""Documents of the small world that its scope is trained and measured on."""

MLP = ("mlp_in", "mlp_out")
STORED = torch.bfloat16
"""Number type in which the weights of scopes are stored; thresholds stay float32."""


@final
@dataclass(frozen=True)
class Coders:
    """One kind of coder in a suite, at all layers of a model.

    Attributes:
        kind: one of `layouts.KINDS`.
        sites: the kinds of sites that they read and write.
        width: latents of each part.
        k: active latents per token in the end, of each part.
        steps: of training on the true model's rows.
        joint_steps: after that, of training all layers in the replaced model.
    """

    kind: str
    sites: tuple[str, ...]
    width: int
    k: float
    steps: int = 1500
    joint_steps: int = 0

    def specs(self, layouts: Sequence[Layout], suite: "Suite") -> list[Spec]:
        """The first stage's: BatchTopK with k annealed from 4 times its end, AuxK, the error on centred rows."""
        return [
            Spec(
                name=layout.name,
                layout=layout,
                width=self.width,
                gate=BatchTopK(Ramp(self.k, 4.0 * self.k, round(0.4 * self.steps))),
                terms=((Ramp(1.0), Reconstruction()), (Ramp(1 / 8), AuxK())),
                adam=Adam(Rate(2e-3, 50, round(0.3 * self.steps)), (0.9, 0.99)),
                steps=self.steps,
                start=Start(decoder=0.3),
                dead=Dead(20 * suite.rows),
                seed=suite.seed + number,
                l0=self.k,
                tags=("affine",) if layout.skip else (),
            )
            for number, layout in enumerate(layouts)
        ]


@final
@dataclass(frozen=True)
class Suite:
    """The coders of a scope, and what they share.

    Attributes:
        coders: of each kind; the first ones that write all MLP outputs replace the MLPs in a trace.
        rows: tokens per step.
        tokens: tokens of text per step in the replaced model.
        flatten: how much more often rare tokens and pairs are drawn than they occur, 0 to 1.
        divergence: weight of the replaced model's divergence.
        seed: of everything that is drawn.
    """

    coders: tuple[Coders, ...]
    rows: int = 1024
    tokens: int = 1024
    flatten: float = 0.6
    divergence: float = 1.0
    seed: int = 0


TRANSCODERS = Suite((Coders("transcoder", MLP, 384, 12.0, joint_steps=100),))
"""What replaces the MLPs, and nothing else; as narrow as the size of a wheel asks for."""

FULL = Suite(
    (
        Coders("transcoder", MLP, 1536, 8.0, joint_steps=100),
        Coders("skip_transcoder", MLP, 512, 10.0, joint_steps=100),
        Coders("clt", MLP, 512, 8.0, joint_steps=100),
        Coders("sae", ("resid_post",), 768, 30.0),
        Coders("sae", ("attn_out", "mlp_out"), 384, 30.0),
        Coders("crosscoder", ("resid_post",), 512, 30.0),
    )
)
"""Every kind of coder."""


def train_suite(
    model: Model,
    documents: Sequence[Sequence[int]],
    suite: Suite,
    folder: Path | None = None,
    show: bool = False,
) -> Scope:
    """Train coders of several kinds at every layer of a model, from one harvest.

    BatchTopK with k annealed (Bussmann et al. 2024), AuxK (Gao et al. 2024), tokens drawn with flattened frequency.
    In the second stage the error of each layer on the true model's rows stays in the loss, so that the coders remain
    faithful to their own layer, and the divergence of the replaced model is added, so that errors which compound over
    the layers are learned away.

    Args:
        model: frozen.
        documents: token ids each, with the beginning-of-text token.
        suite: what to train.
        folder: for the harvest, checkpoints and metrics; a training that was interrupted goes on exactly.
        show: whether to show how it goes.

    Returns:
        A scope of folded JumpReLU coders, without labels or evidence.
    """
    with TemporaryDirectory() as temporary:
        store = (folder or Path(temporary)) / "store"
        sites = [site for coders in suite.coders for kind in coders.sites for site in model.sites(kind)]
        harvest(model, documents, list(dict.fromkeys(sites)), store, Reading(untrained=("bos",)))
        rows = load_store(store)
        scopes = [_trained(model, documents, rows, suite, coders, folder, show) for coders in suite.coders]
    entries = [entry for scope in scopes for entry in scope.entries]
    built = {name: scope[name] for scope in scopes for name in scope}
    replacements = [names for scope in scopes if (names := replacement_of(scope.entries))]
    failed = {name: why for scope in scopes for name, why in scope.metrics.get("failed", {}).items()}
    return replace(
        scopes[0],
        coders=Shelf(entries, built),
        replacement=replacements[0] if replacements else [],
        metrics={"failed": failed} if failed else {},
    )


def smallworld_scope(model: Model, suite: Suite = TRANSCODERS, folder: Path | None = None, show: bool = False) -> Scope:
    """Train and measure the scope of an embedded model, as it is shipped.

    Args:
        model: an embedded model, or one of its family.
        suite: what to train.
        folder: for the harvest, checkpoints and metrics.
        show: whether to show how it goes.

    Returns:
        The scope with `metrics` on held-out text; `features.describe` adds labels and evidence.
    """
    documents, _ = world_text(model, DOCUMENTS, "train", suite.seed)
    scope = train_suite(model, documents, suite, folder, show)
    for coder in scope.single.values():  # so that what is measured is what is shipped
        assert isinstance(coder, Transcoder | Crosscoder)
        for weight in coder.weights().values():
            weight.copy_(weight.to(STORED))
    held_out, answers = world_text(model, HELD_OUT, "held_out", suite.seed + 1)
    scope.metrics |= evaluate(model, scope, held_out, answers, alone=False) | {"recipe": asdict(suite)}
    return scope


def world_text(model: Model, count: int, split: str, seed: int) -> tuple[list[list[int]], list[list[bool]]]:
    """Draw documents of the small world as token ids, and which of their tokens are answers.

    Args:
        model: its tokenizer is used; one with a chat template reads conversations as well.
        count: how many documents.
        split: "train" or "held_out".
        seed: of the stream; the model itself was trained on parts of another one.

    Raises:
        BadInput: the model has no tokenizer.
    """
    if model.tokenizer is None:
        raise BadInput(f"The model {model.name} has no tokenizer; the text of the small world cannot be read.")
    stream = smallworld.finetuning if model.tokenizer.chat_template else smallworld.stream
    documents = list(islice(stream(1000 + seed, 0, split), count))
    tokens, answers = [], []
    for document in documents:
        encoding = model.tokenizer(document.text, return_offsets_mapping=True)
        marks = [
            any(stop > first and start < last for first, last in document.spans)
            for start, stop in encoding["offset_mapping"]
        ]
        tokens.append([*encoding["input_ids"], model.tokenizer.eos_token_id])
        answers.append([*marks, False])
    return tokens, answers


def _trained(
    model: Model,
    documents: Sequence[Sequence[int]],
    rows: Activations,
    suite: Suite,
    coders: Coders,
    folder: Path | None,
    show: bool,
) -> Scope:
    """The coders of one kind."""
    words = "-".join((coders.kind, *coders.sites))
    stages = {stage: None if folder is None else folder / f"{words}-{stage}" for stage in ("layers", "model")}
    sites = [site for kind in coders.sites for site in model.sites(kind)]
    specs = coders.specs(layouts(coders.kind, sites), suite)
    trainer = Trainer(specs, Rows(rows, suite.rows, suite.flatten, suite.seed + 1))
    fit(trainer, stages["layers"], resume=True, show=show)
    if coders.joint_steps:
        alone, steps = trainer, coders.joint_steps
        rate, gate = Rate(1e-3, 50, round(0.3 * steps)), BatchTopK(Ramp(coders.k))
        joint = [replace(spec, gate=gate, adam=replace(spec.adam, rate=rate), steps=steps) for spec in specs]
        trainer = Trainer(joint, Rows(rows, suite.rows, suite.flatten, suite.seed + 2))
        for run, before in zip(trainer.runs, alone.runs, strict=True):  # optimisers begin anew
            run.load_state_dict(before.state_dict())
            run.failed = before.failed
        divergence = Divergence(model, documents, suite.tokens, 3, suite.divergence, FIRST)
        fit(trainer, stages["model"], resume=True, auxiliary=divergence, show=show)
    trainer.stream = Rows(rows, 4 * suite.rows, 0.0, suite.seed)  # thresholds belong to text as it is
    return trainer.scope(f"{model.name}-scope", model.name)
