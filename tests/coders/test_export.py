"""Exports: what other libraries read gives the same results when it is read back."""

import pytest
import torch
from safetensors.torch import load_file

import glassworks as gw
from glassworks.coders import Coder, GroupMax, JumpReLU, ReLU, Scope, TopK, Transcoder, export_scope
from glassworks.errors import BadInput, Unsupported
from glassworks.sites import Site
from tests.coders.test_kinds import clt

D, LATENTS = 6, 24


def coder(read: str, write: str, gate, skip: bool = False) -> Transcoder:
    shapes = {"w_enc": (LATENTS, D), "b_enc": (LATENTS,), "w_dec": (LATENTS, D), "b_dec": (D,)}
    weights = {name: torch.randn(shape) for name, shape in (shapes | ({"w_skip": (D, D)} if skip else {})).items()}
    return Transcoder(Site.parse(read), Site.parse(write), gate, weights).requires_grad_(False)


def scope_of(*coders: Coder, model: str = "toy") -> Scope:
    named = {each.id: each for each in coders}
    return Scope("toys", model, named, list(named))


def threshold() -> JumpReLU:
    return JumpReLU(torch.rand(LATENTS))


def assert_same(scope: Scope, folder, layout: str) -> Scope:
    """Every coder comes back at the same sites with the same latents and reconstruction."""
    again = gw.load_scope(export_scope(scope, folder / layout, layout))
    theirs = {(each.reads, each.writes): again.coders[each.name] for each in again.entries}
    assert len(theirs) == len(scope)
    for mine in scope.coders.values():
        other, x = theirs[mine.reads, mine.writes], torch.randn(20, len(mine.reads), mine.parts[0].d_in).squeeze(1)
        assert torch.equal(other.encode(x).indices, mine.encode(x).indices)
        assert torch.allclose(other(x), mine(x), atol=1e-5)
    return again


def test_saelens(tmp_path):
    scope = scope_of(
        coder("resid_post.1", "resid_post.1", threshold()),
        coder("resid_post.2", "resid_post.2", TopK(4)),
        coder("resid_pre.1", "resid_pre.1", ReLU()),
        coder("mlp_in.1", "mlp_out.1", threshold(), skip=True),
        coder("mlp_in.2", "mlp_out.2", ReLU()),
        coder("mlp_in.3", "mlp_out.3", threshold()),
        coder("resid_mid.3", "mlp_out.3", ReLU(), skip=True),
        model="gpt2",
    )
    assert assert_same(scope, tmp_path, "saelens").model == "gpt2"
    stored = load_file(tmp_path / "saelens" / "mlp_in.1" / "sae_weights.safetensors")
    assert stored["W_enc"].shape == (D, LATENTS)
    assert torch.equal(stored["W_skip"], scope["mlp_in.1"].skip().T)


def test_sparsify(tmp_path):
    scope = scope_of(
        coder("resid_post.1", "resid_post.1", TopK(4)),
        coder("mlp_out.0", "mlp_out.0", GroupMax(4)),
        coder("mlp_in.2", "mlp_out.2", TopK(3), skip=True),
        coder("mlp_in.3", "mlp_out.3", TopK(3)),
    )
    assert_same(scope, tmp_path, "sparsify")
    assert sorted(each.name for each in (tmp_path / "sparsify").iterdir()) == [
        "layers.0.mlp",
        "layers.1",
        "layers.2.mlp",
        "layers.3.mlp",
    ]


@pytest.mark.parametrize("gate", [ReLU, threshold, lambda: TopK(3)], ids=["relu", "jumprelu", "topk"])
def test_circuit_tracer_sets(tmp_path, gate):
    coders = [coder(f"mlp_in.{layer}", f"mlp_out.{layer}", gate(), skip=layer > 0) for layer in range(3)]
    assert_same(scope_of(*coders), tmp_path, "circuit_tracer")


def test_circuit_tracer_clt(tmp_path):
    joint = clt(skip=False)
    again = assert_same(scope_of(joint), tmp_path, "circuit_tracer")
    assert again.replacement == ["clt"]
    decoder = load_file(tmp_path / "circuit_tracer" / "W_dec_1.safetensors")["W_dec_1"]
    assert torch.equal(decoder[:, 1], joint.parts[1].decoder_rows(torch.arange(12), Site("mlp_out", 2)))


@pytest.mark.parametrize(
    ("make", "layout", "says"),
    [
        (lambda: scope_of(coder("mlp_in.0", "mlp_out.0", TopK(2))), "saelens", "no transcoder with topk"),
        (lambda: scope_of(coder("q.0", "q.0", ReLU())), "saelens", "no name in TransformerLens"),
        (lambda: scope_of(clt()), "saelens", "several sites"),
        (lambda: scope_of(coder("mlp_in.0", "mlp_out.0", ReLU())), "sparsify", "topk and groupmax"),
        (lambda: scope_of(coder("resid_mid.0", "mlp_out.0", TopK(2))), "sparsify", "cannot name"),
        (lambda: scope_of(coder("mlp_in.0", "mlp_out.0", TopK(2)), model="gemma-3-1b"), "sparsify", "before the norm"),
        (lambda: scope_of(clt(skip=True)), "circuit_tracer", "drops the skips"),
        (lambda: scope_of(clt(skip=False, causal=False)), "circuit_tracer", "part 0 differs|part 1 differs"),
        (lambda: scope_of(coder("mlp_in.1", "mlp_out.1", ReLU())), "circuit_tracer", "from 0"),
        (lambda: Scope("none", "toy", {}, []), "circuit_tracer", "names no replacement"),
    ],
)
def test_what_a_library_cannot_say_is_refused_and_leaves_nothing(tmp_path, make, layout, says):
    with pytest.raises(Unsupported, match=says):
        export_scope(make(), tmp_path / "out", layout)
    assert not list(tmp_path.iterdir())


def test_where_it_may_be_written(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(BadInput, match="exists already"):
        export_scope(scope_of(), tmp_path / "full", "saelens")
    with pytest.raises(BadInput, match="nearest are saelens"):
        export_scope(scope_of(), tmp_path / "new", "sae_lens")
