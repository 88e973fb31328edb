"""Directions and coders, carried between a model and the same model rotated."""

import pytest
import torch

from glassworks.coders import Coder, Crosscoder, JumpReLU, Transcoder
from glassworks.errors import BadInput, NotFound, Unsupported
from glassworks.sites import Site
from glassworks.transfer import (
    Bridge,
    Standing,
    auroc,
    carry_coder,
    carry_direction,
    contrast,
    discrimination,
    halves,
    race,
    random_like,
    steering,
)
from tests.transfer import worlds

D = worlds.WIDTH


def coder(read: str, write: str, skip: bool = False, latents: int = 40, width: int = D) -> Transcoder:
    draw = torch.Generator().manual_seed(3)
    weights = {
        "w_enc": torch.randn(latents, width, generator=draw),
        "b_enc": torch.randn(latents, generator=draw),
        "w_dec": torch.randn(latents, width, generator=draw),
        "b_dec": torch.randn(width, generator=draw),
    }
    weights |= {"w_skip": torch.randn(width, width, generator=draw)} if skip else {}
    return Transcoder(Site.parse(read), Site.parse(write), JumpReLU(torch.full((latents,), 0.5)), weights)


@pytest.mark.parametrize(("read", "write", "skip"), [("mlp_in.1", "mlp_out.1", True), ("resid_post.1",) * 2 + (False,)])
def test_a_coder_carried_over_an_exact_map_is_exact(
    bridge: Bridge, twins: worlds.Twins, read: str, write: str, skip: bool
):
    one, turned, turn = twins
    mine = coder(read, write, skip)
    carried = carry_coder(bridge, mine)
    assert (carried.reads, carried.writes) == (mine.reads, mine.writes)
    x_a, x_b = (model.capture("red cat and the blue dog", [read])[read][1:] for model in (one, turned))
    torch.testing.assert_close(carried.preactivations(x_b), mine.preactivations(x_a), atol=0.05, rtol=1e-3)
    torch.testing.assert_close(carried(x_b), mine(x_a) @ turn, atol=0.1, rtol=1e-2)


def test_a_coder_that_cannot_be_carried_is_refused(bridge: Bridge):
    sites = [Site("resid_post", 0), Site("resid_post", 1)]
    weights = {"w_enc": torch.zeros(4, 2 * D), "b_enc": torch.zeros(4)}
    for site in sites:
        weights |= {f"w_dec.{site}": torch.zeros(4, D), f"b_dec.{site}": torch.zeros(D)}
    wide = Crosscoder(sites, sites, JumpReLU(torch.zeros(4)), weights)
    with pytest.raises(Unsupported, match="several sites"):
        carry_coder(bridge, wide)
    with pytest.raises(NotFound, match="No statistics were gathered"):
        carry_coder(bridge, coder("attn_out.0", "attn_out.0"))
    small = coder("mlp_in.0", "mlp_out.0", width=5)
    with pytest.raises(BadInput, match=r"a/mlp_in\.0 has width 16; what is to be mapped has 5"):
        carry_coder(bridge, small)


@pytest.mark.slow
def test_a_carried_coder_races_one_from_scratch(bridge: Bridge, twins: worlds.Twins):
    mine: Coder = coder("resid_post.1", "resid_post.1")
    found = race(bridge, mine, *twins[:2], worlds.texts(200), steps=30, batch=64)
    assert [row["coder"] for row in found.plain()] == ["in A", "carried", "carried and tuned", "from scratch"]
    home, carried, tuned, scratch = found.figures.values()
    assert carried.fvu == pytest.approx(home.fvu, rel=1e-2)
    assert carried.l0 == pytest.approx(home.l0, rel=1e-2)
    assert tuned.fvu < carried.fvu
    assert found.tokens == 30 * 64
    assert scratch.tokens == tuned.tokens == home.tokens
    alone = race(bridge, mine, *twins[:2], worlds.texts(200), steps=0)
    assert [*alone.coders] == ["carried"]
    assert alone.figures["carried"] == found.figures["carried"]
    with pytest.raises(BadInput, match="at least 5 texts"):
        race(bridge, mine, *twins[:2], ["red"])


def test_a_direction_carried_over_an_exact_map_is_exact(bridge: Bridge, twins: worlds.Twins):
    turn, direction = twins[2], torch.randn(D)
    found = carry_direction(bridge, "resid_post.1", direction)
    torch.testing.assert_close(found.write, direction @ turn, atol=0.01, rtol=0)
    torch.testing.assert_close(found.read, direction @ turn, atol=0.01, rtol=0)
    assert found.agreement.value > 0.9999
    assert found.agreement.percentile == 100
    assert found.agreement.high < 0.9
    assert (found.site_a, found.site_b) == ("resid_post.1", "resid_post.1")
    for wrong in (torch.zeros(D), torch.full((D,), torch.nan)):
        with pytest.raises(BadInput, match="is zero, or holds"):
            carry_direction(bridge, "resid_post.1", wrong)
    with pytest.raises(BadInput, match="has width 16"):
        carry_direction(bridge, "resid_post.1", torch.ones(3))


def test_correlations_are_those_of_the_rows(bridge: Bridge, twins: worlds.Twins):
    """Of a direction that is not a partner: the held-out sums say what the held-out rows say."""
    texts = [text for number, text in enumerate(worlds.texts(300)) if number % 5 == 4]
    x_a, x_b = (
        torch.cat([model.capture(text, ["resid_post.0"])["resid_post.0"][1:] for text in texts]) for model in twins[:2]
    )
    direction = torch.randn(D)
    found = carry_direction(bridge, "resid_post.0", direction, randoms=1)
    random = random_like(found.read, 1, 0)[0]
    expected = torch.corrcoef(torch.stack([x_a @ direction, x_b @ random]))[0, 1].abs()
    assert found.agreement.median == pytest.approx(float(expected), abs=1e-4)


def test_random_directions_have_the_same_length():
    drawn = random_like(torch.full((D,), 2.0), 50, seed=1)
    torch.testing.assert_close(drawn.norm(dim=1), torch.full((50,), 8.0))
    found = Standing.among(3.0, torch.arange(5.0))
    assert (found.percentile, found.median, found.randoms) == (60.0, 2.0, 5)


def test_auroc_counts_ties_half():
    high, low = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [1.0]])
    assert auroc(high, low).item() == 0.875


def test_a_contrast_tells_its_prompts_apart(twins: worlds.Twins):
    kinds = (
        [text + " cat" for text in worlds.texts(20, seed=4)],
        [text + " dog" for text in worlds.texts(20, seed=5)],
    )
    train, judge = zip(*map(halves, kinds), strict=True)
    assert len(train[0]) + len(judge[0]) == 20
    direction = contrast(twins[0], "resid_post.0", train)
    found = discrimination(twins[0], "resid_post.0", direction, judge)
    assert found.value > 0.9
    assert found.percentile > 50
    with pytest.raises(BadInput, match="There are 1 prompts"):
        halves(["red"])


def test_steering_is_compared_with_random_directions(twins: worlds.Twins):
    one = twins[0]
    rows = one.unembedding[0]
    tokens = (one.token_id("cat"), one.token_id("dog"))
    found = steering(one, "resid_post.2", 3 * (rows[tokens[0]] - rows[tokens[1]]), worlds.texts(4), tokens, randoms=20)
    assert found.value > found.high > 0
    assert found.percentile == 100
