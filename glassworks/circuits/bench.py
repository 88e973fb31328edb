"""The real model beside a graph: its targets are read there, and its sources changed, with `model.edit` only.

Nothing here shares code with the engine that made the edges, so that an error of one cannot hide in the other:
embeddings are what Hugging Face says enters layer 0, activations and errors come from the coders' dense formulas.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks.circuits.engine.sources import part_of
from glassworks.circuits.nodes import EMBEDDING, ERROR, FEATURE, LOGIT, Node
from glassworks.circuits.targets import PromptRun, read_target
from glassworks.coders import Coder, Scope
from glassworks.edits import FeatureRef, add_vector, live_skips, scale_features
from glassworks.errors import BadInput, Unsupported
from glassworks.models import Edit, Model, Tap
from glassworks.sites import Site

if TYPE_CHECKING:
    from glassworks.circuits.graph import Graph
else:
    Graph = Any  # graphs call this module; only their type is needed here

FROZEN = {"direct": ("patterns", "norms", "mlps"), "attention frozen": ("patterns", "norms"), "live": ()}
"""How much of the model stays as it was while a source is changed."""


@final
@dataclass(frozen=True, eq=False)
class Held:
    """Keeps sites at their clean values where MLPs are frozen: what coders replace passes nothing on by itself."""

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
@dataclass(frozen=True)
class Replay:
    """The model run on the MLP outputs that a graph implies.

    Attributes:
        missing: active features of the coders that the graph lacks.
        strange: features of the graph that are not active.
        activations: largest relative difference of a feature's activation.
        logits: largest difference of a logit with features, errors and biases, relative to the largest logit.
        divergence: Kullback-Leibler divergence, in nats, of the next-token distribution without the errors.
        agrees: whether the likeliest token is the same without the errors.
    """

    missing: int
    strange: int
    activations: float
    logits: float
    divergence: float
    agrees: bool


@final
@dataclass(frozen=True, eq=False)
class Bench:
    """A graph with the model and scope that it was traced with.

    Attributes:
        graph: what is tested.
        model: the real model.
        scope: the coders; None where the graph has no features.
    """

    graph: Graph
    model: Model
    scope: Scope | None

    def __post_init__(self) -> None:
        """Raise BadInput where the model or the scope cannot be those of the graph."""
        nodes, tokens, model = self.graph.nodes, self.graph.tokens, self.model
        if max(tokens, default=0) >= model.vocab_size or min(tokens) < 0:
            raise BadInput(f"The graph's tokens are not those of {model.name}, whose vocabulary is {model.vocab_size}.")
        inner = nodes.of(FEATURE) | nodes.of(ERROR)
        if bool(inner.any()) and int(nodes.layer[inner].max()) >= model.n_layers:
            raise BadInput(f"The graph has layer {int(nodes.layer[inner].max())}; {model.name} has {model.n_layers}.")
        for place, mine in nodes.places().items():
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
        return {f"{part_of(coder.writes[0])}.{coder.reads[0].layer}": coder for coder in self.coders}

    @property
    def first(self) -> int:
        """The first token that carries features."""
        return 0 if self.scope is None else self.scope.masked(self.graph.token_texts)

    @cached_property
    def targets(self) -> list[dict[str, Any]]:
        """What the outcomes are; those of other programs' graphs are tokens, by their ids."""
        targets = self.graph.origin.facts.get("targets")
        outcomes = [self.graph.nodes[number] for number in self.graph.nodes.numbers(LOGIT)]
        if targets and len(targets) == len(outcomes):
            return list(targets)
        strange = [node.label for node in outcomes if not 0 <= node.index < self.model.vocab_size]
        if strange:
            raise Unsupported(f"The graph does not say how to measure its outcome {strange[0]!r}; trace it again.")
        return [{"kind": "logit", "token": node.index, "position": node.position} for node in outcomes]

    @torch.no_grad()
    def values(self) -> Float[Tensor, " t"]:
        """Every target of the graph, read from the model as it now runs: pre-activations, then outcomes."""
        outcomes = [read_target(plain) for plain in self.targets]
        sites = [Site("logits"), *(site for target in outcomes for site in target.sites(self.scope))]
        captured = self._captured([*(coder.reads[0] for coder in self.coders), *sites])
        nodes = self.graph.nodes.select(self.graph.rows)
        values = torch.full((len(nodes),), torch.nan)
        for place, mine in nodes.places().items():
            coder = self.readers[place]
            read = coder.preactivations(captured[coder.reads[0].name].float()).cpu()
            values[mine] = read[nodes.position[mine], nodes.index[mine]].float()
        run = PromptRun(self.model, self.scope, captured)
        values[nodes.of(LOGIT)] = torch.stack([target.value(run) for target in outcomes]).cpu()
        return values

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
        nodes, edits = self.graph.nodes, list[Edit]()
        features, others = group[nodes.of(FEATURE)[group]], group[~nodes.of(FEATURE)[group]]
        if len(features):
            selected = nodes.select(features)
            refs = [FeatureRef(self.readers[node.place].id, node.position, node.index) for node in selected]
            edits.append(scale_features(refs, 1.0 + factor, self.scope))
        for node in nodes.select(others):
            if node.kind == EMBEDDING:
                edits.append(add_vector("resid_pre.0", factor * self.embeddings[node.position], node.position))
            elif node.kind == ERROR:
                site = self._error_site(node)
                edits.append(add_vector(site, factor * self.errors[site][node.position], node.position))
            else:
                raise Unsupported("An outcome is no source; only embeddings, features and errors can be changed.")
        return edits

    def _error_site(self, node: Node) -> Site:
        """Where an error enters: the MLP's output, or where the coder of its place writes."""
        return Site("mlp_out", node.layer) if node.part == "mlp" else self.readers[node.place].writes[0]

    @cached_property
    def embeddings(self) -> Float[Tensor, "token d_model"]:
        """What enters layer 0, as Hugging Face itself returns it."""
        with torch.no_grad():
            tokens = self.model.tokens(list(self.graph.tokens))
            return self.model.hf(tokens[None], output_hidden_states=True).hidden_states[0][0].float()

    @cached_property
    def written(self) -> list[Site]:
        """Every site that coders and errors write."""
        sites = [site for coder in self.coders for site in coder.writes]
        return list(dict.fromkeys([*self.model.sites("mlp_out"), *sites]))

    @cached_property
    def inputs(self) -> dict[str, Float[Tensor, "token d_in"]]:
        """What the coders read in the model as it was."""
        captured = self._captured([coder.reads[0] for coder in self.coders])
        return {name: value.float() for name, value in captured.items()}

    @cached_property
    def errors(self) -> dict[Site, Float[Tensor, "token d_out"]]:
        """What the coders miss of every site that they write, from their dense formulas: bias, features, skip."""
        captured, errors = self._captured(self.written), {}
        for site in self.written:
            parts = []
            for coder in self.coders:
                if site in coder.writes:
                    x = self.inputs[coder.reads[0].name]
                    with torch.no_grad():
                        parts.append(coder.reconstruct(coder.encode(x), x, site))
            errors[site] = captured[site.name].float() - (torch.stack(parts).sum(0) if parts else 0.0)
        return errors

    @torch.no_grad()
    def replay(self) -> Replay:
        """Run the model on MLP outputs that are put together again from the graph's features, errors and biases.

        With the errors the true logits must come out; without them, what comes out shows how much the errors hide.
        """
        missing, strange, worst = self._active_features()
        true = self._logits()
        with self.model.tapped(self._replay_taps(errors=True)):
            whole = self._logits()
        with self.model.tapped(self._replay_taps(errors=False)):
            alone = self._logits()
        loss = torch.nn.functional.kl_div(alone.log_softmax(0), true.log_softmax(0), log_target=True, reduction="sum")
        difference = float((whole - true).abs().max() / true.abs().max().clamp(min=1e-6))
        return Replay(missing, strange, worst, difference, float(loss), bool(alone.argmax() == true.argmax()))

    def _active_features(self) -> tuple[int, int, float]:
        """Compare the node table with what the coders encode: features missing, not active, and activations."""
        nodes, missing, strange, worst = self.graph.nodes, 0, 0, 0.0
        nothing, places = torch.zeros(len(nodes), dtype=torch.bool), nodes.places()
        for place, coder in self.readers.items():
            mine = places.get(place, nothing)
            dense = coder.encode(self.inputs[coder.reads[0].name]).dense().cpu()
            dense[: self.first] = 0
            traced = torch.zeros_like(dense)
            traced[nodes.position[mine], nodes.index[mine]] = nodes.activation[mine]
            missing += int(((dense != 0) & (traced == 0)).sum())
            strange += int(((dense == 0) & (traced != 0)).sum())
            both = (dense != 0) & (traced != 0)
            if bool(both.any()):
                worst = max(worst, float(((traced - dense).abs() / dense.abs())[both].max()))
        return missing, strange, worst

    def _replay_taps(self, errors: bool) -> dict[Site, Tap]:
        """Taps that write every MLP output anew: features, bias, the live skip, and perhaps the error."""
        live: dict[Site, Tensor] = {}

        def reader(site: Site) -> Tap:
            return lambda value: live.__setitem__(site, value.float())

        def writer(site: Site, read: Tap | None) -> Tap:
            writers, known = [coder for coder in self.coders if site in coder.writes], self._written_features(site)
            if errors or not writers:
                known = known + self.errors[site]

            def write(value: Tensor) -> Tensor:
                if read is not None:
                    read(value)
                whole = known[None].clone()
                for coder in writers:
                    skip = coder.skip(site)
                    whole += coder.bias(site) + (0.0 if skip is None else live[coder.reads[0]] @ skip)
                return torch.cat([value[:, : self.first], whole[:, self.first :].to(value)], 1)

            return write

        taps = {coder.reads[0]: reader(coder.reads[0]) for coder in self.coders}
        return taps | {site: writer(site, taps.get(site)) for site in self.written}

    def _written_features(self, site: Site) -> Float[Tensor, "token d_out"]:
        """What the graph's features write at a site: activation times decoder row, feature by feature."""
        nodes = self.graph.nodes
        written = torch.zeros_like(self.errors[site])
        for place, mine in nodes.places().items():
            coder = self.readers[place]
            if site in coder.writes:
                rows = coder.decoder_rows(nodes.index[mine].to(written.device), site).float()
                values = nodes.activation[mine, None].to(rows)
                written.index_add_(0, nodes.position[mine].to(rows.device), values * rows)
        return written

    def _logits(self) -> Float[Tensor, " vocab"]:
        """The next-token logits after the prompt, as the model now runs."""
        return self._captured([Site("logits")])["logits"][-1].float().cpu()

    def _captured(self, sites: Sequence[Site]) -> dict[str, Tensor]:
        captured = self.model.capture(list(self.graph.tokens), list(dict.fromkeys(sites)))
        return {name: value.detach() for name, value in captured.items()}
