"""Adoption: a training that begins with coders that exist is those coders."""

from importlib import import_module

import pytest
import torch

from glassworks.coders import JumpReLU as Jump
from glassworks.coders import Transcoder
from glassworks.errors import BadInput, NotFound, Unsupported
from glassworks.train import Axes, BatchTopK, Fleet, Gated, JumpReLU, Ramp, Start, adopt, fit, layouts, stack, table
from glassworks.train.adopt import rescaled
from glassworks.train.stack import gather

from .conftest import SITES


@pytest.mark.parametrize("kind", ["sae", "transcoder", "skip_transcoder", "clt", "crosscoder"])
def test_it_goes_on_where_the_coder_was(member, stream, kind):
    start = Start(pre_bias=kind in ("sae", "crosscoder"))
    old = fit(Fleet([member(kind=kind, steps=20, gate=JumpReLU(0.2, 0.1), start=start)], stream()))
    scope = old.scope("old", "a model")
    new = Fleet([member(kind=kind, seed=9, gate=JumpReLU(0.2, 0.1), start=start, centred=False, unit=True)], stream())
    adopt(new, scope)
    again = new.scope("new", "a model")["a"]
    batch = new.stream.draw()
    ends = {site.name: batch[site.name] for site in again.reads}
    x = ends if len(ends) > 1 else next(iter(ends.values()))
    mine, its = again(x), scope["a"](x)
    for name in mine if isinstance(mine, dict) else [None]:
        left, right = (mine, its) if name is None else (mine[name], its[name])
        assert torch.allclose(left, right, atol=1e-3 * float(right.abs().max()))


def test_what_does_not_fit_is_refused(member, stream):
    scope = fit(Fleet([member(steps=2)], stream())).scope("old", "a model")
    assert isinstance(scope["a"].activation, Jump)
    with pytest.raises(BadInput, match="60 latents and not 30"):
        adopt(Fleet([member(width=30, gate=BatchTopK(Ramp(3)))], stream()), scope)
    with pytest.raises(NotFound, match="to begin with"):
        adopt(Fleet([member("b", "clt")], stream()), scope)
    with pytest.raises(Unsupported, match="gated"):
        adopt(Fleet([member(gate=Gated())], stream()), scope)


def singles(stream, kind: str, steps: int):
    """Coders of one layer each, for a joint coder of a kind."""
    rows, ends = stream(256), layouts("transcoder", SITES) if kind == "clt" else layouts("sae", SITES[-2:])
    return fit(Fleet(table("batchtopk", ends, Axes([60], [3]), rows, steps, {"rate": 1e-2}), rows)).scope("s", "m")


@pytest.mark.parametrize("kind", ["clt", "causal_crosscoder"])
def test_joint_coders_begin_as_those_of_their_layers(member, stream, kind, monkeypatch):
    monkeypatch.setattr(import_module("glassworks.train.stack"), "LIKE", 2.0)  # so that no latent has a twin
    single, fleet = singles(stream, kind, 20), Fleet([member(kind=kind, gate=JumpReLU(0.2, 0.1))], stream())
    stack(fleet, single)
    joint, batch = fleet.scope("joint", "a model")["a"], fleet.stream.draw()
    found = joint({site.name: batch[site.name] for site in joint.reads})
    for read, write in zip(joint.reads, joint.writes, strict=True):
        right = single[read.name](batch[read.name])
        assert (found[write.name] - right).norm() < 1e-3 * right.norm(), write


def test_twins_are_taken_once(member, stream):
    fleet = Fleet([member(kind="causal_crosscoder", gate=JumpReLU(0.2, 0.1))], stream())
    early = rescaled(singles(stream, "crosscoder", 30)["resid_post.0"], {})
    late = Transcoder(SITES[-1], SITES[-1], early.activation, early.weights())  # the next layer holds the same
    gather(fleet.trainees[0].learner, [early, late])
    (first, second), same = fleet.trainees[0].learner.parts, torch.nn.functional.cosine_similarity
    both = same(first.w_dec[:, :24], first.w_dec[:, 24:], dim=1) > 0.6
    taken = same(second.w_enc[:, None], late.w_enc[None], dim=-1).max(1).values > 0.999
    assert both.float().mean() > 0.9
    assert int(taken.sum()) <= 60 - int(both.sum()) / 2


def test_joint_coders_only(member, stream):
    with pytest.raises(BadInput, match="reads one layer"):
        stack(Fleet([member()], stream()), fit(Fleet([member(steps=1)], stream())).scope("s", "m"))
