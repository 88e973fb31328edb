"""The real model beside a graph: its targets are read there, and its sources changed, with `model.edit` only.

Nothing here shares code with the engine that made the edges, so that an error of one cannot hide in the other:
embeddings are what Hugging Face says enters layer 0, activations and errors come from the coders' dense formulas.
This module must not know `linear`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassworks.circuits.engine.chosen import part_of
from glassworks.circuits.nodes import EMBEDDING, ERROR, FEATURE, LOGIT, PARTS, Node, Nodes
from glassworks.circuits.outcomes import measured_at
from glassworks.circuits.outcomes import values as outcome_values
from glassworks.circuits.traced import Traced
from glassworks.coders import Coder, Scope
from glassworks.edits import FeatureRef, add_vector, live_skips, scale_features
from glassworks.errors import BadInput, Unsupported
from glassworks.models import Edit, Model, Tap
from glassworks.sites import Site

FROZEN = {"direct": ("patterns", "norms", "mlps"), "attention frozen": ("patterns", "norms"), "live": ()}
"""How much of the model stays as it was while a source is changed."""


@final
@dataclass(frozen=True, eq=False)
class Held:
    """Keeps sites at their clean values where MLPs are frozen: what coders stand in for passes nothing on by itself."""

    sites: tuple[Site, ...]

    frozen = ()
    stepwise = False

    @property
    def reads(self) -> Sequence[Site]:
        """The sites themselves."""
        return self.sites

    def taps(self, model: Model, clean: Mapping[Site, Tensor] | None) -> Mapping[Site, Tap]:
        """The taps that do it; see `glassworks.models.Edit`."""
        values = {} if clean is None else clean
        return {site: lambda _, site=site: values[site].clone() for site in self.sites if clean is not None}


@final
@dataclass(frozen=True, eq=False)
class Bench:
    """A graph on the bench: the model and scope that it was traced with.

    Attributes:
        graph: what is tested.
        model: the real model.
        scope: the coders; None where the graph has no features.
    """

    graph: Traced
    model: Model
    scope: Scope | None

    def __post_init__(self) -> None:
        """Raise BadInput where the model or the scope cannot be those of the graph."""
        nodes, model = self.graph.nodes, self.model
        if max(self.graph.origin.tokens, default=0) >= model.vocab_size or min(self.graph.origin.tokens) < 0:
            raise BadInput(f"The graph's tokens are not those of {model.name}, whose vocabulary is {model.vocab_size}.")
        found = nodes.of(FEATURE) | nodes.of(ERROR)
        if bool(found.any()) and int(nodes.layer[found].max()) >= model.n_layers:
            raise BadInput(f"The graph has layer {int(nodes.layer[found].max())}; {model.name} has {model.n_layers}.")
        for place, mine in self.features(nodes).items():
            if place not in self.readers or int(nodes.index[mine].max()) >= self.readers[place].d_latent:
                raise BadInput(f"The scope does not have the graph's features at {place}; give the graph's own scope.")

    @cached_property
    def coders(self) -> list[Coder]:
        """The coders that the graph's features and errors are about."""
        scope = self.scope
        return [] if scope is None else [part for name in scope.replacement for part in scope[name].parts]

    @cached_property
    def readers(self) -> dict[str, Coder]:
        """Place of a feature (`mlp.2`) -> its coder."""
        return {f"{part_of(coder)}.{coder.reads[0].layer}": coder for coder in self.coders}

    @staticmethod
    def features(nodes: Nodes) -> dict[str, Bool[Tensor, " n"]]:
        """Which nodes are features, place by place."""
        found, feature = {}, nodes.of(FEATURE)
        for layer, part in torch.stack([nodes.layer, nodes.part], 1)[feature].unique(dim=0).tolist():
            found[f"{PARTS[part]}.{layer}"] = feature & (nodes.layer == layer) & (nodes.part == part)
        return found

    @property
    def first(self) -> int:
        """The first token that carries features."""
        return 0 if self.scope is None else self.scope.masked(self.graph.origin.token_texts)

    @torch.no_grad()
    def values(self) -> Float[Tensor, " t"]:
        """Every target of the graph, read from the model as it now runs: pre-activations, then outcomes."""
        captured = self._captured([*(coder.reads[0] for coder in self.coders), *self._outcome_sites])
        nodes = self.graph.nodes.select(self.graph.rows)
        found = torch.full((len(nodes),), torch.nan)
        for place, mine in self.features(nodes).items():
            coder = self.readers[place]
            read = coder.preactivations(captured[coder.reads[0].name].float()).cpu()
            found[mine] = read[nodes.position[mine], nodes.index[mine]].float()
        found[nodes.of(LOGIT)] = outcome_values(self.model, self.scope, captured, self._asked).cpu()
        return found

    @cached_property
    def _asked(self) -> list[dict[str, Any]]:
        """What the outcomes are; those of other programs' graphs are tokens, by their ids."""
        nodes = self.graph.nodes
        told = self.graph.origin.facts.get("targets")
        outcomes = list(nodes.select(nodes.of(LOGIT).nonzero()[:, 0]))
        if told and len(told) == len(outcomes):
            return list(told)
        strange = [node.label for node in outcomes if not 0 <= node.index < self.model.vocab_size]
        if strange:
            raise Unsupported(f"The graph does not say how to measure its outcome {strange[0]!r}; trace it again.")
        return [{"kind": "logit", "token": node.index, "position": node.position} for node in outcomes]

    @property
    def _outcome_sites(self) -> list[Site]:
        return [Site("logits"), *(Site.parse(each) for each in measured_at(self.scope, self._asked))]

    @torch.no_grad()
    def logits(self) -> Float[Tensor, " vocab"]:
        """The model's next-token logits after the prompt, as it now runs."""
        return self._captured([Site("logits")])["logits"][-1].float().cpu()

    def changed(self, group: Int[Tensor, " k"], factor: float, mode: str) -> Float[Tensor, " t"]:
        """The targets' values while each source of a group has `factor` times its own size more.

        Args:
            group: node numbers.
            factor: -1 takes the sources away.
            mode: a key of `FROZEN`.
        """
        held = [site for place, coder in self.readers.items() if "attention" in place for site in coder.writes]
        skips = [] if self.scope is None else [live_skips(self.scope, self.first)]
        edits = [Held(tuple(held)), *self.edits(group, factor), *skips]
        with self.model.edit(*edits, frozen=FROZEN[mode]):
            return self.values()

    def edits(self, group: Int[Tensor, " k"], factor: float) -> list[Edit]:
        """The edits that add `factor` times its own size to each source of a group."""
        nodes = self.graph.nodes
        features = group[nodes.of(FEATURE)[group]]
        found: list[Edit] = []
        if len(features):
            refs = [
                FeatureRef(self.readers[node.place].id, node.position, node.index) for node in nodes.select(features)
            ]
            found.append(scale_features(refs, 1.0 + factor, self.scope))
        for node in nodes.select(group[~nodes.of(FEATURE)[group]]):
            if node.kind == EMBEDDING:
                found.append(add_vector("resid_pre.0", factor * self.embeddings[node.position], node.position))
            elif node.kind == ERROR:
                site = self.site_of(node)
                found.append(add_vector(site, factor * self.errors[site][node.position], node.position))
            else:
                raise Unsupported("An outcome is no source; only embeddings, features and errors can be changed.")
        return found

    @cached_property
    def embeddings(self) -> Float[Tensor, "token d_model"]:
        """What enters layer 0, as Hugging Face itself returns it."""
        with torch.no_grad():
            tokens = self.model.tokens(list(self.graph.origin.tokens))
            return self.model.hf(tokens[None], output_hidden_states=True).hidden_states[0][0].float()

    def site_of(self, node: Node) -> Site:
        """Where an error enters: the MLP's output, or where the coder of its place writes."""
        return Site("mlp_out", node.layer) if node.part == "mlp" else self.readers[node.place].writes[0]

    @cached_property
    def written(self) -> list[Site]:
        """Every site that coders and errors write."""
        sites = [site for coder in self.coders for site in coder.writes]
        return list(dict.fromkeys([*self.model.sites("mlp_out"), *sites]))

    @cached_property
    def errors(self) -> dict[Site, Float[Tensor, "token d_out"]]:
        """What the coders miss of every site that they write, from their dense formulas."""
        captured = self._captured(self.written)
        return {site: captured[site.name].float() - self._rebuilt(site) for site in self.written}

    @cached_property
    def inputs(self) -> dict[str, Float[Tensor, "token d_in"]]:
        """What the coders read in the model as it was."""
        return {name: value.float() for name, value in self._captured([each.reads[0] for each in self.coders]).items()}

    @torch.no_grad()
    def _rebuilt(self, site: Site) -> Tensor | float:
        """All that the coders write at a site: bias, features, skip."""
        parts = []
        for coder in self.coders:
            if site in coder.writes:
                x, skip = self.inputs[coder.reads[0].name], coder.skip(site)
                parts.append(coder.decode(coder.encode(x), site) + (0.0 if skip is None else x @ skip))
        return torch.stack(parts).sum(0) if parts else 0.0

    def _captured(self, sites: Sequence[Site]) -> dict[str, Tensor]:
        captured = self.model.capture(list(self.graph.origin.tokens), list(dict.fromkeys(sites)))
        return {name: value.detach() for name, value in captured.items()}
