"""Fleets: a table in, a scope out; what cannot be trained is refused or set aside in one sentence."""

from dataclasses import replace

import pytest
import torch

from glassworks.coders import load_scope, save_scope
from glassworks.errors import BadInput, GlassworksError, NotFound
from glassworks.evals import fidelity
from glassworks.harvest import Recording, Rows
from glassworks.sites import Site
from glassworks.train import (
    RECIPES,
    Adam,
    AuxK,
    Axes,
    Dead,
    Fleet,
    Ramp,
    Rate,
    Reconstruction,
    Start,
    fit,
    layouts,
    table,
)

from .conftest import SITES


@pytest.mark.slow
def test_finds_a_planted_dictionary(planted, member, stream):
    truth, recording = planted
    fleet = fit(Fleet([member()], stream(256)))
    coder = fleet.scope("a scope", "a model")["a"]
    found = coder.decoder_rows(torch.arange(coder.d_latent))
    assert (truth @ found.T).max(1).values.mean() > 0.95
    measured = fidelity(coder, recording.values)
    assert measured.fvu < 0.1
    assert 2.5 < measured.l0 < 3.5


def test_a_table_becomes_a_scope(stream, tmp_path):
    rows = stream(64)
    members = table("topk", layouts("sae", SITES[-2:]), Axes([16, 32], [2, 4], [0, 1]), rows, 3, {"rate": 1e-3})
    members += table("clt", layouts("clt", SITES), Axes([16], [3]), rows, 3)
    members += table("batchtopk", layouts("skip_transcoder", SITES), Axes([16], [3]), rows, 3)
    fleet = fit(Fleet(members, rows))
    save_scope(fleet.scope("a scope", "a model"), tmp_path / "scope")
    scope = load_scope(tmp_path / "scope")
    assert len(scope) == 16 + 1 + 2
    assert scope.select("resid_post.1", width=32, l0=4, tags=["seed_1"]).d_latent == 32
    assert scope.select("mlp_in.0", kind="transcoder", tags="affine").skip() is not None
    assert {entry.kind for entry in scope.entries} == {"sae", "clt", "transcoder"}
    assert scope["clt"].parts[0].writes == (Site("mlp_out", 0), Site("mlp_out", 1))
    measured = fleet.measure(scope, 2)
    assert set(measured) == set(scope)
    assert all(each["tokens"] == 128 for each in measured.values())


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_every_kind(stream, name):
    rows, members = stream(32), []
    for kind in ("sae", "transcoder", "skip_transcoder", "clt", "crosscoder", "causal_crosscoder"):
        sites = SITES[-2:] if kind in ("sae", "crosscoder", "causal_crosscoder") else SITES
        found = table(name, layouts(kind, sites)[:1], Axes([16], [3]), rows, 4, {"rate": 1e-3})
        members += [replace(each, name=kind) for each in found]
    fleet = fit(Fleet(members, rows))
    assert not fleet.failed
    assert all(torch.isfinite(torch.tensor([*each.values()])).all() for each in fleet.numbers().values())
    assert len(fleet.scope("a scope", "a model")) == 6


def test_a_failed_member_does_not_stop_the_others(member, stream):
    fleet = Fleet([member("good", steps=6), member("bad", steps=6)], stream())
    with torch.no_grad():
        fleet.trainees[1].learner.b_dec[0] = torch.nan
    fit(fleet)
    assert list(fleet.failed) == ["bad"]
    assert "reconstruction is not finite at step 0" in fleet.failed["bad"]
    scope = fleet.scope("a scope", "a model")
    assert list(scope) == ["good"]
    assert scope.metrics["failed"] == fleet.failed
    assert all(bool(value.isfinite().all()) for value in scope["good"].state_dict().values())


def test_nothing_is_left(member, stream):
    fleet = Fleet([member(steps=3)], stream())
    with torch.no_grad():
        fleet.trainees[0].learner.b_dec[0] = torch.nan
    with pytest.raises(GlassworksError, match="not finite"):
        fit(fleet)


def test_members_are_the_same_alone_and_together(member, stream):
    both = fit(Fleet([member("a", steps=9), member("b", seed=3, steps=5)], stream()))
    alone = fit(Fleet([member("b", seed=3, steps=5)], stream()))
    for name, value in alone.trainees[0].learner.state_dict().items():
        assert torch.equal(value, both.trainees[1].learner.state_dict()[name]), name


@pytest.mark.slow
def test_dead_latents_are_revived(member, stream):
    def dead(weight: float, every: int) -> float:
        terms = ((Ramp(1.0), Reconstruction()), (Ramp(weight), AuxK(8)))
        adam = Adam(Rate(1e-2))
        fleet = Fleet([member(steps=150, terms=terms, adam=adam, dead=Dead(1000, every, 120))], stream(256))
        with torch.no_grad():
            fleet.trainees[0].learner.parts[0].b_enc[:40] = -0.8
        fit(fleet)
        return fleet.measure(fleet.scope("a", "b"))["a"]["dead"]

    assert dead(0.0, 0) >= 0.5
    assert dead(0.5, 0) <= 0.25
    assert dead(0.0, 20) <= 0.45


def test_coders_that_write_elsewhere_learn_faster_from_decoders_at_zero(stream):
    def unexplained(changes: dict) -> float:
        members = table("topk", layouts("transcoder", SITES), Axes([60], [3]), stream(256), 60, {"rate": 1e-2})
        members = [replace(each, objective=replace(each.objective, **changes)) for each in members]
        fleet = fit(Fleet(members, stream(256)))
        return sum(each["fvu"] for each in fleet.measure(fleet.scope("a", "b")).values())

    assert unexplained({}) < 0.9 * unexplained({"start": Start(), "unit": True})


def test_what_cannot_be_trained_is_refused(planted, member, stream, objective):
    with pytest.raises(BadInput, match="different names; a"):
        Fleet([member("a"), member("a")], stream())
    with pytest.raises(BadInput, match=r"no activations at resid_post\.7"):
        Fleet([replace(member(), objective=objective(layout=layouts("sae", [Site("resid_post", 7)])[0]))], stream())
    one = Recording(*(torch.arange(50),) * 3, {"resid_post.0": torch.ones(50, 4), "resid_post.1": torch.ones(50, 3)})
    with pytest.raises(BadInput, match="different widths"):
        Fleet([member(kind="crosscoder")], Rows(one, 10, 0.0, 0))
    with pytest.raises(BadInput, match="nothing can be learned"):
        Fleet([member()], Rows(one, 10, 0.0, 0))
    for changes in ({"prefixes": (3, 2)}, {"width": 0}, {"products": "float8"}):
        with pytest.raises(BadInput):
            objective(**changes)
    with pytest.raises(NotFound, match="nearest are transcoder"):
        layouts("transcode", SITES)
    with pytest.raises(BadInput, match="mlp_in and mlp_out"):
        layouts("clt", SITES[:2])


def test_activations_that_are_no_numbers_are_refused(planted, member):
    values = {name: rows.clone() for name, rows in planted[1].values.items()}
    fleet = Fleet([member()], Rows(planted[1], 6000, 0.0, 0))
    values["resid_post.0"][5:] = torch.nan
    fleet.stream.source = Recording(planted[1].tokens, planted[1].documents, planted[1].positions, values)
    with pytest.raises(BadInput, match=r"resid_post\.0 hold values that are not finite"):
        fit(fleet)
