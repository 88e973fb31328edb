"""Bridges between models whose relation is known."""

from pathlib import Path

import pytest
import torch

from glassworks.errors import BadArtefact, BadInput, NotFound
from glassworks.models import Model
from glassworks.transfer import Bridge, align, load_bridge
from glassworks.transfer.bridge import monotone_path
from tests.transfer import worlds


def test_a_rotated_model_is_the_same_model(bridge: Bridge, twins: worlds.Twins):
    one, turned, turn = twins
    assert bridge.layers == {0: 0, 1: 1, 2: 2}
    for site in ("resid_mid.0", "resid_post.0", "resid_pre.2", "resid_post.2"):
        found = bridge.quality(site)
        assert found.up > 0.9999
        assert found.down > 0.9999
        assert found.cka == pytest.approx(1, abs=1e-6)
        up, down = bridge.up(site), bridge.down(site)
        torch.testing.assert_close(up.weight, turn, atol=2e-3, rtol=0)
        text = worlds.texts(1, seed=9)[0]
        x_a, x_b = (model.capture(text, [site])[site] for model in (one, turned))
        torch.testing.assert_close(up(x_a)[1:], x_b[1:], atol=0.02, rtol=0)
        torch.testing.assert_close(down(x_b)[1:], x_a[1:], atol=0.02, rtol=0)


def test_maps_push_directions_and_pull_readers(bridge: Bridge):
    up, x, change = bridge.up("resid_post.1"), torch.randn(4, worlds.WIDTH), torch.randn(worlds.WIDTH)
    torch.testing.assert_close(up(x + change) - up(x), up.push(change).expand(4, -1))
    torch.testing.assert_close(up.push(x) @ change, x @ up.pull(change))
    with pytest.raises(BadInput, match=r"a/resid_post\.1 has width 16; what is to be mapped has 3"):
        up(torch.zeros(3))


def test_shuffled_pairs_have_nothing_in_common(twins: worlds.Twins):
    one, turned, _ = twins
    found = align(one, turned, worlds.texts(300), ["resid_post"], shuffled=3)
    assert all(abs(each.up) < 0.05 and abs(each.down) < 0.05 and abs(each.cka) < 0.1 for each in found.qualities)


def test_the_stream_before_a_block_is_the_stream_after_the_one_before(bridge: Bridge):
    assert bridge.up("resid_pre.2") is bridge.up("resid_post.1", "resid_pre.2")
    assert bridge.up("resid_pre.0", "resid_post.2").target == "b/resid_post.2"


def test_a_bridge_is_read_as_it_was_saved(bridge: Bridge, tmp_path: Path):
    bridge.save(tmp_path / "bridge").verify()
    read = load_bridge(tmp_path / "bridge")
    assert (repr(read), read.qualities, read.facts) == (repr(bridge), bridge.qualities, bridge.facts)
    assert torch.equal(read.up("resid_mid.1").weight, bridge.up("resid_mid.1").weight)
    assert read.down("resid_mid.1").r2 == bridge.down("resid_mid.1").r2
    (tmp_path / "bridge" / "fit.safetensors").unlink()
    with pytest.raises(BadArtefact, match="cannot be read"):
        load_bridge(tmp_path / "bridge")


def test_models_of_other_widths_are_refused(bridge: Bridge, twins: worlds.Twins, lettered: Model):
    bridge.check(*twins[:2])
    config = lettered.hf.config.to_dict() | {"num_hidden_layers": 1}
    other = Model(type(lettered.hf)(type(lettered.hf.config)(**config)), name="other")
    with pytest.raises(BadInput, match="3 layers of width 16; other has 1 of width 16"):
        bridge.check(b=other)


def test_what_was_not_gathered_is_named(bridge: Bridge, twins: worlds.Twins):
    with pytest.raises(NotFound, match=r"No statistics were gathered of attn_out\.1 with attn_out\.1"):
        bridge.up("attn_out.1")
    with pytest.raises(NotFound, match="no layer 7; it has layers 0 to 2"):
        bridge.up("resid_post.7")
    with pytest.raises(BadInput, match="final_norm_scale has no layers"):
        align(*twins[:2], ["red cat"], ["final_norm_scale"])
    with pytest.raises(BadInput, match="too few; give at least 5"):
        align(*twins[:2], ["red cat"])


def test_rows_say_which_tokens_count(twins: worlds.Twins):
    texts = worlds.texts(40)
    words = sum(len(text.split()) for text in texts)
    for rows, count in (("text", words), ("all", words + 40), ("ends", 40)):
        found = align(*twins[:2], texts, ["resid_mid"], rows=rows)
        assert found.fit.rows + found.held.rows == count
    with pytest.raises(NotFound, match="no rows 'end'; the nearest are ends"):
        align(*twins[:2], texts, rows="end")


def test_reach_leaves_out_distant_layers(twins: worlds.Twins):
    near = align(*twins[:2], worlds.texts(20), ["resid_mid"], reach=0.5)
    assert {(each.site_a[-1], each.site_b[-1]) for each in near.qualities} == {
        ("0", "0"), ("0", "1"), ("1", "0"), ("1", "1"), ("1", "2"), ("2", "1"), ("2", "2"),
    }  # fmt: skip
    assert near.layers == {0: 0, 1: 1, 2: 2}


def test_paths_are_the_best_monotone_ones():
    scores = torch.rand(4, 5, generator=torch.Generator().manual_seed(2))
    paths = [(a, b, c, d) for a in range(5) for b in range(a, 5) for c in range(b, 5) for d in range(c, 5)]
    best = max(paths, key=lambda path: sum(float(scores[layer, to]) for layer, to in enumerate(path)))
    assert monotone_path(scores) == [*best]
    assert monotone_path(torch.zeros(3, 3)) == [0, 0, 0]
    barred = torch.tensor([[0.0, 1.0], [2.0, -torch.inf], [0.0, 0.0]])
    assert monotone_path(barred) == [0, 0, 0]
