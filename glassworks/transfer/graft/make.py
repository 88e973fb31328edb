"""Making a graft: take a circuit's rows out of model A, and find what joins them to model B.

The maps into A's space come from a bridge. What each node's value is expected to be, given B's state, is a ridge
regression over the same kind of text. Nothing here needs labels, or knows which texts show the behaviour.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.circuits import Circuit, Group
from glassworks.coders import Scope
from glassworks.errors import BadInput, NotFound, nearest
from glassworks.models import Model
from glassworks.sites import Site
from glassworks.transfer.bridge import Bridge
from glassworks.transfer.graft.graft import Affine, Graft, Station
from glassworks.transfer.graft.parts import FeaturePart, HeadPart, Part, feature_part, head_part
from glassworks.transfer.pairing import PairedStates, PairedText, TokenPairs, pair, paired_states

RIDGE = 1e-3
WRITE_RIDGE = 0.1
WRITES = ("logits", "states")


@final
@dataclass(frozen=True)
class Joint:
    """What joins the two models.

    Attributes:
        bridge: maps between their states.
        texts: what node values and outputs are fitted on: prompts of the domain with A's own replies, unlabelled, and
            some general text.
        neutral: prompts without the behaviour; what the written nodes do there is taken off.
        write: `logits`: the map under which A's and B's unembeddings say the same; or `states`: the bridge's own.
        layers: for each layer of A the one of B that it reads; the bridge's partners by default.
    """

    bridge: Bridge
    texts: Sequence[PairedText]
    neutral: Sequence[Any]
    write: str = "logits"
    layers: tuple[int, ...] | None = None

    def source(self, site: Site) -> Site:
        """The site of B that is read for one of A."""
        assert site.layer is not None
        return self.bridge.partner(site) if self.layers is None else Site(site.kind, self.layers[site.layer])


@torch.no_grad()
def make_graft(circuit: Circuit, scope: Scope, a: Model, b: Model, joint: Joint) -> Graft:
    """Make a graft of a circuit of A for B, all gains 1.

    Args:
        circuit: what is carried.
        scope: the coders of its features.
        a: the model that it is from.
        b: the model that it is for.
        joint: what joins them.

    Raises:
        BadInput: the bridge is of other models, the circuit is of another model, or it has no features to write with.
        NotFound: there is no such way to write, head or latent.
        Unsupported: a coder or a head that cannot stand alone.
    """
    if joint.write not in WRITES:
        raise NotFound(f"A graft cannot write by {joint.write!r}; {nearest(joint.write, WRITES)}.")
    if circuit.model != a.name:
        raise BadInput(f"The circuit is of {circuit.model}, not of {a.name}; load that model as A.")
    joint.bridge.check(a, b)
    pairs = pair(a, b, joint.texts, start=True)
    parts = [(group.name, part) for group in circuit.groups for part in _parts(group, scope, a)]
    parts.sort(key=lambda each: (each[1].layer, each[1].kind == "features"))
    means = _Means(a, b, joint, [part for _, part in parts])
    means.see(pairs)
    stations = [_station(name, part, means, joint) for name, part in parts]
    target = Site("resid_post", b.n_layers - 1)
    facts = {"write": joint.write, "texts": len(joint.texts), "circuit": circuit.plain()}
    found = Graft(a.name, b.name, tuple(stations), torch.empty(a.d_model, b.d_model), target, facts)
    if not any(found.writers):
        raise BadInput("The circuit's last layer has no features, so it writes nothing; cut it with some.")
    up = joint.bridge.up(Site("resid_post", a.n_layers - 1), target).weight
    up = matched_write(a, b, partner_counts(pairs), means.scales) if joint.write == "logits" else up
    return _centred(Graft(a.name, b.name, found.stations, up.float(), target, facts), a, joint.neutral)


def partner_counts(pairs: Sequence[TokenPairs]) -> Counter[tuple[int, int]]:
    """How often a token of A and one of B end at the same place."""
    return Counter(
        (one.tokens_a[at_a], one.tokens_b[at_b]) for one in pairs for at_a, at_b in zip(one.at_a, one.at_b, strict=True)
    )


def matched_write(
    a: Model, b: Model, counts: Mapping[tuple[int, int], int], scales: tuple[float, float]
) -> Float[Tensor, "d_a d_b"]:
    """The map under which a change of B's last state moves its logits as A's change moves A's.

    Weighted least squares over the tokens of a text, each as often as it occurs, up to a constant:
    `W = (U_b^T F U_a)^T (U_b^T F U_b + ridge)^-1` with centred unembeddings, gains and typical norm scales in them.

    Args:
        a: one model.
        b: the other.
        counts: how often tokens of the two stand for each other.
        scales: typical scale of the final norm of A and of B.
    """
    tokens, often = torch.tensor(list(counts)), torch.tensor(list(counts.values()), dtype=torch.float64)
    share = (often / often.sum())[:, None]
    sides = []
    for model, ids, scale in ((a, tokens[:, 0], scales[0]), (b, tokens[:, 1], scales[1])):
        norm, (weight, _) = model.final_norm, model.unembedding
        rows = weight[ids].double() * (1.0 if norm.gain is None else norm.gain.double()) * scale
        rows = norm.centre(rows)
        sides.append(rows - (share * rows).sum(0))
    one, other = sides
    square = other.T @ (share * other)
    square += WRITE_RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
    return torch.linalg.solve(square, other.T @ (share * one)).T.float()


def _parts(group: Group, scope: Scope, a: Model) -> list[Part]:
    """A group's nodes by layer; the mean scale after attention is folded in later."""
    coders = sorted({ref.coder_id for ref in group.features})
    features = [
        feature_part(a, scope[name], [ref.index for ref in group.features if ref.coder_id == name]) for name in coders
    ]
    layers = sorted({layer for layer, _ in group.heads})
    heads = [head_part(a, layer, [head for at, head in group.heads if at == layer], 1.0) for layer in layers]
    return [*heads, *features]


@final
class _Means:
    """Sums over text: what nodes' values are expected to be given B's states, and typical scales of norms."""

    def __init__(self, a: Model, b: Model, joint: Joint, parts: Sequence[Part]) -> None:
        self.a, self.b, self.joint, self.parts = a, b, joint, parts
        self._sums: list[list[Tensor | float]] = [[0.0, 0.0] for _ in parts]
        self._scales: dict[str, list[Tensor]] = {}

    def see(self, pairs: Sequence[TokenPairs]) -> None:
        """Run both models over text."""
        kinds = {"heads": ("attn_heads", "attn_post_norm_scale"), "features": ("mlp_in",)}
        present = {site.kind for site in self.a.sites()}
        needed = [Site(kind, part.layer) for part in self.parts for kind in kinds[part.kind] if kind in present]
        sites_a = [*dict.fromkeys([*needed, Site("final_norm_scale")])]
        sites_b = [*dict.fromkeys([*map(self.source, self.parts), Site("final_norm_scale")])]
        for rows in paired_states(self.a, self.b, pairs, sites_a, sites_b):
            for name in [each for each in rows.a if "norm_scale" in each]:
                self._scales.setdefault(f"a/{name}", []).append(rows.a[name].flatten())
            self._scales.setdefault("b/final_norm_scale", []).append(rows.b["final_norm_scale"].flatten())
            for sums, part in zip(self._sums, self.parts, strict=True):
                x = rows.b[self.source(part).name].double()
                x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
                sums[0] += x.T @ x
                sums[1] += x.T @ _values(part, rows, self.a).double()

    def source(self, part: Part) -> Site:
        """The site of B that a part reads."""
        return self.joint.source(part.site)

    def expected(self, part: Part) -> Affine:
        """Weight and bias of the regression of a part's values on B's state."""
        square, both = self._sums[list(self.parts).index(part)]
        assert isinstance(square, Tensor)
        assert isinstance(both, Tensor)
        rows, mean, target = square[-1, -1], square[-1, :-1] / square[-1, -1], both[-1] / square[-1, -1]
        spread = square[:-1, :-1] / rows - mean[:, None] * mean
        spread += RIDGE * spread.diagonal().mean() * torch.eye(len(spread), dtype=spread.dtype)
        weight = torch.linalg.solve(spread, both[:-1] / rows - mean[:, None] * target)
        return weight.float(), (target - mean @ weight).float()

    def scale(self, name: str) -> float:
        """Mean of a norm's scale over the text; 1 where the model has no such norm."""
        return float(torch.cat(self._scales[name]).mean()) if name in self._scales else 1.0

    @property
    def scales(self) -> tuple[float, float]:
        """Medians of the scales of both models' final norms."""
        one, other = (float(torch.cat(self._scales[f"{side}/final_norm_scale"]).median()) for side in "ab")
        return one, other


def _values(part: Part, rows: PairedStates, a: Model) -> Float[Tensor, "row nodes"]:
    """What a part's nodes are in A itself."""
    if isinstance(part, HeadPart):
        side = rows.a[f"attn_heads.{part.layer}"].unflatten(-1, (a.n_heads, -1))
        return side[:, part.facts["nodes"]].flatten(1)
    assert isinstance(part, FeaturePart)
    return part.active(rows.a[f"mlp_in.{part.layer}"])


def _station(name: str, part: Part, means: _Means, joint: Joint) -> Station:
    down, base = joint.bridge.down(part.site, means.source(part)), means.expected(part)
    if isinstance(part, HeadPart):
        scale = means.scale(f"a/attn_post_norm_scale.{part.layer}")
        part = HeadPart(part.facts, {**part.weights, "w_o": part.weights["w_o"] * scale})
    maps = (down.weight.float(), down.bias.float()), base
    return Station(part, name, means.source(part), *maps, torch.ones(len(part.names)))


def _centred(graft: Graft, a: Model, neutral: Sequence[Any]) -> Graft:
    """What is written is counted from what the nodes do on neutral text, whatever B's state."""
    stations = list(graft.stations)
    for number, (each, writes) in enumerate(zip(stations, graft.writers, strict=True)):
        part = each.part
        if writes and isinstance(part, FeaturePart):
            site = f"mlp_in.{part.layer}"
            x = a.capture(list(neutral), [site])[site] if neutral else torch.zeros(1, 1, a.d_model)
            mean = part.active(x[x.isfinite().all(-1)]).mean(0) if neutral else torch.zeros(len(part.names))
            base = torch.zeros_like(each.base[0]), mean
            stations[number] = Station(part, each.group, each.source, each.down, base, each.gains)
    return Graft(graft.a, graft.b, tuple(stations), graft.up, graft.target, graft.facts)
