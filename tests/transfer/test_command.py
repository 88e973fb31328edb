"""`glassworks transfer`: what it writes, and what it says to mistakes."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from glassworks import smallworld
from glassworks.coders import load_scope
from glassworks.errors import BadInput
from glassworks.harvest import Corpus
from glassworks.models import Model
from glassworks.transfer import Bridge, readable, world_texts
from tests.transfer import worlds

HIGH, LOW = (smallworld.exchanges(kind, 6, 0) for kind in ("harmful", "harmless"))


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bridge from smallworld-s to itself: every map is the identity, as far as so little text can say."""
    from glassworks.models import load_model
    from glassworks.transfer import align

    model = load_model("smallworld-s")
    place = tmp_path_factory.mktemp("bridges") / "bridge"
    align(model, model, world_texts(150), ["resid_post", "mlp_in", "mlp_out"]).save(place)
    return place


def asked(path: Path, name: str, exchanges: list[smallworld.Exchange]) -> str:
    """Prompts as records, because a chat holds line ends."""
    path /= name
    path.write_text("\n".join(json.dumps({"text": smallworld.chat_prompt(each.user)}) for each in exchanges))
    return str(path)


def test_align_writes_a_bridge(run, tmp_path: Path):
    code, out, _ = run(
        "transfer", "align", "smallworld-s", "smallworld-s", "--count", "60", "--sites", "resid_post", "--json"
    )
    found = json.loads(out)
    assert code == 0
    assert found["layers"] == {"0": 0, "1": 1, "2": 2}
    assert [row["a"] for row in found["sites"]] == ["resid_post.0", "resid_post.1", "resid_post.2"]
    assert all(row["cka"] == pytest.approx(1) for row in found["sites"])
    assert found["rows"] > found["held_out"] > 0
    assert (tmp_path / "bridge" / "manifest.json").is_file()


@pytest.mark.slow
def test_direction_is_placed_among_random_ones(run, embedded: Path, tmp_path: Path):
    high, low = asked(tmp_path, "high.jsonl", HIGH), asked(tmp_path, "low.jsonl", LOW)
    words = [
        "--high",
        high,
        "--low",
        low,
        "--steer",
        low,
        "--metric",
        "I - Sure",
        "--out",
        "found.safetensors",
        "--json",
    ]
    code, out, _ = run("transfer", "direction", str(embedded), "--site", "resid_post.1", *words)
    found = json.loads(out)
    assert (code, found["in B"]) == (0, "resid_post.1")
    names = [row["figure"] for row in found["figures"]]
    assert names == ["agreement of readings", "AUROC of prompts", "effect on I - Sure"]
    assert found["figures"][0]["percentile"] == 100
    assert all(0 <= row["percentile"] <= 100 and row["randoms"] >= 100 for row in found["figures"])
    written = load_file("found.safetensors")
    assert {name: len(each) for name, each in written.items()} == {"read": 96, "write": 96}
    save_file({"direction": written["write"]}, "again.safetensors")
    code, out, _ = run(
        "transfer", "direction", str(embedded), "--site", "resid_post.1", "--direction", "again.safetensors"
    )
    assert (code, "AUROC" in out) == (0, False)


@pytest.mark.slow
def test_coder_is_carried_into_a_scope(run, embedded: Path):
    words = ["mlp_in.1", "--steps", "2", "--batch", "64", "--count", "60", "--json"]
    code, out, _ = run("transfer", "coder", str(embedded), "smallworld-s", *words)
    found = json.loads(out)
    assert (code, found["coder"], found["tokens"]) == (0, "mlp_in.1", 128)
    assert [row["coder"] for row in found["coders"]] == ["in A", "carried", "carried and tuned", "from scratch"]
    scope = load_scope("scope")
    assert (scope.model, [*scope]) == ("smallworld-s", ["mlp_in.1"])


def test_mistakes_are_one_sentence_and_write_nothing(run, embedded: Path, tmp_path: Path):
    save_file({"d": torch.ones(3)}, tmp_path / "d.safetensors")
    text = Path("words.txt")
    text.write_text("word")
    place = str(embedded)
    for words, told in [
        (["align", "smallworld-s", "smallworld-s", "--sites", "resid_pst"], "no site kind 'resid_pst'"),
        (["align", "smallworld-s", "smallworld-s", "--text", str(text)], "give at least 5"),
        (["direction", place, "--site", "resid_post.1"], "Say which direction"),
        (["direction", place, "--site", "resid_post.1", "--high", str(text)], "Say which direction"),
        (["direction", place, "--site", "resid_post.1", "--direction", "d.safetensors"], "has width 96"),
        (["direction", place, "--site", "attn_out.1", "--direction", "d.safetensors"], "No statistics were gathered"),
        (["direction", place, "--site", "resid_post.1", "--direction", "d.safetensors", "--steer", "x"], "give both"),
        (["coder", place, "smallworld-s", "mlp_in.9"], "no coder 'mlp_in.9'"),
        (["coder", "nowhere", "smallworld-s", "mlp_in.1"], "no folder nowhere"),
    ]:
        code, out, error = run("transfer", *words)
        assert (code, out) == (2, ""), words
        assert told in error
        assert len(error.strip().splitlines()) == 1
    assert not Path("bridge").exists()
    assert not Path("scope").exists()


def test_models_of_the_world_get_its_texts(bridge: Bridge):
    texts = world_texts(50)
    assert len(texts) == 50
    assert texts == world_texts(50)
    assert texts != world_texts(50, seed=1)
    chats = [text for text in texts if text.startswith("<start_of_turn>user")]
    assert len(chats) == 15
    assert all(text.endswith("<start_of_turn>model\n") for text in chats)
    assert smallworld.REFUSAL not in "".join(chats)


def test_chats_are_read_in_the_template_there_is(twins: worlds.Twins, lettered: Model, tmp_path: Path):
    one = Model(twins[0].hf, worlds.by_words(), "chatty")
    file = tmp_path / "chats.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "red cat"}]}\n{"text": "blue dog"}\n')
    with pytest.raises(BadInput, match="neither one nor letters has a chat template"):
        list(readable(twins[0], lettered, Corpus((str(file),))))
    one.tokenizer.chat_template = (
        "{{ bos_token }}the {{ messages[0]['content'] }}{% if add_generation_prompt %} and{% endif %}"
    )
    assert list(readable(one, lettered, Corpus((str(file),)))) == [("the red cat and",) * 2, "blue dog"]
