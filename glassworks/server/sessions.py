"""What needs the model itself: attention behind a graph, graphs of other targets of its prompt, and edits.

Models are loaded when they are first needed.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from threading import Lock
from typing import Any, final

from torch import Tensor

from glassworks.circuits import Attention, Graph, explain_attention, parse, trace
from glassworks.coders import Scope, load_scope
from glassworks.edits import outcome, read_edit
from glassworks.errors import BadInput, NotFound
from glassworks.models import Model, load_model

CACHED = 2
MOST_TARGETS, LONGEST_TARGET = 20, 300
MOST_EDITS, CONTINUED = 20, 16


@final
@dataclass(eq=False)
class Sessions:
    """Runs models for the page, one thing at a time.

    Attributes:
        scope: the scope, or its name, to be used instead of the one that a graph names.
    """

    scope: Scope | str | None = None
    lock: Lock = field(default_factory=Lock, repr=False)

    @cached_property
    def models(self) -> Callable[[str, str], tuple[Model, Scope | None]]:
        """Loads a model and a scope by their names; the last ones are kept."""

        def load(model: str, name: str) -> tuple[Model, Scope | None]:
            return load_model(model), self.scope if isinstance(self.scope, Scope) else load_scope(
                name
            ) if name else None

        return lru_cache(CACHED)(load)

    def attention(self, graph: Graph) -> Attention:
        """Explain a graph's attention; hold the lock while the result works."""
        model, scope = self._open(graph)
        return explain_attention(model, graph, scope)

    def trace(self, graph: Graph, value: Any, read: Callable[[str], Tensor]) -> Graph:
        """Trace a graph's prompt again, for other targets; pins and groups of features are kept.

        Args:
            graph: gives prompt, model and scope.
            value: `{"targets": [text...]}`, as text, see `circuits.targets`.
            read: finds the vector of a direction by name.
        """
        texts = value.get("targets") if isinstance(value, dict) else None
        if not isinstance(texts, list) or not 0 < len(texts) <= MOST_TARGETS:
            raise BadInput(f'Targets are written {{"targets": [text...]}}, 1 to {MOST_TARGETS} of them.')
        wrong = [text for text in texts if not isinstance(text, str) or not 0 < len(text) <= LONGEST_TARGET]
        if wrong:
            raise BadInput(f"A target is {str(wrong[0])[:40]!r}; targets are texts of 1 to {LONGEST_TARGET} "
                           "characters.")  # fmt: skip
        with self.lock:
            model, scope = self._open(graph)
            targets = [parse(text, model, read) for text in texts]
            same = model.tokenizer is not None and tuple(model.tokens(graph.prompt).tolist()) == graph.tokens
            made = trace(model, scope, graph.prompt if same else graph.tokens, targets=targets)
        fits = made.nodes.sources == graph.nodes.sources
        kept = {name: list(group.nodes) for name, group in graph.supernodes.items()} if fits else {}
        for name, numbers in kept.items():
            made.group(name, [number for number in numbers if number < made.nodes.sources])
        return replace(made, pinned=[number for number in graph.pinned if number < made.nodes.sources] if fits else [])

    def edit(self, graph: Graph, value: Any) -> dict[str, Any]:
        """What edits do to a graph's prompt, as an `edits.Outcome`.

        Args:
            graph: gives prompt, model and scope.
            value: `{"edits": [...]}`, each as `Edit.plain` writes it.
        """
        plain = value.get("edits") if isinstance(value, dict) else None
        if (
            not isinstance(plain, list)
            or not all(isinstance(edit, dict) for edit in plain)
            or not 0 < len(plain) <= MOST_EDITS
        ):
            raise BadInput(f'Edits are written {{"edits": [edit...]}}, 1 to {MOST_EDITS} of them.')
        with self.lock:
            model, scope = self._open(graph)
            edits = [read_edit(edit, scope) for edit in plain]
            return outcome(model, list(graph.tokens), edits, new_tokens=CONTINUED).plain()

    def _open(self, graph: Graph) -> tuple[Model, Scope | None]:
        if not graph.origin.facts.get("targets"):
            raise NotFound("This graph was not traced by Glassworks, so its model cannot be run again; trace it here.")
        given = self.scope.name if isinstance(self.scope, Scope) else self.scope
        return self.models(graph.model, given or graph.origin.scope)


def slug(name: str, targets: Any) -> str:
    """A name for the graph of other targets."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", " ".join(targets)).strip("-").lower()
    return f"{name[:80]}-{words[:60] or 'other'}"
