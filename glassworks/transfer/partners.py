"""Partners: whether matched features write the same, and whether they are connected alike.

That features are active together says what they detect, not what they do. The direction that a feature writes is
therefore carried into the other model, and its cosine with the partner's is ranked among all features of the partner's
coder. In graphs of the same prompts, the edges that recur between A's features are looked up between their partners;
the control permutes partners among the features of a coder.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from glassworks import stats
from glassworks.circuits import Aggregate, Graph, aggregate
from glassworks.coders import Coder
from glassworks.errors import BadInput, NotFound
from glassworks.models import Model
from glassworks.sites import Site
from glassworks.transfer.bridge import Bridge
from glassworks.transfer.coactivation import Interval, as_interval
from glassworks.transfer.match import FeatureMatches

STREAMS = {"attn_out": "resid_mid", "mlp_out": "resid_post"}
"""Where what is written lies afterwards, by the kind of the site that is written."""
PERMUTATIONS = 200
SAME = 0.9
"""Mean cosine of two models' token embeddings from which they share a basis."""

Carry = Callable[[Site, Site], Callable[[Tensor], Tensor] | None]
"""How directions go from a site of A to one of B; None where the two are not joined."""


@final
@dataclass(frozen=True, eq=False)
class WriteSimilarity:
    """Whether features and their partners write the same.

    Attributes:
        cosine: of each feature's carried direction with its partner's; NaN where it is not known.
        rank: share of the features of the partner's coder whose cosine is lower; 0.5 is chance.
        mean: mean cosine of the features that were found.
        mean_rank: their mean rank.
        chance: mean cosine of the same features with all features of their partners' coders.
    """

    cosine: Float[Tensor, " feature"]
    rank: Float[Tensor, " feature"]
    mean: Interval
    mean_rank: Interval
    chance: float

    def plain(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {"mean": self.mean, "mean_rank": self.mean_rank, "chance": self.chance}


def carry_over(bridge: Bridge) -> Carry:
    """Directions go over a bridge, from stream to stream."""

    def stream(site: Site) -> Site:
        return Site(STREAMS.get(site.kind, site.kind), site.layer)

    def carry(source: Site, target: Site) -> Callable[[Tensor], Tensor] | None:
        try:
            return bridge.up(stream(source), stream(target)).push
        except NotFound:
            return None

    return carry


def carry_unchanged(source: Site, target: Site) -> Callable[[Tensor], Tensor] | None:
    """Directions stay as they are, for models that share a basis and for layers of one model."""
    return torch.Tensor.clone


def share_basis(a: Model, b: Model) -> bool:
    """Whether one model was trained on from the other: their token embeddings still point the same way."""
    tables = []
    for model in (a, b):
        embedding = model.hf.get_input_embeddings()
        assert isinstance(embedding, torch.nn.Embedding)
        tables.append(embedding.weight.detach().float())
    one, other = tables
    return one.shape == other.shape and float(functional.cosine_similarity(one, other).mean()) > SAME


@torch.no_grad()
def compare_writes(matches: FeatureMatches, carry: Carry) -> WriteSimilarity:
    """Compare what features write with what their partners write.

    Args:
        matches: features and partners.
        carry: how directions get from the features' model to the partners'.
    """
    home, other = matches.home, matches.other
    cosine, rank, level = torch.full((3, home.width), torch.nan)
    known = matches.alive & (matches.partner >= 0)
    place = other.home[matches.partner.clamp(min=0)]

    def directions(coder: Coder, indices: Tensor) -> Float[Tensor, "k d"]:
        return coder.decoder_rows(indices, coder.writes[0]).float().cpu()

    for number, coder in enumerate(home.coders.values()):
        for where, target in enumerate(other.coders.values()):
            mine = (known & (home.home == number) & (place == where)).nonzero()[:, 0]
            push = carry(coder.writes[0], target.writes[0])
            if push is None or not len(mine):
                continue
            rows = functional.normalize(push(directions(coder, mine - home.starts[number])), dim=1)
            alike = rows @ functional.normalize(directions(target, torch.arange(target.d_latent)), dim=1).T
            own = alike.gather(1, (matches.partner[mine] - other.starts[where])[:, None])
            cosine[mine], rank[mine], level[mine] = own[:, 0], (alike < own).float().mean(1), alike.mean(1)

    there = matches.found & cosine.isfinite()
    mean, mean_rank, chance = (as_interval(stats.mean(values[there])) for values in (cosine, rank, level))
    return WriteSimilarity(cosine, rank, mean, mean_rank, chance[0])


Key = tuple[str, str, int]
"""Kind, coder or text, and latent (0 for tokens) of a node; the same in both models."""


@final
@dataclass(frozen=True)
class Wiring:
    """How many of the edges of A's graphs exist in B's.

    Attributes:
        prompts: how many were traced.
        features: how many features recur in A's graphs.
        matched: share of them, weighted by influence, whose partner was found.
        recurring: share of these, weighted by influence, whose partner recurs in B's graphs.
        edges: edges of A between matched features, tokens and outcomes, at least one end a feature.
        kept: share of them that B has between the partners.
        chance: the same share with partners permuted at random, the mean.
        p: share of the permutations, the true one counted among them, with as many edges.
        signs: share of the kept edges that have the same sign; None where there are none.
    """

    prompts: int
    features: int
    matched: float
    recurring: float
    edges: int
    kept: Interval
    chance: float
    p: float
    signs: float | None

    def plain(self) -> dict[str, Any]:
        """The values as JSON holds them."""
        return asdict(self)


def wiring(graphs_a: Sequence[Graph], graphs_b: Sequence[Graph], matches: FeatureMatches, seed: int = 0) -> Wiring:
    """Compare the edges of two models' graphs through the partners of their features.

    Args:
        graphs_a: graphs of A, of the coders whose features were matched.
        graphs_b: graphs of B on the same prompts.
        matches: A's features and their partners in B.
        seed: of the permutations.

    Raises:
        BadInput: other prompts.
    """
    if [graph.prompt for graph in graphs_a] != [graph.prompt for graph in graphs_b]:
        raise BadInput("The graphs of the two models are of different prompts; trace the same ones with both.")
    one, other = aggregate(graphs_a), aggregate(graphs_b)
    keys_a, keys_b = _keys(one, graphs_a[0].origin.coders), _keys(other, graphs_b[0].origin.coders)
    edges_b = {(keys_b[edge.source], keys_b[edge.target]): edge.share for edge in other.edges}
    partners: dict[Key, Key] = {
        ("feature", *matches.home.place(feature)): ("feature", *matches.other.place(int(matches.partner[feature])))
        for feature in matches.found.nonzero()[:, 0].tolist()
    }

    def comparable(source: Key, target: Key) -> bool:
        """Whether an edge has a feature at one end at least, and nothing that B cannot have."""
        kinds = (source[0], target[0])
        unknown = [key for key in (source, target) if key[0] == "feature" and key not in partners]
        return "feature" in kinds and "error" not in kinds and not unknown

    def image(key: Key, partners: Mapping[Key, Key]) -> Key:
        return partners[key] if key[0] == "feature" else key

    edges = [(keys_a[edge.source], keys_a[edge.target], edge.share) for edge in one.edges]
    edges = [edge for edge in edges if comparable(*edge[:2])]

    def hits(partners: Mapping[Key, Key]) -> Float[Tensor, " edge"]:
        return torch.tensor([float((image(s, partners), image(t, partners)) in edges_b) for s, t, _ in edges])

    true, chance, generator = hits(partners), [], torch.Generator().manual_seed(seed)
    by_coder: dict[str, list[Key]] = {}
    for key in partners:
        by_coder.setdefault(key[1], []).append(key)
    for _ in range(PERMUTATIONS if edges else 0):
        permuted: dict[Key, Key] = {}
        for keys in by_coder.values():
            order = torch.randperm(len(keys), generator=generator).tolist()
            permuted |= {key: partners[keys[place]] for key, place in zip(keys, order, strict=True)}
        chance.append(float(hits(permuted).mean()))

    same = [
        (share > 0) == (edges_b[image(source, partners), image(target, partners)] > 0)
        for (source, target, share), hit in zip(edges, true.tolist(), strict=True)
        if hit
    ]
    # Edges into one target go together.
    targets = {key: number for number, key in enumerate(dict.fromkeys(target for _, target, _ in edges))}
    cluster = torch.tensor([targets[target] for _, target, _ in edges], dtype=torch.long)
    influence = {key: node.influence for key, node in zip(keys_a, one.nodes, strict=True) if node.kind == "feature"}
    matched = {key: weight for key, weight in influence.items() if key in partners}
    recurring = sum(weight for key, weight in matched.items() if partners[key] in set(keys_b))
    return Wiring(
        prompts=len(graphs_a),
        features=len(influence),
        matched=sum(matched.values()) / max(sum(influence.values()), 1e-30),
        recurring=recurring / max(sum(matched.values()), 1e-30),
        edges=len(edges),
        kept=as_interval(stats.mean(true, cluster)),
        chance=sum(chance) / max(len(chance), 1),
        p=stats.permutation_p(float(true.mean()), chance),
        signs=sum(same) / len(same) if same else None,
    )


def _keys(graph: Aggregate, coders: Mapping[str, str]) -> list[Key]:
    """Each node under a name that both models share: features by coder and latent, tokens and outcomes by text."""
    return [
        (node.kind, coders.get(node.place, node.place), node.index)
        if node.kind == "feature"
        else (node.kind, node.name if node.kind != "error" else node.place, 0)
        for node in graph.nodes
    ]
