"""Agreement: whether a coder gives the numbers that others measured with the same weights.

    python -m recipes.agreement google/gemma-scope-2-270m-pt

The numbers lie in a JSON file beside this module, each with its source; the format is a list of objects with `scope`
(the repository), `coder` (its name there), `model`, `dtype`, `prompt` and, for the prompt's last token, `l0`,
`top_index`, `top_value` and `sum`. This module must not know any particular release.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glassworks.artefacts import read_json
from glassworks.coders import load_scope
from glassworks.errors import BadArtefact, GlassworksError, NotFound, nearest
from glassworks.models import load_model

NUMBERS = Path(__file__).with_suffix(".json")
TOLERANCE = {"l0": 2.0, "top_index": 0.0, "top_value": 0.02, "sum": 0.02}
"""Largest difference: in latents for `l0`, relative for values, which were measured in bfloat16 on a GPU."""


@dataclass(frozen=True)
class Reference:
    """Numbers that somebody measured; see the module.

    Attributes:
        scope: the repository of the coder.
        coder: its name there.
        model: the model whose activations it encodes.
        dtype: number type of the model.
        prompt: the text, tokenized as the model's tokenizer does.
        expected: number by name, of the last token's latents.
        source: where they are from.
    """

    scope: str
    coder: str
    model: str
    dtype: str
    prompt: str
    expected: dict[str, int | float]
    source: str = ""


def verify(
    reference: str, *, model: str | None = None, numbers: Path | None = None, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Encode the reference prompts and compare.

    Args:
        reference: a scope: the repository of the numbers, or a folder whose name ends as the repository's does.
        model: the model to run where it lies elsewhere than the numbers say.
        numbers: a JSON file of references; the packaged ones by default.
        device: where to run the model.

    Returns:
        One row a number: `coder`, `number`, `expected`, `found`, `agrees`.

    Raises:
        NotFound: there are no numbers of this scope.
        BadArtefact: the file holds something else.
    """
    file, rows = numbers or NUMBERS, []
    try:
        known = [Reference(**plain) for plain in read_json(file)]
    except TypeError as error:
        raise BadArtefact(f"The file {file} holds no reference numbers ({error}).") from error

    def ending(name: str) -> str:
        return name.rstrip("/").rsplit("/", 1)[-1]

    chosen = [wanted for wanted in known if ending(wanted.scope) == ending(reference)]
    if not chosen:
        raise NotFound(f"There are no numbers of {reference}; {nearest(reference, [ref.scope for ref in known])}.")
    for wanted in chosen:
        coder = load_scope(reference)[wanted.coder]
        site, loaded = coder.reads[0], load_model(model or wanted.model, dtype=wanted.dtype, device=device)
        activations = loaded.capture(wanted.prompt, [site])[site.name]
        latents = coder.encode(activations[-1:].float().cpu()).dense()[0]
        measured = {
            "l0": int((latents > 0).sum()),
            "top_index": int(latents.argmax()),
            "top_value": float(latents.max()),
            "sum": float(latents.double().sum()),
        }
        for name, value in wanted.expected.items():
            allowed = TOLERANCE[name] * (1.0 if name in ("l0", "top_index") else abs(value))
            row = {"coder": wanted.coder, "number": name, "expected": value, "found": measured[name]}
            rows.append(row | {"agrees": abs(measured[name] - value) <= allowed})
    return rows


def main() -> None:
    """Print each number and whether it agrees; exit code 1 where one does not, 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.agreement", description="Compare a coder with numbers that others measured."
    )
    parser.add_argument("reference", help="a scope with published numbers, such as a repository of the hub")
    parser.add_argument("--model", help="the model, where not the one of the numbers")
    parser.add_argument("--numbers", type=Path, help="a JSON file of numbers; the ones beside this module if unset")
    parser.add_argument("--device", default="cpu", help="where to run the model")
    words = parser.parse_args()
    try:
        rows = verify(words.reference, model=words.model, numbers=words.numbers, device=words.device)
    except GlassworksError as error:
        print(f"recipes.agreement: {error}", file=sys.stderr)
        sys.exit(2)
    for row in rows:
        word = "agrees" if row["agrees"] else "differs"
        print(f"{row['coder']}  {row['number']}: expected {row['expected']}, found {row['found']}: {word}")
    sys.exit(not all(row["agrees"] for row in rows))


if __name__ == "__main__":
    main()
