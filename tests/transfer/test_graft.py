"""Oracles of grafts: between a model and itself rotated, a graft does exactly what its circuit does."""

from dataclasses import replace

import pytest
import torch

from glassworks.circuits import Circuit, Group
from glassworks.coders import Scope, Transcoder
from glassworks.coders.activations import JumpReLU
from glassworks.edits import FeatureRef
from glassworks.errors import BadInput, NotFound, Unsupported
from glassworks.models import Model
from glassworks.sites import Site
from glassworks.transfer import Bridge, Demonstrations, Fitting, Graft, fit_gains, load_graft, make_graft, pair
from glassworks.transfer.grafting import partner_counts
from glassworks.transfer.parts import HeadPart, head_part
from tests.transfer import worlds

FEATURES = 6


def coder(layer: int) -> Transcoder:
    generator = torch.Generator().manual_seed(layer)
    weights = {
        "w_enc": torch.randn(FEATURES, worlds.WIDTH, generator=generator),
        "b_enc": torch.zeros(FEATURES),
        "w_dec": torch.randn(FEATURES, worlds.WIDTH, generator=generator),
        "b_dec": torch.zeros(worlds.WIDTH),
    }
    sites = Site("mlp_in", layer), Site("mlp_out", layer)
    made = Transcoder(*sites, JumpReLU(torch.full((FEATURES,), 0.1)), weights)
    made.rename(f"mlp_in.{layer}")
    return made


@pytest.fixture(scope="module")
def scope() -> Scope:
    coders = {f"mlp_in.{layer}": coder(layer) for layer in range(worlds.LAYERS)}
    return Scope("tiny", "one", coders, [*coders])


@pytest.fixture(scope="module")
def circuit() -> Circuit:
    def features(layer: int) -> Group:
        refs = tuple(FeatureRef(f"mlp_in.{layer}", None, index) for index in (0, 3))
        return Group(f"features {layer}", refs)

    return Circuit("one", "tiny", (features(0), Group("looking", heads=((1, 0), (1, 1))), features(2)), {})


@pytest.fixture(scope="module")
def graft(twins: worlds.Twins, bridge: Bridge, scope, circuit) -> Graft:
    one, turned, _ = twins
    texts = worlds.texts(100)
    return make_graft(circuit, scope, one, turned, bridge, texts, texts[:10], write="states")


def test_heads_alone_are_the_model_s_heads(twins):
    one = twins[0]
    text = worlds.texts(1, seed=9)[0]
    found = one.capture(text, ["resid_pre.1", "attn_heads.1", "attn_out.1"])
    part = head_part(one, 1, [0, 1], 1.0)
    values = part.read(found["resid_pre.1"][None], 0, {})
    torch.testing.assert_close(values[0].flatten(1), found["attn_heads.1"].flatten(1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(part.write(values)[0], found["attn_out.1"], atol=1e-5, rtol=1e-4)


def test_heads_step_by_step_are_heads_at_once(twins):
    one = twins[0]
    x = one.capture(worlds.texts(1, seed=9)[0], ["resid_pre.1"])["resid_pre.1"][None]
    part, memory = head_part(one, 1, [1], 1.0), {}
    steps = [part.read(x[:, at : at + 1], at, memory) for at in range(x.shape[1])]
    torch.testing.assert_close(torch.cat(steps, 1), part.read(x, 0, {}))


def test_a_graft_reads_and_writes_what_the_circuit_would(twins, graft, scope):
    """With exact maps: a feature of the last layer alone writes its activation times its row, turned."""
    one, turned, turn = twins
    text = worlds.texts(1, seed=4)[0]
    states = {site: turned.capture(text, [site])[site.name][None] for site in graft.reads}
    alone = graft.only("features 2")
    part = alone.parts[-1]
    base = torch.zeros_like(part.base[1])
    alone = replace(alone, parts=(*alone.parts[:-1], replace(part, base=(part.base[0], base))))
    x = one.capture(text, ["mlp_in.2"])["mlp_in.2"]
    dense = scope["mlp_in.2"].encode(x).dense()[:, [0, 3]]
    expected = dense @ scope["mlp_in.2"].decoder_rows(torch.tensor([0, 3])) @ turn
    torch.testing.assert_close(alone.delta(states)[0], expected, atol=2e-2, rtol=2e-2)


def test_what_the_map_can_foresee_changes_nothing(twins, graft):
    """Linear nodes have no news for the other model: heads that look at one place only are foreseen."""
    part = next(each for each in graft.parts if isinstance(each.part, HeadPart))
    x = twins[1].capture(worlds.texts(1, seed=6)[0], [part.source])[part.source.name][None, :1]
    assert part.change(x, 0.0, 0, {}, part.gains).shape == (1, 1, worlds.WIDTH)


def test_generation_with_a_cache_is_generation_without(twins, graft):
    turned, strong = twins[1], graft.with_gains(graft.gains * 3)
    prompt = worlds.texts(1, seed=2)[0]
    with turned.edit(strong):
        cached = turned.generate(prompt, 12)
    with turned.edit(strong), turned.tapped({Site("embed"): lambda _: None}):
        assert turned.generate(prompt, 12) == cached


def test_gains_of_nothing_change_nothing(twins, graft):
    turned, text = twins[1], worlds.texts(1, seed=3)[0]
    clean = turned.capture(text, ["logits"])["logits"]
    with turned.edit(graft.without(*graft.groups)):
        torch.testing.assert_close(turned.capture(text, ["logits"])["logits"], clean)
    with turned.edit(graft):
        assert not torch.allclose(turned.capture(text, ["logits"])["logits"], clean)


def test_fitting_makes_the_reply_likelier(twins, graft):
    turned = twins[1]
    texts = worlds.texts(30, seed=8)
    shown = Demonstrations(texts[:4], " cat", texts[4:8], texts[8:16])

    def likely(some: Graft) -> float:
        with turned.edit(some):
            scores = [turned.capture(each, ["logits"])["logits"][-1].log_softmax(-1) for each in shown.wanted]
        return float(torch.stack(scores)[:, turned.token_id(" cat")].mean())

    fitted = fit_gains(graft, turned, shown, Fitting("node", steps=40, still=0.0, quiet=0.0))
    assert likely(fitted) > likely(graft) + 0.1
    one = fit_gains(graft, turned, shown, Fitting("one", steps=3))
    inner = torch.tensor([not writes for each, writes in zip(one.parts, one.writers, strict=True) for _ in each.gains])
    assert torch.equal(one.gains[inner], graft.gains[inner])


def test_a_graft_is_saved_and_loaded(tmp_path, twins, graft):
    graft.save(tmp_path / "graft")
    again, text = load_graft(tmp_path / "graft"), worlds.texts(1, seed=5)[0]
    scores = []
    for each in (graft, again):
        with twins[1].edit(each):
            scores.append(twins[1].capture(text, ["logits"])["logits"])
    torch.testing.assert_close(*scores)
    assert again.groups == ["features 0", "looking", "features 2"]


def test_partners_are_counted(twins):
    one, turned, _ = twins
    counts = partner_counts(pair(one, turned, ["red cat red"]))
    assert sorted(counts.values()) == [1, 1, 1] or sum(counts.values()) == 3


def test_what_does_not_fit_is_refused(twins, bridge, graft, scope, circuit, lettered):
    one, turned, _ = twins
    texts = worlds.texts(20)
    with pytest.raises(NotFound, match="has no group 'looks'; the nearest are looking"):
        graft.without("looks")
    with pytest.raises(NotFound, match="cannot write by 'state'"):
        make_graft(circuit, scope, one, turned, bridge, texts, texts, write="state")
    with pytest.raises(BadInput, match="The circuit is of one, not of turned"):
        make_graft(circuit, scope, turned, one, bridge, texts, texts)
    without = circuit.replaced([Group("looking", heads=((1, 0),))])
    with pytest.raises(BadInput, match="writes nothing"):
        make_graft(without, scope, one, turned, bridge, texts, texts)
    with pytest.raises(NotFound, match="has no head 7"):
        head_part(one, 0, [7], 1.0)
    with pytest.raises(Unsupported, match="MLPs are frozen"), turned.edit(graft, frozen=("mlps",)):
        pass
    with pytest.raises(BadInput, match="2 to 16 prompts"):
        Demonstrations(texts[:9], " cat", texts[:9], texts)
    assert isinstance(lettered, Model)
