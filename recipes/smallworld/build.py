"""Building an embedded model and its scope as they are shipped, one after the other."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from glassworks import hub
from glassworks.coders import save_scope
from glassworks.features import describe
from glassworks.models import load_model
from recipes.smallworld.model import build_model
from recipes.smallworld.recipe import Recipe
from recipes.smallworld.scopes import FULL, STORED, TRANSCODERS, Suite, smallworld_scope, world_text

SHIPPED = {
    "smallworld-m": replace(FULL, seed=2),
    "smallworld-m-it": FULL,
    "smallworld-s-it": Suite((replace(TRANSCODERS.coders[0], width=512, k=22.0),)),
}
"""What the embedded scopes hold, where it is not `TRANSCODERS`.

Of three seeds for smallworld-m, which hardly differ, the one whose features change the answers of all cities most. The
smallest instruct model needs more latents to keep within a tenth of the variance unexplained."""


def build(
    name: str,
    out: Path,
    resume: bool = False,
    checkpoints: Path | None = None,
    recipe: Recipe | None = None,
    suite: Suite | None = None,
    documents: int = 8000,
    scopes: bool = False,
) -> Iterator[Path]:
    """Train a model of the family and then its scope, and write both.

    Args:
        name: a name of the family.
        out: folder that gets `NAME` and `NAME-scope`.
        resume: go on from the last checkpoint; a model that is already written is not trained again.
        checkpoints: folder for checkpoints; in the user's cache by default.
        recipe: of the model; the shipped one by default.
        suite: what its scope holds; by default what is shipped.
        documents: how many training documents the evidence of features is collected from.
        scopes: train coders of every kind, for the model as it is in `out` or embedded.

    Yields:
        Each folder once it is written.
    """
    checkpoints = checkpoints or Path.home() / ".cache" / "glassworks" / "build" / name
    there = (out / name).is_dir()
    if not scopes and not (resume and there):
        build_model(name, out / name, resume, checkpoints / "model", recipe)
        there = True
        yield out / name
    model = load_model(out / name if there else name)
    model.name = name  # wherever it lies
    suite = suite or SHIPPED.get(name, FULL if scopes else TRANSCODERS)
    scope = smallworld_scope(model, suite, checkpoints / "scope", show=True)
    describe(model, scope, world_text(model, documents, "train", 0)[0])
    save_scope(scope, out / (name + hub.SUFFIX["scope"]), STORED)
    yield out / (name + hub.SUFFIX["scope"])
