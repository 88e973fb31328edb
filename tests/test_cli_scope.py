"""`glassworks scope` and `glassworks verify` as typed, on releases that the test writes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from glassworks import load_model
from tests.coders import gemma_scope_names


def params(width: int) -> dict[str, torch.Tensor]:
    shapes = {"w_enc": (width, 40), "w_dec": (40, width), "b_enc": (40,), "b_dec": (width,), "threshold": (40,)}
    return {name: torch.rand(shape) for name, shape in shapes.items()}


@pytest.fixture
def release(tmp_path) -> Path:
    """All names of a repository of Gemma Scope 2, each a file without content: listing must not read any."""
    folder = tmp_path / "gemma-scope-2-270m-pt"
    for name in gemma_scope_names.names("270m", "pt"):
        (folder / name).mkdir(parents=True)
        (folder / name / "params.safetensors").write_bytes(b"0" * 1000)
    return folder


def test_a_large_release_is_grouped(run, release):
    code, out, err = run("scope", str(release))
    assert code == 0, err
    rows = [line.split() for line in out.splitlines() if "resid_post" in line or "attn_heads" in line]
    assert len(rows) == 5  # attn_heads and resid_post, each of some layers and of all, and another seed
    assert "5, 9, 12, 15" in out
    assert "0-17" in out
    assert "google/gemma-3-270m" in out


def test_a_site_is_listed_coder_by_coder(run, release):
    code, out, _ = run("scope", str(release), "--site", "resid_post.12")
    assert code == 0
    assert "resid_post_all/layer_12_width_262k_l0_big" in out
    assert "big (120)" in out
    code, out, _ = run("scope", str(release), "--site", "mlp_in", "--json")
    coders = json.loads(out)["coders"]
    assert {each["kind"] for each in coders} == {"transcoder"}
    assert len(coders) == 8 * 18 + 2
    assert set(coders[0]) == {"coder", "kind", "reads", "writes", "latents", "L0", "tags", "MB"}


def test_a_wrong_site_lists_the_nearest(run, release):
    code, _, err = run("scope", str(release), "--site", "resid_pst.12")
    assert code == 2
    assert "the nearest are resid_post.12" in err


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


def test_numbers_agree_or_not(run, tmp_path):
    file = tmp_path / "numbers.json"
    scope = known(tmp_path, file)
    code, out, err = run("verify", str(scope), "--numbers", str(file), "--json")
    assert code == 0, err
    said = json.loads(out)
    assert said["agrees"]
    assert [row["number"] for row in said["numbers"]] == ["l0", "top_index", "top_value", "sum"]
    plain = json.loads(file.read_text())
    plain[0]["expected"]["sum"] *= 1.1
    file.write_text(json.dumps(plain))
    code, out, _ = run("verify", str(scope), "--numbers", str(file))
    assert code == 1
    assert "no" in out


def test_a_scope_without_numbers_is_told(run, tmp_path):
    code, _, err = run("verify", "some/other")
    assert code == 2
    assert "There are no numbers of some/other" in err
    (tmp_path / "numbers.json").write_text('[{"scope": "x"}]')
    code, _, err = run("verify", "x", "--numbers", "numbers.json")
    assert "holds no reference numbers" in err


def test_known_releases_are_listed(run):
    code, out, _ = run("scope")
    assert code == 0
    assert "google/gemma-scope-2-{270m,1b,4b,12b,27b}-{pt,it}" in out
    assert json.loads(run("scope", "--json")[1])["releases"][0]["model"] == "Gemma 3"
