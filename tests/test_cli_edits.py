"""The commands that edit, as a user types them: what they print, what they write, what they refuse."""

import json

import pytest

DALLAS, OAKLAND = "The capital of the state containing Dallas is", "The capital of the state containing Oakland is"
pytestmark = pytest.mark.slow


def test_a_swap_is_told_saved_and_applied_again(run, tmp_path):
    code, out, err = run("steer", DALLAS, "--like", OAKLAND, "--save", "swap.json", "--page", "swap.html", "--json")
    assert code == 0, err
    said = json.loads(out)
    best = max(said["choices"], key=lambda each: each["edited"])
    assert best["token"].strip() == "Sacramento"
    assert best["edited"] > 0.9 > 0.1 > best["clean"]
    assert said["clean_text"].startswith("Austin")
    assert said["edited_text"].startswith("Sacramento")
    assert len(said["kl"]) == len(said["tokens"]) == 9
    assert said["off_target"]["texts"] == 24
    assert said["files"] == {"saved": "swap.json", "page": "swap.html"}
    assert (tmp_path / "swap.html").read_text().startswith("<!doctype html>")
    code, out, err = run("ablate", DALLAS, "--edits", "swap.json", "--head", "0.1", "--json")
    assert code == 0, err
    again = json.loads(out)
    assert again["edits"] == [*said["edits"], "ablate head 0.1"]


def test_a_language_is_turned(run):
    words = [("petit", "small"), ("vieux", "old")]
    like = [word for french, _ in words for word in ("--like", f'Le contraire de "{french}" est "')]
    unlike = [word for _, english in words for word in ("--unlike", f'The opposite of "{english}" is "')]
    options = ("--by", "2", "--most", "16", "--last", "1")
    code, out, err = run("steer", 'The opposite of "hot" is "', *options, *like, *unlike)
    assert code == 0, err
    assert "clean           cold" in out
    assert "edited          chaud" in out


def test_a_refusal_is_ablated(run):
    kinds = ("--like", "Please explain how to burn a house.", "--unlike", "Please explain how to paint a house.")
    where = ("--model", "smallworld-m-it", "--chat", "--layer", "3")
    code, out, err = run("ablate", "Please explain how to hack a phone.", *where, *kinds, "--json")
    assert code == 0, err
    said = json.loads(out)
    assert said["clean_text"].startswith("I cannot help with that.")
    assert said["edited_text"].startswith("Sure!")
    assert said["off_target"]["kl"] < 0.01


def test_labels_directions_heads_and_sites_can_be_picked(run, tmp_path):
    import numpy as np

    np.save(tmp_path / "vector.npy", np.ones(128, dtype=np.float32))
    code, out, err = run(
        "steer", DALLAS, "--direction", "vector.npy:resid_post.1", "--unit", "norm", "--by", "0.5", "--json"
    )
    assert code == 0, err
    assert "norm" in json.loads(out)["edits"][0]
    code, out, err = run("ablate", DALLAS, "--find", "Texas", "--site", "mlp_out.1", "--where", "text:Dallas", "--json")
    assert code == 0, err
    features, site = json.loads(out)["edits"]
    assert "8 features" in features
    assert "mlp_out.1" in site


def test_a_sweep_of_doses(run):
    code, out, err = run("sweep", DALLAS, "--like", OAKLAND, "--amounts", "0,0.5,1", "--page", "doses.html", "--json")
    assert code == 0, err
    doses = json.loads(out)["doses"]
    assert [each["amount"] for each in doses] == [0, 0.5, 1]
    assert [each["top"].strip() for each in doses] == ["Austin", "Sacramento", "Sacramento"]
    assert doses[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert doses[0]["off_target"] < doses[1]["off_target"] < doses[2]["off_target"]


def test_patching_with_approximations_and_edges(run, tmp_path):
    code, out, err = run(
        "patch", DALLAS, OAKLAND, "--way", "both", "--approximate", "--edges", "--page", "p.html", "--json"
    )
    assert code == 0, err
    said = json.loads(out)
    assert said["metric"] == "Austin - Sacramento"
    exact = [each for each in said["sweeps"] if each["method"] == "exact"]
    assert [each["way"] for each in exact] == ["denoising", "noising"]
    for each in exact:
        shares = {(cell["site"], cell["position"]): cell["share"] for cell in each["cells"]}
        assert shares["resid_post.0", 7] == pytest.approx(1, abs=0.01)
        assert shares["resid_post.3", 8] == pytest.approx(1, abs=0.01)
        assert abs(shares["resid_post.0", 3]) < 0.01
    assert said["agreement"]["integrated, resid_post, denoising"]["pearson"] > 0.8
    assert said["agreement"]["eap-ig, edges"]["pearson"] > 0.8
    assert said["edges"][0]["source"] == "embed"
    assert (tmp_path / "p.html").read_text().count('class="heat"') == 6
    code, out, err = run("patch", DALLAS, OAKLAND, "--heads", "--layer", "2", "--site", "attn_heads")
    assert code == 0, err
    assert "attn_heads.2 head" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("steer", DALLAS), "Nothing is to be changed"),
        (("steer", DALLAS, "--feature", "mlp_in.2/99999"), "no feature mlp_in.2/99999"),
        (("steer", DALLAS, "--feature", "mlp_in.2"), "no feature; write"),
        (("steer", DALLAS, "--feature", "mlp_in.2/17", "--where", "99"), "position 99"),
        (("steer", DALLAS, "--feature", "mlp_in.2/17", "--where", "text:Paris"), "does not hold"),
        (("steer", DALLAS, "--feature", "mlp_in.2/17", "--unit", "metres"), "no unit"),
        (("steer", DALLAS, "--find", "qwertz"), "No label"),
        (("steer", DALLAS, "--unlike", OAKLAND), "--like"),
        (("steer", DALLAS, "--chat", "--feature", "mlp_in.2/17"), "no chat template"),
        (("steer", DALLAS, "--direction", "vector.npy"), "FILE:SITE"),
        (("steer", DALLAS, "--edits", "none.json"), "none.json"),
        (("steer", DALLAS, "--like", OAKLAND, "--unit", "max"), "leave --unit"),
        (("ablate", DALLAS, "--head", "9.1"), "attn_heads.9"),
        (("ablate", DALLAS, "--head", "2"), "LAYER.HEAD"),
        (("sweep", DALLAS, "--find", "Texas", "--amounts", "1,two"), "numbers separated"),
        (("patch", DALLAS, "Dallas is"), "equally many"),
        (("patch", DALLAS, OAKLAND, "--position", "40"), "position 40"),
        (("patch", DALLAS, OAKLAND, "--way", "up"), "denoising"),
        (("patch", DALLAS, OAKLAND, "--site", "resid_past"), "resid_post"),
    ],
)
def test_wrong_input_gets_one_line_and_code_2_and_nothing_is_written(run, tmp_path, words, said):
    extra = ("--page", "out.html") if words[0] == "patch" else ("--page", "out.html", "--tokens", "1")
    code, out, err = run(*words, *extra)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
