"""Every kind of coder against its formula in a few lines, whatever the sizes."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glassworks.coders import (
    Activation,
    Affine,
    BatchTopK,
    Crosscoder,
    CrossLayer,
    GroupMax,
    JumpReLU,
    Latents,
    PerToken,
    ReLU,
    TopK,
    Transcoder,
    fold,
    gated,
    linear,
    unit_decoder,
)
from glassworks.errors import BadInput, NotFound, Unsupported
from glassworks.sites import Site

PROPERTY = settings(max_examples=25, deadline=None)
D = 5


def clt(layers: int = 3, latents: int = 12, skip: bool = True, causal: bool = True, kind: str = "mlp") -> CrossLayer:
    """A random cross-layer transcoder; or a dense one on the residual stream, as published crosscoders are."""
    reads = [Site("mlp_in" if kind == "mlp" else "resid_post", layer) for layer in range(layers)]
    writes = [Site("mlp_out" if kind == "mlp" else "resid_post", layer) for layer in range(layers)]
    parts = []
    for layer in range(layers):
        weights = {"w_enc": torch.randn(latents, D), "b_enc": torch.randn(latents)}
        weights[f"b_dec.{writes[layer]}"] = torch.randn(D)
        if skip:
            weights[f"w_skip.{writes[layer]}"] = torch.randn(D, D)
        mine = writes[layer if causal else 0 :]
        weights |= {f"w_dec.{site}": torch.randn(latents, D) for site in mine}
        parts.append(Crosscoder([reads[layer]], mine, JumpReLU(torch.rand(latents)), weights))
    return CrossLayer(parts).requires_grad_(False)


def official(coder: CrossLayer, x: torch.Tensor) -> torch.Tensor:
    """The formula of Gemma Scope 2's multi-layer classes on stacked weights: encode all, decode densely, add skips."""
    layers, latents = len(coder.parts), coder.parts[0].d_latent
    w_dec = torch.zeros(layers, latents, len(coder.writes), D)
    affine, b_dec = torch.zeros(layers, D, D), torch.zeros(layers, D)
    for i, part in enumerate(coder.parts):
        own = part.weights()
        for o, site in enumerate(coder.writes):
            if f"w_dec.{site}" in own:
                w_dec[i, :, o] = own[f"w_dec.{site}"]
            b_dec[o] += own.get(f"b_dec.{site}", torch.zeros(D))
            affine[o] += own.get(f"w_skip.{site}", torch.zeros(D, D))
    w_enc = torch.stack([part.w_enc for part in coder.parts])
    z = torch.einsum("tld,lfd->tlf", x, w_enc) + torch.stack([part.b_enc for part in coder.parts])
    a = z.relu() * (z > torch.stack([part.activation.threshold for part in coder.parts]))
    return torch.einsum("tlf,lfod->tod", a, w_dec) + b_dec + torch.einsum("tld,lde->tle", x, affine)


@pytest.mark.parametrize("options", [{}, {"skip": False}, {"causal": False}, {"causal": False, "kind": "resid"}])
def test_the_joint_coder_is_the_official_formula(options):
    coder, x = clt(**options), torch.randn(7, 3, D)
    assert torch.allclose(coder(x), official(coder, x), atol=1e-5)
    latents = coder.encode(x)
    assert torch.equal(coder.reconstruct(latents, x), coder(x))
    for n, site in enumerate(coder.writes):
        assert torch.equal(coder.reconstruct(latents, x, site), coder(x)[:, n])


def test_a_joint_coder_is_the_sum_of_its_parts():
    coder, x = clt(), torch.randn(2, 4, 3, D)
    total = torch.zeros(2, 4, 3, D)
    for layer, part in enumerate(coder.parts):
        total[:, :, layer:] += part(x[:, :, layer]).reshape(2, 4, -1, D)
    assert torch.allclose(coder(x), total, atol=1e-5)
    assert [part.id for part in coder.parts] == ["clt/mlp_in.0", "clt/mlp_in.1", "clt/mlp_in.2"]
    joint, single = coder.encode(x), [part.encode(x[:, :, i]) for i, part in enumerate(coder.parts)]
    assert torch.equal(joint.dense(), torch.cat([each.dense() for each in single], dim=-1))
    assert torch.allclose(coder.preactivations(x)[..., 12:24], coder.parts[1].preactivations(x[:, :, 1]))


def test_rows_of_a_joint_coder_are_those_of_its_parts():
    coder = clt()
    some, local = torch.tensor([30, 1, 13, 12, 35]), torch.tensor([6, 1, 1, 0, 11])
    parts = [coder.parts[each] for each in (2, 0, 1, 1, 2)]
    for get in ("encoder_rows", "encoder_bias"):
        expected = torch.cat([getattr(part, get)(i[None]) for part, i in zip(parts, local, strict=True)])
        assert torch.equal(getattr(coder, get)(some), expected)
    rows = coder.decoder_rows(some, Site("mlp_out", 1))
    assert not rows[[0, 4]].any()
    assert torch.equal(rows[1], coder.parts[0].decoder_rows(local[1:2], Site("mlp_out", 1))[0])
    one = Latents(torch.zeros(1, dtype=torch.long), some[2:3], torch.ones(1), (1, 36))
    step = coder.decode(one, Site("mlp_out", 2)) - coder.bias(Site("mlp_out", 2))
    assert torch.allclose(step, coder.decoder_rows(some[2:3], Site("mlp_out", 2)), atol=1e-6)


def test_values_by_name_come_back_by_name():
    coder, x = clt(), torch.randn(4, 3, D)
    named = coder({site.name: x[:, i] for i, site in enumerate(coder.reads)})
    assert list(named) == ["mlp_out.0", "mlp_out.1", "mlp_out.2"]
    assert torch.equal(torch.stack([*named.values()], dim=-2), coder(x))
    with pytest.raises(BadInput, match=r"mlp_in\.2 are missing"):
        coder({"mlp_in.0": x[:, 0], "mlp_in.1": x[:, 1]})


def test_a_joint_coder_says_what_it_cannot():
    coder = clt()
    with pytest.raises(BadInput, match="reads 3 sites"):
        coder(torch.randn(4, 2, D))
    with pytest.raises(Unsupported, match="take them from its parts"):
        coder.skip(Site("mlp_out", 1))
    with pytest.raises(NotFound, match="does not write"):
        coder.bias(Site("mlp_out", 9))
    with pytest.raises(BadInput, match="reads another site"):
        CrossLayer([coder.parts[0], coder.parts[0]])
    assert clt(skip=False).skip() is None


def acausal(activation: Activation | None = None) -> Crosscoder:
    sites = [Site("resid_post", layer) for layer in (2, 5, 9)]
    weights = {"w_enc": torch.randn(20, 3 * D), "b_enc": torch.randn(20)}
    weights |= {f"w_dec.{site}": torch.randn(20, D) for site in sites}
    weights |= {f"b_dec.{site}": torch.randn(D) for site in sites[1:]}
    return Crosscoder(sites, sites, activation or TopK(4), weights).requires_grad_(False)


def test_an_acausal_crosscoder_reads_all_and_writes_all():
    coder, x = acausal(), torch.randn(6, 3, D)
    w = coder.weights()
    z = sum(x[:, i] @ w["w_enc"][:, i * D : (i + 1) * D].mT for i in range(3)) + w["b_enc"]
    top = z.relu().topk(4)
    a = torch.zeros_like(z).scatter(1, top.indices, top.values)
    y = torch.stack([a @ w[f"w_dec.{site}"] + w.get(f"b_dec.{site}", 0.0) for site in coder.writes], 1)
    assert torch.allclose(coder(x), y, atol=1e-5)
    assert torch.allclose(coder.decode(coder.encode(x)), y, atol=1e-5)
    assert [*coder({site.name: x[:, i] for i, site in enumerate(coder.reads)})] == [s.name for s in coder.writes]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("w_dec.resid_post.9", None, "has the weights"),
        ("w_skip.resid_post.9", torch.zeros(D, D), "has the weights"),
        ("w_enc", torch.zeros(20, 16), "3 read sites"),
        ("w_dec.resid_post.2", torch.zeros(20), "matrices"),
        ("w_dec.resid_post.2", torch.zeros(19, D), "must be"),
    ],
)
def test_crosscoders_that_do_not_fit_are_refused(name, value, says):
    coder = acausal()
    weights = coder.weights() | {name: value}
    with pytest.raises(BadInput, match=says):
        Crosscoder(coder.reads, coder.writes, TopK(4), {n: w for n, w in weights.items() if w is not None})


@PROPERTY
@given(seed=st.integers(0, 10_000))
def test_a_gated_encoder_is_a_threshold(seed):
    """Gate and magnitude of dictionary_learning's GatedAutoEncoder, in float64 so that no tie is broken."""
    torch.manual_seed(seed)
    w, b_gate, b_mag, r_mag = (torch.randn(size).double() for size in ((9, 4), (9,), (9,), (9,)))
    x = torch.randn(30, 4).double()
    slow = ((x @ w.T + b_gate) > 0) * (r_mag.exp() * (x @ w.T) + b_mag).relu()
    w_enc, b_enc, activation = gated(w, b_gate, b_mag, r_mag)
    z = x @ w_enc.T + b_enc
    assert torch.allclose(z * activation.active(z), slow, atol=1e-12)


@PROPERTY
@given(k=st.integers(1, 6), each=st.integers(1, 5), seed=st.integers(0, 999))
def test_groupmax_is_the_largest_of_each_group(k, each, seed):
    z = torch.randn(4, k * each, generator=torch.Generator().manual_seed(seed))
    values, indices = z.relu().unflatten(-1, (k, -1)).max(dim=-1)  # as sparsify has it
    dense = torch.zeros_like(z).scatter(1, indices + each * torch.arange(k), values)
    assert torch.equal(z * GroupMax(k).active(z), dense)


def test_groups_must_be_of_one_size():
    with pytest.raises(BadInput, match="do not make 3 groups"):
        GroupMax(3).active(torch.randn(2, 10))


SIZES = st.tuples(st.integers(1, 30), st.integers(1, 6), st.integers(1, 6), st.integers(0, 9), st.integers(0, 10_000))
VALUES: dict[str, Callable[[int], object]] = {
    "relu": lambda n: ReLU(),
    "topk": lambda n: TopK(3),
    "groupmax": lambda n: GroupMax(1),
    "batch_topk": lambda n: BatchTopK(2),
    "jumprelu": lambda n: JumpReLU(torch.rand(n)),
}


def random(sizes, kind: str) -> tuple[Transcoder, torch.Tensor]:
    latents, d_in, d_out, tokens, seed = sizes
    torch.manual_seed(seed)
    shapes = {"w_enc": (latents, d_in), "b_enc": (latents,), "w_dec": (latents, d_out), "b_dec": (d_out,)}
    weights = {name: torch.randn(shape) for name, shape in shapes.items()}
    coder = Transcoder(Site("mlp_in", 0), Site("mlp_out", 0), VALUES[kind](latents), weights)
    return coder.requires_grad_(False), torch.randn(tokens, d_in)


@PROPERTY
@given(sizes=SIZES, kind=st.sampled_from(sorted(VALUES)), block=st.sampled_from([1, 7, 1 << 24]))
def test_in_blocks_or_at_once_sparse_or_dense(sizes, kind, block):
    """What is encoded does not depend on the blocks; sparse decoding is the dense product."""
    coder, x = random(sizes, kind)
    if kind == "batch_topk" and not len(x):
        return
    z = coder.preactivations(x)
    slow = Latents.from_dense(z, coder.activation.active(z))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "BLOCK", block)
        patch.setattr(linear, "FEWEST", 3)
        fast = coder.encode(x)
    assert (fast.shape, fast.positions.tolist()) == (slow.shape, slow.positions.tolist())
    assert fast.indices.tolist() == slow.indices.tolist()
    assert torch.allclose(fast.values, slow.values, atol=1e-5)
    dense = slow.dense() @ coder.w_dec + coder.b_dec
    assert torch.allclose(coder.decode(fast), dense, atol=1e-4)


@PROPERTY
@given(sizes=SIZES, scale=st.floats(0.01, 100))
def test_folding_changes_no_output(sizes, scale):
    coder, x = random(sizes, "jumprelu")
    coder = coder.double()
    read, write = Affine(torch.randn(sizes[1]).double(), scale), Affine(torch.randn(sizes[2]).double(), 1 / scale)
    folded = fold(coder, read, write)
    assert torch.allclose(folded(x.double()), write.undo(coder(read(x.double()))), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", [clt, lambda: acausal()], ids=["clt", "acausal"])
def test_folding_a_joint_coder_changes_no_output(make):
    coder = make().double()
    read = {site.name: Affine(torch.randn(D).double(), 0.5 + i) for i, site in enumerate(coder.reads)}
    write = {site.name: Affine(torch.randn(D).double(), 3.0 - i / 2) for i, site in enumerate(coder.writes)}
    x = {name: torch.randn(7, D).double() for name in read}
    inside = coder({name: read[name](value) for name, value in x.items()})
    folded = fold(coder, read, write)(x)
    assert set(folded) == set(write)
    for name, scaling in write.items():
        assert torch.allclose(folded[name], scaling.undo(inside[name]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("make", [clt, lambda: acausal(ReLU())], ids=["clt", "acausal"])
def test_unit_rows_of_a_joint_coder_change_no_output(make):
    coder = make().double()
    coder.rename("named")
    unit, x = unit_decoder(coder), {site.name: torch.randn(7, D).double() for site in coder.reads}
    for part in unit.parts:
        rows = torch.cat([part.decoder_rows(torch.arange(part.d_latent), site) for site in part.writes], dim=1)
        assert torch.allclose(rows.norm(dim=1), torch.ones(part.d_latent).double())
    assert unit.id == "named"
    for name, value in coder(x).items():
        assert torch.allclose(unit(x)[name], value, rtol=1e-10, atol=1e-10)


@PROPERTY
@given(sizes=SIZES, kind=st.sampled_from(["relu", "jumprelu"]), data=st.data())
def test_prefixes_nest(sizes, kind, data):
    """A prefix is a coder of the first latents, and a prefix of a prefix is a prefix."""
    coder, x = random(sizes, kind)
    width = data.draw(st.integers(1, coder.d_latent))
    small = coder.prefix(width)
    cut = coder.encode(x).prefix(width)
    assert torch.equal(small.encode(x).indices, cut.indices)
    assert torch.allclose(small.decode(cut), coder.decode(coder.encode(x).prefix(width)), atol=1e-5)
    less = data.draw(st.integers(1, width))
    assert torch.allclose(small.prefix(less)(x), coder.prefix(less)(x), atol=1e-5)
    assert small.prefix(less).weights()["w_dec"].data_ptr() == coder.w_dec.data_ptr()  # nothing is copied


def test_prefixes_of_joint_coders():
    coder, x = clt(), torch.randn(6, 3, D)
    small = coder.prefix(5)
    kept = (torch.arange(36) % 12 < 5) * coder.encode(x).dense()
    assert torch.allclose(small.encode(x).dense(), kept.unflatten(-1, (3, 12))[..., :5].flatten(-2), atol=1e-5)
    assert torch.allclose(small.decode(small.encode(x)), coder.decode(Latents.from_dense(kept)), atol=1e-5)
    assert [part.id for part in small.parts] == [part.id for part in coder.parts]
    with pytest.raises(Unsupported, match="among all latents"):
        acausal().prefix(4)


def test_prefixes_are_a_property():
    weights = random((8, 3, 3, 0, 0), "relu")[0].weights()
    coder = Transcoder(Site("mlp_in", 0), Site("mlp_in", 0), ReLU(), weights, prefixes=[2, 4, 8])
    assert coder.prefixes == (2, 4, 8)
    assert coder.prefix(4).prefixes == (2, 4)
    with pytest.raises(BadInput, match="ascend"):
        Transcoder(Site("mlp_in", 0), Site("mlp_in", 0), ReLU(), weights, prefixes=[4, 2])
    with pytest.raises(BadInput, match="no prefix of 9"):
        coder.prefix(9)
    with pytest.raises(Unsupported, match="among all latents"):
        random((8, 3, 3, 0, 0), "topk")[0].prefix(4)


@PROPERTY
@given(threshold=st.floats(0, 100, width=32))
def test_jumprelu_is_strict(threshold):
    gate = JumpReLU(torch.tensor([threshold]))
    assert not gate.active(gate.threshold[None]).any()
    assert gate.active(torch.nextafter(gate.threshold, torch.tensor(1e9))[None]).all()


@pytest.mark.parametrize("scaling", ["layer_norm", "constant_norm"])
def test_per_token_scaling_is_the_formula(scaling):
    """SAELens' run-time norms: the mean and unbiased deviation, or the length, of each token."""
    inner, x = random((20, 6, 6, 9, 3), "jumprelu")
    coder = PerToken(inner, scaling)
    if scaling == "layer_norm":
        centre, scale = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        scaled = (x - centre) / (scale + 1e-5)
    else:
        centre, scale = 0.0, x.norm(dim=-1, keepdim=True) / 6**0.5
        scaled = x * (6**0.5 / x.norm(dim=-1, keepdim=True))
    assert torch.allclose(coder.encode(x).dense(), inner.encode(scaled).dense(), atol=1e-5)
    assert torch.allclose(coder(x), inner(scaled) * scale + centre, atol=1e-5)
    for call in (coder.encoder_rows, coder.encoder_bias, coder.decoder_rows):
        with pytest.raises(Unsupported, match="no fixed direction"):
            call(torch.tensor([0]))
    for call in (coder.bias, coder.skip, lambda: coder.decode(coder.encode(x))):
        with pytest.raises(Unsupported, match="no fixed direction"):
            call()
    with pytest.raises(Unsupported, match="nearest are layer_norm"):
        PerToken(inner, "layernorm")
