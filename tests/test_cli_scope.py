"""`glassworks scope` as typed, on releases that the test writes."""

import json
from pathlib import Path

import pytest
import torch

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


def test_known_releases_are_listed(run):
    code, out, _ = run("scope")
    assert code == 0
    assert "google/gemma-scope-2-{270m,1b,4b,12b,27b}-{pt,it}" in out
    assert json.loads(run("scope", "--json")[1])["releases"][0]["model"] == "Gemma 3"
