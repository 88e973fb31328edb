"""Features by name: which latent of which coder, at which token. This module must not know what is done to them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

from glassworks.errors import BadInput

WRITTEN = re.compile(r"(.+)/(\d+)(?:@(-?\d+))?")


@final
@dataclass(frozen=True, order=True)
class FeatureRef:
    """One feature at one position.

    Attributes:
        coder_id: the coder, by its id in the scope: `"mlp_in.2"`.
        position: which token of the prompt, negative from its end; None is every token.
        index: which latent of the coder.
    """

    coder_id: str
    position: int | None
    index: int

    def __str__(self) -> str:
        return f"{self.coder_id}/{self.index}" + ("" if self.position is None else f"@{self.position}")

    @classmethod
    def parse(cls, text: str) -> "FeatureRef":
        """Read it from `mlp_in.2/17`, or `mlp_in.2/17@4` at a token; BadInput where the text is something else."""
        found = WRITTEN.fullmatch(text)
        if found is None:
            raise BadInput(f"The text {text!r} is no feature; write CODER/INDEX or CODER/INDEX@POSITION, mlp_in.2/17.")
        coder, index, position = found.groups()
        return cls(coder, None if position is None else int(position), int(index))


@runtime_checkable
class Supernode(Protocol):
    """A named group of features that knows its scope."""

    @property
    def features(self) -> Sequence[Any]:
        """Its features: each with `coder_id`, `position` and `index`."""
        ...

    @property
    def scope(self) -> Any:
        """Gives a coder by id, `scope["mlp_in.2"]`."""
        ...
