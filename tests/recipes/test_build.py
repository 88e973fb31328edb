"""Building: a model and then its scope, and coders of every kind for the model that is there."""

import pytest
import torch

import glassworks as gw
from glassworks.coders import Scope
from recipes.smallworld import Coders, Recipe, Suite, build


@pytest.mark.slow
def test_build_writes_a_model_and_its_scope(tmp_path):
    suite = Suite((Coders("transcoder", ("mlp_in", "mlp_out"), 64, 4.0, steps=2, joint_steps=1),))
    options = {"checkpoints": tmp_path / "checkpoints", "recipe": Recipe(steps=2), "suite": suite, "documents": 50}
    written = list(build("smallworld-s", tmp_path, **options))
    assert [each.name for each in written] == ["smallworld-s", "smallworld-s-scope"]
    model, scope = gw.load_model(written[0]), gw.load_scope(written[1])
    assert isinstance(scope, Scope)
    assert scope.model == "smallworld-s"
    assert len(scope.replacement) == model.n_layers
    assert scope["mlp_in.0"].weights()["w_dec"].dtype == torch.bfloat16
    assert gw.trace(model, scope, "Dallas is in").conservation.max() <= 1e-4
    saes, checkpoints = Suite((Coders("sae", ("attn_out",), 32, 4.0, steps=2),)), tmp_path / "more"
    (only,) = build("smallworld-s", tmp_path, checkpoints=checkpoints, suite=saes, documents=50, scopes=True)
    again = gw.load_scope(only)
    assert (list(again), again.replacement) == ([f"attn_out.{layer}" for layer in range(model.n_layers)], [])
