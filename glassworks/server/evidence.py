"""Evidence of features for the page: token ids turned into texts, whatever the scope has.

It opens a graph's scope by the name that the graph carries, or the one that the server was given.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, final

from torch import Tensor

from glassworks.circuits import Graph
from glassworks.coders import Scope, load_scope
from glassworks.errors import NotFound
from glassworks.models import load_vocabulary


@final
@dataclass(eq=False)
class FeatureDetails:
    """What is known of the features of one scope.

    Attributes:
        scope: the coders with labels and evidence.
        model: reference of the scope's model, for its tokenizer.
    """

    scope: Scope
    model: str

    @cached_property
    def text(self) -> Callable[[int], str]:
        """Gives the text of a token."""
        return cache(load_vocabulary(self.model).text)

    def of(self, coder: str, index: int) -> dict[str, Any]:
        """Everything known of one feature, as JSON values; empty lists where nothing was collected.

        Raises:
            NotFound: the scope has no such coder, or the coder no such feature.
        """
        size = self.scope[coder].d_latent
        if not 0 <= index < size:
            raise NotFound(f"The coder {coder} has features 0 to {size - 1}; there is no {index}.")
        evidence, label = self.scope.evidence(coder), self.scope.label(coder, index)
        details = {"coder": coder, "index": index, "label": label, "density": None, "max_activation": None}
        if evidence is None:
            lists = ("top_tokens", "context_tokens", "following_tokens", "top_logits", "bottom_logits", "examples")
            return details | {name: [] for name in lists}
        examples, windows = [], zip(evidence.example_tokens[index], evidence.example_activations[index], strict=True)
        for ids, values in windows:
            inside = ids >= 0
            if bool(inside.any()):
                activations = [_rounded(value) for value in values[inside].tolist()]
                examples.append({"tokens": self._texts(ids), "activations": activations})
        top, bottom = evidence.top_logit_values, evidence.bottom_logit_values
        return details | {
            "density": float(evidence.density[index]),
            "max_activation": float(evidence.max_activation[index]),
            "top_tokens": self._pairs(evidence.top_token_ids[index], evidence.top_token_weights[index], "weight"),
            "context_tokens": self._texts(evidence.context_token_ids[index]),
            "following_tokens": self._texts(evidence.following_token_ids[index]),
            "top_logits": self._pairs(evidence.top_logit_ids[index], top[index], "value"),
            "bottom_logits": self._pairs(evidence.bottom_logit_ids[index], bottom[index], "value"),
            "examples": examples,
        }

    def of_graph(self, graph: Graph, most: int = 1_500) -> dict[str, dict[str, Any]]:
        """Details of a graph's features by `coder/index`, the most influential first; for a page without a server."""
        details: dict[str, dict[str, Any]] = {}
        for number in graph.influence.argsort(descending=True, stable=True).tolist():
            node = graph.nodes[number]
            coder = graph.origin.coders.get(node.place, "") if node.kind == "feature" else ""
            if coder in self.scope and len(details) < most:
                details.setdefault(f"{coder}/{node.index}", self.of(coder, node.index))
        return details

    def _texts(self, ids: Tensor) -> list[str]:
        return [self.text(token) for token in ids.tolist() if token >= 0]

    def _pairs(self, ids: Tensor, values: Tensor, name: str) -> list[dict[str, Any]]:
        pairs = zip(ids.tolist(), values.tolist(), strict=True)
        return [{"token": self.text(token), name: _rounded(value)} for token, value in pairs if token >= 0]


def details_of(graph: Graph, scope: Scope | str | None = None) -> FeatureDetails:
    """Find the scope of a graph.

    Args:
        graph: its own scope is taken where it has one at hand.
        scope: a scope or a reference to be used instead of the name that the graph carries.

    Raises:
        NotFound: the graph has no scope, or it is not on this machine.
    """
    chosen = scope or graph.scope or graph.origin.scope
    if not chosen:
        raise NotFound("This graph names no scope, so there is no evidence for its features.")
    opened = chosen if isinstance(chosen, Scope) else load_scope(chosen)
    return FeatureDetails(opened, opened.model)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
