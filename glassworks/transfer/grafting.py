"""Grafting: take a circuit's rows out of model A, and find what joins them to model B.

The maps into A's space come from a bridge. What each node's value is expected to be, given B's state, is a ridge
regression over the same kind of text. Nothing here needs labels, or knows which texts show the behaviour.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.circuits import Circuit, Group
from glassworks.coders import Scope
from glassworks.errors import BadInput, NotFound, nearest
from glassworks.models import Model
from glassworks.sites import Site
from glassworks.transfer.bridge import Bridge
from glassworks.transfer.graft import Affine, Graft, MappedPart, writers
from glassworks.transfer.pairing import PairedText, TokenPairs, pair, paired_states
from glassworks.transfer.parts import CircuitPart, FeaturePart, HeadPart, feature_part, head_part

RIDGE = 1e-3
WRITE_RIDGE = 0.1
WRITES = ("logits", "states")


@torch.no_grad()
def make_graft(
    circuit: Circuit,
    scope: Scope,
    a: Model,
    b: Model,
    bridge: Bridge,
    texts: Sequence[PairedText],
    neutral: Sequence[Any],
    *,
    write: str = "logits",
    layers: Sequence[int] | None = None,
) -> Graft:
    """Make a graft of a circuit of A for B, all gains 1.

    Args:
        circuit: what is carried.
        scope: the coders of its features.
        a: the model that it is from.
        b: the model that it is for.
        bridge: maps between their states.
        texts: what node values and outputs are fitted on: prompts of the domain with A's own replies, unlabelled, and
            some general text.
        neutral: prompts without the behaviour; what the written nodes do there is subtracted.
        write: `logits`: the map under which A's and B's unembeddings say the same; or `states`: the bridge's own.
        layers: for each layer of A the one of B that it reads; the bridge's partners by default.

    Raises:
        BadInput: the bridge is of other models, the circuit is of another model, or it has no features to write with.
        NotFound: there is no such way to write, head or latent.
        Unsupported: a coder or a head that cannot stand alone.
    """
    if write not in WRITES:
        raise NotFound(f"A graft cannot write by {write!r}; {nearest(write, WRITES)}.")
    if circuit.model != a.name:
        raise BadInput(f"The circuit is of {circuit.model}, not of {a.name}; load that model as A.")
    bridge.check(a, b)
    pairs = pair(a, b, texts, start=True)
    named = [(group.name, part) for group in circuit.groups for part in _parts(group, scope, a)]
    named.sort(key=lambda each: (each[1].layer, each[1].kind == "features"))
    parts = [part for _, part in named]
    if not any(writers(parts)):
        raise BadInput("The circuit's last layer has no features, so it writes nothing; cut it with some.")
    sources = [bridge.partner(p.site) if layers is None else Site(p.site.kind, layers[p.layer]) for p in parts]
    expected, scales = _regress(a, b, pairs, parts, sources)
    mapped = []
    for (name, part), source, base, writes in zip(named, sources, expected, writers(parts), strict=True):
        down = bridge.down(part.site, source)
        if isinstance(part, HeadPart) and f"a/attn_post_norm_scale.{part.layer}" in scales:
            scale = float(scales[f"a/attn_post_norm_scale.{part.layer}"].mean())
            part = HeadPart(part.facts, {**part.weights, "w_o": part.weights["w_o"] * scale})
        if writes and isinstance(part, FeaturePart):
            # What is written is counted from what the nodes do on neutral text, whatever B's state.
            site, mean = f"mlp_in.{part.layer}", torch.zeros(len(part.names))
            if neutral:
                x = a.capture(list(neutral), [site])[site]
                mean = part.active(x[x.isfinite().all(-1)]).mean(0)
            base = torch.zeros_like(base[0]), mean
        maps = (down.weight.float(), down.bias.float()), base
        mapped.append(MappedPart(part, name, source, *maps, torch.ones(len(part.names))))
    target = Site("resid_post", b.n_layers - 1)
    if write == "logits":
        medians = [float(scales[f"{side}/final_norm_scale"].median()) for side in "ab"]
        up = matched_write(a, b, partner_counts(pairs), (medians[0], medians[1]))
    else:
        up = bridge.up(Site("resid_post", a.n_layers - 1), target).weight
    facts = {"write": write, "texts": len(texts), "circuit": circuit.plain()}
    return Graft(a.name, b.name, tuple(mapped), up.float(), target, facts)


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
        counts: how often a token of A and one of B are partners.
        scales: typical scale of the final norm of A and of B.
    """
    tokens, often = torch.tensor(list(counts)), torch.tensor(list(counts.values()), dtype=torch.float64)
    share = (often / often.sum())[:, None]
    sides = []
    for model, ids, scale in ((a, tokens[:, 0], scales[0]), (b, tokens[:, 1], scales[1])):
        norm, (weight, _) = model.final_norm, model.unembedding
        rows = norm.centre(weight[ids].double() * (1.0 if norm.gain is None else norm.gain.double()) * scale)
        sides.append(rows - (share * rows).sum(0))
    one, other = sides
    square = other.T @ (share * other)
    square += WRITE_RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
    return torch.linalg.solve(square, other.T @ (share * one)).T.float()


def _parts(group: Group, scope: Scope, a: Model) -> list[CircuitPart]:
    """A group's nodes by layer and coder; the mean scale of the norm after attention is folded in later."""
    coders = sorted({ref.coder_id for ref in group.features})
    features = [
        feature_part(a, scope[name], [ref.index for ref in group.features if ref.coder_id == name]) for name in coders
    ]
    layers = sorted({layer for layer, _ in group.heads})
    heads = [head_part(a, layer, [head for at, head in group.heads if at == layer], 1.0) for layer in layers]
    return [*heads, *features]


def _regress(
    a: Model, b: Model, pairs: Sequence[TokenPairs], parts: Sequence[CircuitPart], sources: Sequence[Site]
) -> tuple[list[Affine], dict[str, Tensor]]:
    """Ridge regressions of the nodes' values on B's states, and the scales of norms on the text, by side and site."""
    kinds = {"heads": ("attn_heads", "attn_post_norm_scale"), "features": ("mlp_in",)}
    present = {site.kind for site in a.sites()}
    needed = [Site(kind, part.layer) for part in parts for kind in kinds[part.kind] if kind in present]
    sites_a = [*dict.fromkeys([*needed, Site("final_norm_scale")])]
    sites_b = [*dict.fromkeys([*sources, Site("final_norm_scale")])]
    sums: list[tuple[Tensor | float, Tensor | float]] = [(0.0, 0.0)] * len(parts)
    scales: dict[str, list[Tensor]] = {}
    for rows in paired_states(a, b, pairs, sites_a, sites_b):
        for name in [name for name in rows.a if "norm_scale" in name]:
            scales.setdefault(f"a/{name}", []).append(rows.a[name].flatten())
        scales.setdefault("b/final_norm_scale", []).append(rows.b["final_norm_scale"].flatten())
        for number, (part, source) in enumerate(zip(parts, sources, strict=True)):
            if isinstance(part, FeaturePart):
                values = part.active(rows.a[f"mlp_in.{part.layer}"])
            else:
                heads = rows.a[f"attn_heads.{part.layer}"].unflatten(-1, (a.n_heads, -1))
                values = heads[:, part.facts["nodes"]].flatten(1)
            x = rows.b[source.name].double()
            x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
            square, both = sums[number]
            sums[number] = (square + x.T @ x, both + x.T @ values.double())
    affine: list[Affine] = []
    for square, both in sums:
        assert isinstance(square, Tensor)
        assert isinstance(both, Tensor)
        count, mean, target = square[-1, -1], square[-1, :-1] / square[-1, -1], both[-1] / square[-1, -1]
        spread = square[:-1, :-1] / count - mean[:, None] * mean
        spread += RIDGE * spread.diagonal().mean() * torch.eye(len(spread), dtype=spread.dtype)
        weight = torch.linalg.solve(spread, both[:-1] / count - mean[:, None] * target)
        affine.append((weight.float(), (target - mean @ weight).float()))
    return affine, {name: torch.cat(values) for name, values in scales.items()}
