"""Numbers that others measured: they agree, they differ, or there are none."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from glassworks.errors import BadArtefact, NotFound
from glassworks.models import load_model
from recipes.agreement import main, verify


def params(width: int) -> dict[str, torch.Tensor]:
    shapes = {"w_enc": (width, 40), "w_dec": (40, width), "b_enc": (40,), "b_dec": (width,), "threshold": (40,)}
    return {name: torch.rand(shape) for name, shape in shapes.items()}


def known(run_on: Path, file: Path, **change: Any) -> Path:
    """Numbers of a coder on smallworld, computed here from its formula."""
    model, t = load_model("smallworld"), params(load_model("smallworld").d_model)
    folder = run_on / "mine" / "resid_post" / "layer_1_width_16k_l0_big"
    folder.mkdir(parents=True)
    t["threshold"] *= 3
    save_file(t, folder / "params.safetensors")
    x = model.capture("The capital", ["resid_post.1"])["resid_post.1"][-1]
    z = x @ t["w_enc"] + t["b_enc"]
    a = z.relu() * (z > t["threshold"])
    expected = {"l0": int((a > 0).sum()), "top_index": int(a.argmax()), "top_value": float(a.max())}
    plain = {"scope": "some/mine", "coder": "resid_post/layer_1_width_16k_l0_big", "model": "smallworld"}
    plain |= {"dtype": "float32", "prompt": "The capital", "expected": expected | {"sum": float(a.sum())} | change}
    file.write_text(json.dumps([plain]))
    return run_on / "mine"


def test_numbers_agree_or_not(tmp_path, monkeypatch, capsys):
    file = tmp_path / "numbers.json"
    scope = known(tmp_path, file)
    rows = verify(str(scope), numbers=file)
    assert all(row["agrees"] for row in rows)
    assert [row["number"] for row in rows] == ["l0", "top_index", "top_value", "sum"]
    plain = json.loads(file.read_text())
    plain[0]["expected"]["sum"] *= 1.1
    file.write_text(json.dumps(plain))
    assert [row["agrees"] for row in verify(str(scope), numbers=file)] == [True, True, True, False]
    monkeypatch.setattr("sys.argv", ["agreement", str(scope), "--numbers", str(file)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert "sum: expected" in capsys.readouterr().out


def test_a_scope_without_numbers_is_refused(tmp_path, monkeypatch, capsys):
    with pytest.raises(NotFound, match="There are no numbers of some/other"):
        verify("some/other")
    (tmp_path / "numbers.json").write_text('[{"scope": "x"}]')
    with pytest.raises(BadArtefact, match="holds no reference numbers"):
        verify("x", numbers=tmp_path / "numbers.json")
    monkeypatch.setattr("sys.argv", ["agreement", "some/other"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
