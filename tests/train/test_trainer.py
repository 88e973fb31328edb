"""The trainer: specs in, a scope out; what cannot be trained is refused or set aside in one sentence."""

from dataclasses import replace

import pytest
import torch

from glassworks.coders import load_scope, save_scope
from glassworks.errors import BadInput, GlassworksError, NotFound
from glassworks.experiments import fidelity
from glassworks.harvest import Recording, Rows
from glassworks.sites import Site
from glassworks.train import (
    RECIPES,
    Adam,
    AuxK,
    Dead,
    Ramp,
    Rate,
    Reconstruction,
    Start,
    Trainer,
    fit,
    grid,
    layouts,
)

from .conftest import SITES


@pytest.mark.slow
def test_finds_a_planted_dictionary(planted, spec, stream):
    truth, recording = planted
    trainer = fit(Trainer([spec()], stream(256)))
    coder = trainer.scope("a scope", "a model")["a"]
    found = coder.decoder_rows(torch.arange(coder.d_latent))
    assert (truth @ found.T).max(1).values.mean() > 0.95
    measured = fidelity(coder, recording.values)
    assert measured.fvu < 0.1
    assert 2.5 < measured.l0 < 3.5


def test_a_grid_becomes_a_scope(stream, tmp_path):
    rows = stream(64)
    specs = grid("topk", layouts("sae", SITES[-2:]), rows, 3, [16, 32], [2, 4], [0, 1], {"rate": 1e-3})
    specs += grid("clt", layouts("clt", SITES), rows, 3, [16], [3])
    specs += grid("batchtopk", layouts("skip_transcoder", SITES), rows, 3, [16], [3])
    trainer = fit(Trainer(specs, rows))
    save_scope(trainer.scope("a scope", "a model"), tmp_path / "scope")
    scope = load_scope(tmp_path / "scope")
    assert len(scope) == 16 + 1 + 2
    assert scope.select("resid_post.1", width=32, l0=4, tags=["seed_1"]).d_latent == 32
    assert scope.select("mlp_in.0", kind="transcoder", tags="affine").skip() is not None
    assert {entry.kind for entry in scope.entries} == {"sae", "clt", "transcoder"}
    assert scope["clt"].parts[0].writes == (Site("mlp_out", 0), Site("mlp_out", 1))
    measured = trainer.measure(scope, 2)
    assert set(measured) == set(scope)
    assert all(each["tokens"] == 128 for each in measured.values())


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_every_kind(stream, name):
    rows, specs = stream(32), []
    for kind in ("sae", "transcoder", "skip_transcoder", "clt", "crosscoder", "causal_crosscoder"):
        sites = SITES[-2:] if kind in ("sae", "crosscoder", "causal_crosscoder") else SITES
        made = grid(name, layouts(kind, sites)[:1], rows, 4, [16], [3], numbers={"rate": 1e-3})
        specs += [replace(spec, name=kind) for spec in made]
    trainer = fit(Trainer(specs, rows))
    assert not trainer.failed
    assert all(torch.isfinite(torch.tensor([*each.values()])).all() for each in trainer.numbers().values())
    assert len(trainer.scope("a scope", "a model")) == 6


def test_a_failed_run_does_not_stop_the_others(spec, stream):
    trainer = Trainer([spec("good", steps=6), spec("bad", steps=6)], stream())
    with torch.no_grad():
        trainer.runs[1].b_dec[0] = torch.nan
    fit(trainer)
    assert list(trainer.failed) == ["bad"]
    assert "reconstruction is not finite at step 0" in trainer.failed["bad"]
    scope = trainer.scope("a scope", "a model")
    assert list(scope) == ["good"]
    assert scope.metrics["failed"] == trainer.failed
    assert all(bool(value.isfinite().all()) for value in scope["good"].state_dict().values())


def test_nothing_is_left(spec, stream):
    trainer = Trainer([spec(steps=3)], stream())
    with torch.no_grad():
        trainer.runs[0].b_dec[0] = torch.nan
    with pytest.raises(GlassworksError, match="not finite"):
        fit(trainer)


def test_coders_are_the_same_alone_and_together(spec, stream):
    both = fit(Trainer([spec("a", steps=9), spec("b", seed=3, steps=5)], stream()))
    alone = fit(Trainer([spec("b", seed=3, steps=5)], stream()))
    for name, value in alone.runs[0].state_dict().items():
        assert torch.equal(value, both.runs[1].state_dict()[name]), name


@pytest.mark.slow
def test_dead_latents_come_back(spec, stream):
    def dead(weight: float, every: int) -> float:
        terms = ((Ramp(1.0), Reconstruction()), (Ramp(weight), AuxK(8)))
        adam = Adam(Rate(1e-2))
        trainer = Trainer([spec(steps=150, terms=terms, adam=adam, dead=Dead(1000, every, 120))], stream(256))
        with torch.no_grad():
            trainer.runs[0].parts[0].b_enc[:40] = -0.8
        fit(trainer)
        return trainer.measure(trainer.scope("a", "b"))["a"]["dead"]

    assert dead(0.0, 0) >= 0.5
    assert dead(0.5, 0) <= 0.25
    assert dead(0.0, 20) <= 0.45


def test_coders_that_write_elsewhere_learn_faster_from_decoders_at_zero(stream):
    def unexplained(changes: dict) -> float:
        specs = grid("topk", layouts("transcoder", SITES), stream(256), 60, [60], [3], numbers={"rate": 1e-2})
        trainer = fit(Trainer([replace(spec, **changes) for spec in specs], stream(256)))
        return sum(each["fvu"] for each in trainer.measure(trainer.scope("a", "b")).values())

    assert unexplained({}) < 0.9 * unexplained({"start": Start(), "unit": True})


def test_what_cannot_be_trained_is_refused(planted, spec, stream):
    with pytest.raises(BadInput, match="different names; a"):
        Trainer([spec("a"), spec("a")], stream())
    with pytest.raises(BadInput, match=r"no activations at resid_post\.7"):
        Trainer([spec(layout=layouts("sae", [Site("resid_post", 7)])[0])], stream())
    one = Recording(*(torch.arange(50),) * 3, {"resid_post.0": torch.ones(50, 4), "resid_post.1": torch.ones(50, 3)})
    with pytest.raises(BadInput, match="different widths"):
        Trainer([spec(kind="crosscoder")], Rows(one, 10, 0.0, 0))
    with pytest.raises(BadInput, match="nothing can be learned"):
        Trainer([spec()], Rows(one, 10, 0.0, 0))
    for changes in ({"prefixes": (3, 2)}, {"width": 0}, {"products": "float8"}):
        with pytest.raises(BadInput):
            spec(**changes)
    with pytest.raises(NotFound, match="nearest are transcoder"):
        layouts("transcode", SITES)
    with pytest.raises(BadInput, match="mlp_in and mlp_out"):
        layouts("clt", SITES[:2])
    with pytest.raises(BadInput, match="A sae needs sites"):
        layouts("sae", [])


def test_activations_that_are_no_numbers_are_refused(planted, spec):
    values = {name: rows.clone() for name, rows in planted[1].values.items()}
    trainer = Trainer([spec()], Rows(planted[1], 6000, 0.0, 0))
    values["resid_post.0"][5:] = torch.nan
    trainer.stream.source = Recording(planted[1].tokens, planted[1].documents, planted[1].positions, values)
    with pytest.raises(BadInput, match=r"resid_post\.0 hold values that are not finite"):
        fit(trainer)
