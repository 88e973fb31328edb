"""Circuit: the features and heads that do one thing in a model, in named groups, cut out of graphs of many prompts.

A graph explains one prompt; a circuit is what its graphs have in common, as a value that can be written down and
carried elsewhere.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from glassworks import artefacts
from glassworks.circuits.graph import Graph
from glassworks.circuits.many import aggregate
from glassworks.circuits.predict import recurring
from glassworks.circuits.trace import trace
from glassworks.coders import Scope
from glassworks.edits import FeatureRef
from glassworks.errors import BadArtefact, BadInput, NotFound, nearest
from glassworks.models import Model

KIND = "circuit"
Head = tuple[int, int]


@final
@dataclass(frozen=True)
class Group:
    """A supernode of a circuit.

    Attributes:
        name: what to call it.
        features: its features, at every token.
        heads: its attention heads, (layer, head).
    """

    name: str
    features: tuple[FeatureRef, ...] = ()
    heads: tuple[Head, ...] = ()

    def __len__(self) -> int:
        return len(self.features) + len(self.heads)

    def plain(self) -> dict[str, Any]:
        """The values as JSON holds them."""
        heads = [f"{layer}.{head}" for layer, head in self.heads]
        return {"name": self.name, "features": [str(ref) for ref in self.features], "heads": heads}


@final
@dataclass(frozen=True)
class Circuit:
    """Named groups of features and heads, and the edges between groups.

    Attributes:
        model: name of the model.
        scope: name of the scope that holds the features' coders.
        groups: the groups, from below.
        edges: (source, target) -> mean signed weight of the edges between their features, heads included in them.
        prompts: what it was cut from.
    """

    model: str
    scope: str
    groups: tuple[Group, ...]
    edges: Mapping[tuple[str, str], float]
    prompts: tuple[str, ...] = ()

    def __repr__(self) -> str:
        features, heads = (sum(len(getattr(group, kind)) for group in self.groups) for kind in ("features", "heads"))
        return f"Circuit({self.model!r}: {features} features and {heads} heads in {len(self.groups)} groups)"

    def __getitem__(self, name: str) -> Group:
        names = [group.name for group in self.groups]
        if name not in names:
            raise NotFound(f"The circuit has no group {name!r}; {nearest(name, names)}.")
        return self.groups[names.index(name)]

    def replaced(self, groups: Sequence[Group]) -> "Circuit":
        """The same with other groups, without edges: what controls are made of."""
        return Circuit(self.model, self.scope, tuple(groups), {}, self.prompts)

    def plain(self) -> dict[str, Any]:
        """The values as JSON holds them."""
        edges = [{"source": source, "target": target, "weight": w} for (source, target), w in self.edges.items()]
        fields = {"model": self.model, "scope": self.scope, "prompts": list(self.prompts)}
        return {**fields, "groups": [group.plain() for group in self.groups], "edges": edges}

    def save(self, path: str | Path) -> artefacts.Artefact:
        """Write it as an artefact of kind `circuit`: one table."""
        fields = {"model": self.model, "scope": self.scope, "groups": [group.name for group in self.groups]}
        return artefacts.write(path, KIND, fields, tables={"circuit": self.plain()}, parents=[self.model, self.scope])


def read_circuit(plain: Mapping[str, Any]) -> Circuit:
    """Read what `Circuit.plain` gave; BadArtefact where it is something else."""
    try:
        groups = tuple(
            Group(
                group["name"],
                tuple(FeatureRef.parse(ref) for ref in group["features"]),
                tuple(read_head(head) for head in group["heads"]),
            )
            for group in plain["groups"]
        )
        edges = {(edge["source"], edge["target"]): float(edge["weight"]) for edge in plain["edges"]}
        return Circuit(plain["model"], plain["scope"], groups, edges, tuple(plain["prompts"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise BadArtefact(f"The circuit lacks or misstates {error}; cut it again.") from error


def load_circuit(path: str | Path) -> Circuit:
    """Read what `Circuit.save` wrote.

    Raises:
        NotFound: there is no such folder.
        BadArtefact: it is damaged, or holds something else.
    """
    return read_circuit(artefacts.read(path, KIND).table("circuit"))


def read_head(text: str) -> Head:
    """Read a head from `2.1`, layer and head; BadInput where the text is something else."""
    layer, _, head = text.partition(".")
    if not (layer.isdecimal() and head.isdecimal()):
        raise BadInput(f"The text {text!r} is no head; write LAYER.HEAD, like 2.1.")
    return int(layer), int(head)


def cut(
    graphs: Sequence[Graph],
    most: int = 64,
    heads: Sequence[Head] = (),
    against: Sequence[Graph] = (),
    scope: str = "",
) -> Circuit:
    """Cut the circuit out that graphs of many prompts share, and that matched negatives lack.

    Graphs with the same likeliest outcome are taken together, as the words of one reply need different features. A
    feature counts as much as it pushes the likeliest outcome on all paths, the effect of a unit of it times what it is
    more active than in the negatives, averaged over the graphs of an outcome and summed over the outcomes. Only what
    pushes is kept.

    Args:
        graphs: whole graphs of one model and scope, some for each outcome.
        most: how many features.
        heads: attention heads that go with them, (layer, head): graphs hold attention as edges, not as nodes.
        against: graphs of matched negatives, prompts that the model replies to in another way.
        scope: name of the scope, by default the graphs' own.

    Raises:
        BadInput: no graphs, graphs of different models or coders, or nothing pushes an outcome.
    """
    if not graphs or len({graph.model for graph in graphs}) > 1:
        raise BadInput("A circuit is cut from graphs of one model; give at least one graph, all of the same model.")
    negatives = recurring(against) if against else []
    elsewhere = {(feature.coder, feature.index): feature.activation * feature.frequency for feature in negatives}
    outcomes: dict[int, list[Graph]] = defaultdict(list)
    for graph in graphs:
        outcomes[int(graph.nodes.index[int(graph.edges.weights.argmax())])].append(graph)
    scores: dict[tuple[str, int], float] = defaultdict(float)
    for same in outcomes.values():
        for feature in recurring(same):
            key = (feature.coder, feature.index)
            more = feature.activation * feature.frequency - elsewhere.get(key, 0.0)
            scores[key] += feature.effect * max(more, 0.0)
    best = [key for key in sorted(scores, key=lambda key: -scores[key]) if scores[key] > 0][:most]
    if not best:
        raise BadInput("No feature recurs that pushes the outcomes; trace more prompts of one kind.")

    # One group per coder, and one per layer of heads; from below, heads before features.
    refs: dict[str, list[FeatureRef]] = defaultdict(list)
    for coder, index in best:
        refs[coder].append(FeatureRef(coder, None, index))
    layers = {
        layer: tuple(sorted(head for head in heads if head[0] == layer))
        for layer in sorted({layer for layer, _ in heads})
    }
    groups = [Group(f"heads.{layer}", heads=layers[layer]) for layer in layers]
    groups += [Group(coder, tuple(sorted(features))) for coder, features in refs.items()]

    def depth(group: Group) -> tuple[int, bool]:
        layer = group.heads[0][0] if group.heads else int(group.features[0].coder_id.rpartition(".")[2] or 0)
        return layer, not group.heads

    groups.sort(key=depth)

    # The mean weights of the edges between the features of groups, over all prompts.
    home = {(ref.coder_id, ref.index): group.name for group in groups for ref in group.features}
    shared, coders = aggregate(graphs), graphs[0].origin.coders
    owner = [home.get((coders.get(node.place, ""), node.index)) for node in shared.nodes]
    edges: dict[tuple[str, str], float] = defaultdict(float)
    for edge in shared.edges:
        source, target = owner[edge.source], owner[edge.target]
        if source and target:
            edges[source, target] += edge.weight * edge.frequency
    prompts = tuple(dict.fromkeys(graph.prompt for graph in graphs))
    return Circuit(graphs[0].model, scope or graphs[0].origin.scope or "", tuple(groups), dict(edges), prompts)


def reply_graphs(model: Model, scope: Scope, prompts: Sequence[str], reply: str) -> list[Graph]:
    """Trace a reply word by word: for each prompt one graph of every token of the reply, those before it given.

    Args:
        model: it gives this reply to these prompts.
        scope: its coders.
        prompts: the prompts.
        reply: the words, as they follow a prompt.
    """
    graphs = []
    for prompt in prompts:
        start, whole = len(model.tokens(prompt)), model.tokens(prompt + reply).tolist()
        graphs += [trace(model, scope, whole[:end]) for end in range(start, len(whole))]
    return graphs
