"""Warm starts: a training that begins with coders that exist is those coders."""

import pytest
import torch

from glassworks.coders import JumpReLU as Jump
from glassworks.coders import Transcoder
from glassworks.errors import BadInput, NotFound, Unsupported
from glassworks.train import BatchTopK, Gated, JumpReLU, Ramp, Start, Trainer, adopt, fit, grid, layouts, stack
from glassworks.train.warm_start import gather, rescaled

from .conftest import SITES


@pytest.mark.parametrize("kind", ["sae", "transcoder", "skip_transcoder", "clt", "crosscoder"])
def test_it_goes_on_where_the_coder_was(spec, stream, kind):
    start = Start(pre_bias=kind in ("sae", "crosscoder"))
    old = fit(Trainer([spec(kind=kind, steps=20, gate=JumpReLU(0.2, 0.1), start=start)], stream()))
    scope = old.scope("old", "a model")
    new = Trainer([spec(kind=kind, seed=9, gate=JumpReLU(0.2, 0.1), start=start, centred=False, unit=True)], stream())
    adopt(new, scope)
    again = new.scope("new", "a model")["a"]
    batch = new.stream.draw()
    ends = {site.name: batch[site.name] for site in again.reads}
    x = ends if len(ends) > 1 else next(iter(ends.values()))
    mine, its = again(x), scope["a"](x)
    for name in mine if isinstance(mine, dict) else [None]:
        left, right = (mine, its) if name is None else (mine[name], its[name])
        assert torch.allclose(left, right, atol=1e-3 * float(right.abs().max()))


def test_what_does_not_fit_is_refused(spec, stream):
    scope = fit(Trainer([spec(steps=2)], stream())).scope("old", "a model")
    assert isinstance(scope["a"].activation, Jump)
    with pytest.raises(BadInput, match="60 latents and not 30"):
        adopt(Trainer([spec(width=30, gate=BatchTopK(Ramp(3)))], stream()), scope)
    with pytest.raises(NotFound, match="to begin with"):
        adopt(Trainer([spec("b", "clt")], stream()), scope)
    with pytest.raises(Unsupported, match="gated"):
        adopt(Trainer([spec(gate=Gated())], stream()), scope)


def singles(stream, kind: str, steps: int):
    """Coders of one layer each, for a joint coder of a kind."""
    rows, ends = stream(256), layouts("transcoder", SITES) if kind == "clt" else layouts("sae", SITES[-2:])
    return fit(Trainer(grid("batchtopk", ends, rows, steps, [60], [3], numbers={"rate": 1e-2}), rows)).scope("s", "m")


@pytest.mark.parametrize("kind", ["clt", "causal_crosscoder"])
def test_joint_coders_begin_as_those_of_their_layers(spec, stream, kind, monkeypatch):
    monkeypatch.setattr("glassworks.train.warm_start.LIKE", 2.0)  # so that no latent has a twin
    single, trainer = singles(stream, kind, 20), Trainer([spec(kind=kind, gate=JumpReLU(0.2, 0.1))], stream())
    stack(trainer, single)
    joint, batch = trainer.scope("joint", "a model")["a"], trainer.stream.draw()
    found = joint({site.name: batch[site.name] for site in joint.reads})
    for read, write in zip(joint.reads, joint.writes, strict=True):
        right = single[read.name](batch[read.name])
        assert (found[write.name] - right).norm() < 1e-3 * right.norm(), write


def test_twins_are_taken_once(spec, stream):
    trainer = Trainer([spec(kind="causal_crosscoder", gate=JumpReLU(0.2, 0.1))], stream())
    early = rescaled(singles(stream, "crosscoder", 30)["resid_post.0"], {})
    late = Transcoder(SITES[-1], SITES[-1], early.activation, early.weights())  # the next layer holds the same
    gather(trainer.runs[0], [early, late])
    (first, second), same = trainer.runs[0].parts, torch.nn.functional.cosine_similarity
    both = same(first.w_dec[:, :24], first.w_dec[:, 24:], dim=1) > 0.6
    taken = same(second.w_enc[:, None], late.w_enc[None], dim=-1).max(1).values > 0.999
    assert both.float().mean() > 0.9
    assert int(taken.sum()) <= 60 - int(both.sum()) / 2


def test_joint_coders_only(spec, stream):
    with pytest.raises(BadInput, match="reads one layer"):
        stack(Trainer([spec()], stream()), fit(Trainer([spec(steps=1)], stream())).scope("s", "m"))
