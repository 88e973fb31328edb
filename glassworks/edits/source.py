"""Sources: the run on another prompt from which a patch takes its values.

The other run is that of the model as it is by itself, without any edit. This module must not know what is patched.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks.edits.acting import Places, current
from glassworks.edits.parts import Part
from glassworks.edits.where import Where, named_positions, plain_where, read_where, said
from glassworks.errors import BadInput
from glassworks.models import Model


@final
@dataclass(frozen=True)
class Source:
    """Another prompt, and its tokens whose values are taken.

    Attributes:
        prompt: text, or token ids.
        where: which tokens, in the order of those that they replace; None is those that the edit names, in this
            prompt.
    """

    prompt: str | tuple[int, ...]
    where: Where | None = None

    def __str__(self) -> str:
        shown = repr(self.prompt) if isinstance(self.prompt, str) else f"{len(self.prompt)} tokens"
        return shown + ("" if self.where is None else said(self.where))

    def plain(self) -> dict[str, Any]:
        """The source as JSON values; `read_source` reads it back."""
        prompt = self.prompt if isinstance(self.prompt, str) else list(self.prompt)
        return {"prompt": prompt, "where": None if self.where is None else plain_where(self.where)}

    def values(self, part: Part, where: Where, model: Model) -> "Values":
        """Run the prompt and read a part's coordinates at its tokens.

        Raises:
            BadInput: the edit means no token of a prompt, or one outside this one.
        """
        prompt = self.prompt if isinstance(self.prompt, str) else list(self.prompt)
        tokens = model.tokens(prompt).tolist()
        positions = named_positions(where if self.where is None else self.where, len(tokens), model.spans(tokens))
        if not positions:
            raise BadInput("A patch replaces tokens of the prompt; name some, not what is generated.")
        with model.taps.exactly(()):
            captured = model.capture(tokens, [part.site])[part.site.name]
        return Values(part.read(captured.float().flatten(1)[positions]))


@final
class Values:
    """Coordinates of a source's tokens, in the order in which they are named."""

    def __init__(self, coordinates: Float[Tensor, "source k"]) -> None:
        self._coordinates = coordinates

    def at(self, places: Places, row: Int[Tensor, " token"], position: Int[Tensor, " token"]) -> Tensor:
        """The values (1, token, k) for tokens of the run; BadInput where not as many tokens are named there."""
        named = places.named(current(places.model))
        count = len(self._coordinates)
        if any(len(each) != count for each in named):
            wrong = next(len(each) for each in named if len(each) != count)
            raise BadInput(f"The patch takes {count} tokens of its source for {wrong}; name as many in both prompts.")
        numbers = [named[r].index(p) for r, p in zip(row.tolist(), position.tolist(), strict=True)]
        return self._coordinates[torch.tensor(numbers, device=self._coordinates.device)][None]


def read_source(plain: Mapping[str, Any] | None) -> Source | None:
    """Read a source back; KeyError or TypeError where it is none."""
    if plain is None:
        return None
    prompt, where = plain["prompt"], plain.get("where")
    given = prompt if isinstance(prompt, str) else tuple(int(each) for each in prompt)
    return Source(given, None if where is None else read_where(where))
