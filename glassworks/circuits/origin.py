"""Where a graph comes from, as plain values that every format can hold. This module must not know tensors."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, final

from glassworks.errors import BadArtefact


@final
@dataclass(frozen=True)
class Origin:
    """What a graph was traced from.

    Attributes:
        model: name of the model.
        scope: name of the scope, "" where there was none.
        prompt: the prompt as text.
        tokens: its token ids.
        token_texts: what each token shows.
        coders: place -> id of the coder whose features lie there: `mlp.2` -> `mlp_in.2`; see `Node.place`.
        facts: whatever else is known, as plain JSON values: seconds, thresholds, another program's metadata.
    """

    model: str
    scope: str
    prompt: str
    tokens: tuple[int, ...]
    token_texts: tuple[str, ...]
    coders: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """The values as JSON holds them."""
        return asdict(self)

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> "Origin":
        """Read what `plain` wrote; BadArtefact where something is missing."""
        try:
            return cls(
                model=plain["model"],
                scope=plain["scope"],
                prompt=plain["prompt"],
                tokens=tuple(plain["tokens"]),
                token_texts=tuple(plain["token_texts"]),
                coders=dict(plain["coders"]),
                facts=plain["facts"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadArtefact(f"The graph's origin lacks or misstates {error}; trace the prompt again.") from error
