"""Evidence of features for the page: token ids turned into texts, whatever the scope has.

It opens a graph's scope by the name that the graph carries, or the one that the server was given. This module must
not know HTTP or pages.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, final

from torch import Tensor

from glassworks.circuits import Graph
from glassworks.coders import Evidence, Scope, load_scope
from glassworks.errors import NotFound
from glassworks.models import load_vocabulary


@final
@dataclass(eq=False)
class Witness:
    """Says what is known of the features of one scope.

    Attributes:
        scope: the coders with labels and evidence.
        model: reference of the scope's model, for its tokenizer.
    """

    scope: Scope
    model: str
    _texts: dict[int, str] = field(default_factory=dict, repr=False)

    @cached_property
    def _text_of(self) -> Callable[[int], str]:
        return load_vocabulary(self.model).text

    def text(self, token: int) -> str:
        """What a token shows."""
        if token not in self._texts:
            self._texts[token] = self._text_of(token)
        return self._texts[token]

    def details(self, coder: str, index: int) -> dict[str, Any]:
        """Everything known of one feature, as JSON values; empty lists where nothing was collected.

        Raises:
            NotFound: the scope has no such coder, or the coder no such feature.
        """
        size = self.scope[coder].d_latent
        if not 0 <= index < size:
            raise NotFound(f"The coder {coder} has features 0 to {size - 1}; there is no {index}.")
        evidence = self.scope.evidence(coder)
        label = self.scope.label(coder, index)
        return {"coder": coder, "index": index, "label": label} | (
            _NOTHING if evidence is None else self._known(evidence, index)
        )

    def _known(self, evidence: Evidence, index: int) -> dict[str, Any]:
        tokens = self._pairs(evidence.top_token_ids[index], evidence.top_token_weights[index], "weight")
        return {
            "density": float(evidence.density[index]),
            "max_activation": float(evidence.max_activation[index]),
            "top_tokens": tokens,
            "context_tokens": self._names(evidence.context_token_ids[index]),
            "following_tokens": self._names(evidence.following_token_ids[index]),
            "top_logits": self._pairs(evidence.top_logit_ids[index], evidence.top_logit_values[index], "value"),
            "bottom_logits": self._pairs(
                evidence.bottom_logit_ids[index], evidence.bottom_logit_values[index], "value"
            ),
            "examples": self._examples(evidence.example_tokens[index], evidence.example_activations[index]),
        }

    def _names(self, ids: Tensor) -> list[str]:
        return [self.text(token) for token in ids.tolist() if token >= 0]

    def _pairs(self, ids: Tensor, values: Tensor, name: str) -> list[dict[str, Any]]:
        pairs = zip(ids.tolist(), values.tolist(), strict=True)
        return [{"token": self.text(token), name: float(f"{value:.4g}")} for token, value in pairs if token >= 0]

    def _examples(self, tokens: Tensor, activations: Tensor) -> list[dict[str, Any]]:
        found = []
        for ids, values in zip(tokens.tolist(), activations.tolist(), strict=True):
            inside = [(token, value) for token, value in zip(ids, values, strict=True) if token >= 0]
            if inside:
                texts = [self.text(token) for token, _ in inside]
                found.append({"tokens": texts, "activations": [float(f"{value:.4g}") for _, value in inside]})
        return found


_NOTHING: dict[str, Any] = {
    "density": None,
    "max_activation": None,
    "top_tokens": [],
    "context_tokens": [],
    "following_tokens": [],
    "top_logits": [],
    "bottom_logits": [],
    "examples": [],
}


def witness_of(graph: Graph, scope: Scope | str | None = None) -> Witness:
    """Find the scope of a graph.

    Args:
        graph: its own scope is taken where it has one at hand.
        scope: a scope or a reference to be used instead of the name that the graph carries.

    Raises:
        NotFound: the graph has no scope, or it is not on this machine.
    """
    found = scope or graph.scope or graph.origin.scope
    if not found:
        raise NotFound("This graph names no scope, so there is no evidence for its features.")
    opened = found if isinstance(found, Scope) else load_scope(found)
    return Witness(opened, opened.model)


def all_details(graph: Graph, witness: Witness, most: int = 1_500) -> dict[str, dict[str, Any]]:
    """Evidence of a graph's features, the most influential first, by `coder/index`; for a page without a server."""
    details: dict[str, dict[str, Any]] = {}
    order = graph.influence.argsort(descending=True, stable=True).tolist()
    for number in order:
        node = graph.nodes[number]
        if node.kind != "feature" or len(details) >= most:
            continue
        coder = graph.origin.coders.get(node.place, "")
        if coder in witness.scope:
            details.setdefault(f"{coder}/{node.index}", witness.details(coder, node.index))
    return details
