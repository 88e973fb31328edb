"""Matching by oracle: a dictionary permuted, rotated, random, or read on other text."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from glassworks.coders import Crosscoder, JumpReLU, Latents, Transcoder
from glassworks.errors import BadInput
from glassworks.models import Model
from glassworks.sites import Site
from glassworks.transfer import (
    Dictionary,
    Matching,
    PairedStates,
    View,
    carry_unchanged,
    compare_writes,
    follow_chains,
    match_dictionaries,
    norm_difference,
    record_both,
    scale_crosscoder,
    scale_views,
    second_site,
    share_basis,
)
from glassworks.transfer.coactivation import PairSums, Search, coincidences
from glassworks.transfer.scaling import crosscoder_sites
from tests.transfer import worlds

WIDTH, LATENTS, TOKENS = 12, 40, 3000
SITE = Site("resid_post", 0)


def coder(seed: int, site: Site = SITE) -> Transcoder:
    """A coder of random directions that are active on about a tenth of the tokens."""
    made = torch.Generator().manual_seed(seed)
    rows = torch.randn(LATENTS, WIDTH, generator=made)
    return of(rows, torch.randn(LATENTS, WIDTH, generator=made), site)


def of(encoder: Tensor, decoder: Tensor, site: Site = SITE) -> Transcoder:
    weights = {"w_enc": encoder, "b_enc": torch.zeros(len(encoder)), "w_dec": decoder}
    weights["b_dec"] = torch.ones(decoder.shape[1])
    threshold = 1.3 * encoder.norm(dim=1)
    return Transcoder(site, site, JumpReLU(threshold), weights).requires_grad_(False)


def states(seed: int) -> Tensor:
    return torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed))


def rows(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> list[PairedStates]:
    """Thirty texts in three parts."""
    documents = torch.arange(TOKENS) % 30
    places = torch.arange(TOKENS)
    return [
        PairedStates(
            {k: v[part] for k, v in a.items()}, {k: v[part] for k, v in b.items()}, documents[part], places[part]
        )
        for part in torch.arange(TOKENS).chunk(3)
    ]


def found(mine: Transcoder, other: Transcoder, turn: Tensor | None = None, shuffled: bool = False) -> Matching:
    halves = []
    for seed in (0, 1):
        x = states(seed)
        y = x if turn is None else x @ turn
        y = y[torch.randperm(TOKENS, generator=torch.Generator().manual_seed(3))] if shuffled else y
        halves.append(rows({str(SITE): x}, {str(SITE): y}))
    return match_dictionaries(Dictionary({"a": mine}), Dictionary({"b": other}), *halves)


def test_a_permuted_dictionary_is_found_feature_by_feature():
    mine, order = coder(0), torch.randperm(LATENTS, generator=torch.Generator().manual_seed(5))
    other = of(mine.encoder_rows(order), mine.decoder_rows(order))
    result = found(mine, other)
    side = result.forward
    assert side.alive.all()
    torch.testing.assert_close(side.r, torch.ones(LATENTS))
    assert (order[side.partner] == torch.arange(LATENTS)).all()
    assert (order[result.one_to_one] == torch.arange(LATENTS)).all()
    assert side.whole.found == (1.0, 1.0, 1.0) == result.backward.whole.found
    assert result.mutual.all()
    assert side.whole.chance < 0.8
    assert abs(side.whole.permuted) < 0.1
    plain = result.plain()
    assert plain["one_to_one"] == {"pairs": LATENTS, "r": pytest.approx(1.0)}
    assert plain["a_in_b"]["shares"] == (((1.0, 1.0, 1.0),),)
    assert side.matches(1)[0]["r"] == 1.0
    assert side.matches(found=False) == []


def test_a_random_dictionary_is_inside_the_null():
    mine = coder(0)
    x = {str(SITE): states(7)}
    shares = [
        found(mine, Dictionary({"a": mine}).twin(x, seed).coders["a"]).forward.whole.found[0]
        for seed in (11, 12, 13, 14)
    ]
    assert sum(shares) / len(shares) <= 0.15  # 0.05 is meant; 40 features and four dictionaries are few


def test_other_text_has_nothing_in_common():
    mine = coder(0)
    result = found(mine, mine, shuffled=True)
    assert result.forward.whole.found[0] <= 0.15
    assert abs(result.forward.whole.r[0]) < 0.1


def test_a_turned_model_writes_the_same_through_the_map():
    mine, turn = coder(0), worlds.rotation(2, WIDTH)
    order = torch.randperm(LATENTS, generator=torch.Generator().manual_seed(6))
    other = of((mine.encoder_rows(order) @ turn), mine.decoder_rows(order) @ turn)
    result = found(mine, other, turn)
    assert result.forward.found.all()
    known = compare_writes(result.forward, lambda *_: lambda vectors: vectors @ turn)
    torch.testing.assert_close(known.cosine, torch.ones(LATENTS))
    assert known.mean[0] == pytest.approx(1.0)
    assert known.mean_rank[0] > 0.95
    assert abs(known.chance) < 0.2
    unaware = compare_writes(result.forward, carry_unchanged)
    assert abs(unaware.mean[0]) < 0.4
    nothing = compare_writes(result.forward, lambda *_: None)
    assert nothing.cosine.isnan().all()


def test_silent_features_are_not_judged():
    mine = coder(0)
    threshold = torch.where(torch.arange(LATENTS) < 7, 1e9, mine.activation_tensors()["threshold"])
    quiet = of(mine.encoder_rows(torch.arange(LATENTS)), mine.decoder_rows(torch.arange(LATENTS)))
    quiet.activation = JumpReLU(threshold)
    side = found(quiet, mine).forward
    assert (side.whole.alive, side.whole.silent) == (LATENTS - 7, 7)
    assert not side.found[:7].any()


def test_sums_are_those_of_dense_activations():
    mine, other = Dictionary({"a": coder(0)}), Dictionary({"b": coder(1), "c": coder(2)})
    search, blocks = Search(mine.width, other.width), torch.arange(TOKENS) % 5
    every = torch.cartesian_prod(torch.arange(mine.width), torch.arange(other.width)).T
    sums = PairSums(*every, mine.width, other.width)
    x = {str(SITE): states(0)}
    whole = mine.encode(x).dense(), other.encode(x).dense()
    for part in torch.arange(TOKENS).chunk(4):
        encoded = mine.encode({str(SITE): x[str(SITE)][part]}), other.encode({str(SITE): x[str(SITE)][part]})
        search.add(*encoded)
        sums.add(*encoded, blocks[part])
    dense = torch.corrcoef(torch.cat(whole, 1).double().T)[: mine.width, mine.width :]
    products = search.pairs
    torch.testing.assert_close(products.r, dense[products.left, products.right])
    drawn = sums.correlations(*every)
    torch.testing.assert_close(drawn[0].double().view_as(dense), dense, atol=1e-5, rtol=0)
    assert (
        (drawn[1:].quantile(0.001, 0) <= drawn[0]) & (drawn[0] <= drawn[1:].quantile(0.999, 0))
    ).float().mean() > 0.9
    assert sums.correlations(torch.tensor([-1]), torch.tensor([3]))[0].item() == 0
    by_coder, best = products.best(mine.width, other.home, 2)
    assert (dense[torch.arange(mine.width), best] == dense.amax(1)).all()
    assert (dense[torch.arange(mine.width), by_coder[:, 1]] == dense[:, LATENTS:].amax(1)).all()


def test_one_to_one_leaves_no_two_that_prefer_each_other():
    mine, other = Dictionary({"a": coder(0)}), Dictionary({"b": coder(1)})
    search = Search(mine.width, other.width)
    x = {str(SITE): states(0)}
    search.add(mine.encode(x), other.encode(x))
    products = search.pairs
    partner = products.one_to_one(mine.width, other.width)
    r = torch.full((mine.width, other.width), -1.0, dtype=torch.float64)
    r[products.left, products.right] = products.r
    held = torch.where(partner >= 0, r[torch.arange(mine.width), partner], 0.0)
    theirs = torch.zeros(other.width, dtype=torch.float64)
    theirs[partner[partner >= 0]] = held[partner >= 0]
    assert len(set(partner[partner >= 0].tolist())) == int((partner >= 0).sum())
    assert not ((r > held[:, None]) & (r > theirs[None])).any()


def test_coincidences_come_in_parts_and_once_each():
    dense = (torch.rand(50, 6) > 0.6).float(), (torch.rand(50, 9) > 0.5).float()
    a, b = (Latents.from_dense(each) for each in dense)
    counts = torch.zeros(6, 9)
    for left, right in coincidences(a, b, most=17):
        assert (a.positions[left] == b.positions[right]).all()
        counts.index_put_((a.indices[left], b.indices[right]), torch.ones(len(left)), accumulate=True)
    torch.testing.assert_close(counts, dense[0].T @ dense[1])


def test_concepts_are_followed_up_and_new_ones_are_born():
    first, second_ = coder(0, Site("resid_post", 0)), Site("resid_post", 1)
    order = torch.randperm(LATENTS, generator=torch.Generator().manual_seed(8))
    kept = order[: LATENTS // 2]
    fresh = coder(9).encoder_rows(torch.arange(LATENTS // 2))
    encoder = torch.cat([first.encoder_rows(kept), fresh])
    decoder = torch.cat([first.decoder_rows(kept), fresh])
    layers = Dictionary({"low": first, "high": of(encoder, decoder, second_)})
    halves = [rows(x, x) for x in ({str(SITE): states(s), str(second_): states(s)} for s in (0, 1))]
    result = follow_chains(match_dictionaries(layers, layers, *halves).forward, "m")
    (step,) = result.steps
    chains = {each.features for each in result.chains}
    assert {(f"low/{each}", f"high/{place}") for place, each in enumerate(kept.tolist())} <= chains
    assert step.chained - LATENTS // 2 <= 6
    assert step.going_on[0] == pytest.approx(0.5, abs=0.15)
    assert step.known[0] == pytest.approx(0.5, abs=0.2)  # twenty features: one or two by chance
    assert result.chains[0].r == (1.0,)
    assert result.chains[0].cosine == (1.0,)
    assert result.plain()["lengths"] == {"2": step.chained}


def test_planted_scales_are_recovered():
    """A holds every feature s times as strongly as B; what B's coder writes is orthogonal, so betas are exact."""
    scale = torch.linspace(0, 1, WIDTH)
    own = of(torch.eye(WIDTH), torch.linalg.qr(torch.randn(WIDTH, WIDTH))[0] * 3)
    own_latents = own.encode(states(0))
    written_b = own.decode(own_latents) - own.bias()
    written_a = (own_latents.dense() * scale) @ own.decoder_rows(torch.arange(WIDTH))
    documents, none = torch.arange(TOKENS) % 30, torch.zeros(TOKENS, WIDTH)
    dictionary = Dictionary({"own": own}, {"own": [f"f{n}" for n in range(WIDTH)]})
    rebuilt = scale_views(dictionary, [View("own", own_latents, (written_a, written_b), (none, none), documents)])
    torch.testing.assert_close(rebuilt.ratios[0], scale, atol=1e-5, rtol=0)
    left = scale_views(dictionary, [View("own", own_latents, (none, written_b), (written_a, none), documents)])
    torch.testing.assert_close(left.ratios[1], scale, atol=1e-5, rtol=0)
    torch.testing.assert_close(left.ratios[0], torch.zeros(WIDTH))
    assert (rebuilt.new == (scale < 0.5)).all()
    assert (left.new == (scale < 0.2)).all()
    assert ((rebuilt.spans[0] <= rebuilt.ratios + 1e-5) & (rebuilt.ratios <= rebuilt.spans[1] + 1e-5)).all()
    record = rebuilt.records(1)[0]
    assert (record["feature"], record["label"]) == ("own/0", "f0")
    assert rebuilt.plain()["new"] == int((scale < 0.5).sum())


def test_a_crosscoder_over_two_models_tells_whose_a_latent_is():
    one = worlds.tiny_llama(1)
    a, b = Model(one, worlds.by_words(), "base"), Model(one, worlds.by_words(), "tuned")
    assert share_basis(a, b)
    texts = worlds.texts(60)
    recording = record_both(a, b, texts, ["resid_post.1"])
    site, other = Site("resid_post", 1), second_site(Site("resid_post", 1), a.n_layers)
    assert recording.sites == [str(site), str(other)]
    torch.testing.assert_close(recording.values[str(site)], recording.values[str(other)])
    latents = 10
    decoder = torch.randn(latents, worlds.WIDTH)
    share = torch.tensor([0.0, 0.5, *[1.0] * 8])[:, None]
    weights = {
        "w_enc": torch.randn(latents, 2 * worlds.WIDTH),
        "b_enc": torch.zeros(latents),
        f"w_dec.{site}": decoder * share,
        f"w_dec.{other}": decoder,
    }
    crosscoder = Crosscoder([site, other], [site, other], JumpReLU(torch.zeros(latents)), weights).requires_grad_(False)
    result = scale_crosscoder(crosscoder, a, b, texts)
    assert result.norms is not None
    torch.testing.assert_close(result.norms, torch.tensor([1.0, 0.75, *[0.5] * 8]))
    # Both models are the same, so beside what the crosscoder says of A, each latent explains as much in A as in B.
    whole = result.betas.sum(1)  # rebuilt and left over with the feature's own part: all but it, and it
    expected = whole[1] - 1 + share[:, 0]
    torch.testing.assert_close(whole[0, result.alive], expected[result.alive], atol=1e-3, rtol=1e-3)
    with pytest.raises(BadInput, match="numbered on from 5"):
        crosscoder_sites(crosscoder, 5)


def test_norm_difference_is_0_for_a_alone_and_1_for_b_alone():
    a, b = torch.tensor([[1.0, 0], [0, 0], [3, 4], [1, 0]]), torch.tensor([[0.0, 0], [0, 2], [5, 0], [2, 0]])
    torch.testing.assert_close(norm_difference(a, b), torch.tensor([0.0, 1.0, 0.5, 0.75]))
