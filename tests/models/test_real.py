"""Real trained models: the numbers of an independent implementation, and a documented loss."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from glassworks.models import load_model


def test_sort_nano_gives_the_25_reference_activations(data: Path) -> None:
    folder = data / "models" / "gpt2-sort-nano"
    model, reference = load_model(folder), load_file(folder / "reference_activations.safetensors")
    at = model.capture(reference.pop("idx").long(), model.sites())
    stack, first = model.hf.transformer, model.hf.transformer.h[0]
    q, k, v, pattern = (at[f"{kind}.0"].transpose(1, 2) for kind in ("q", "k", "v", "pattern"))
    hidden = first.mlp.c_fc(at["mlp_in.0"])
    found = {
        "x": at["embed"], "tok_emb": at["embed"] - stack.wpe.weight, "pos_emb": stack.wpe.weight[None],
        "ln1": at["attn_in.0"], "qkv": torch.cat([at[f"{kind}.0"].flatten(2) for kind in "qkv"], dim=-1),
        "q": q, "k": k, "v": v, "att": (q @ k.mT / 4).where(pattern > 0, reference["att"]), "attSm": pattern,
        "y": at["attn_heads.0"], "yProj": at["attn_out.0"], "attnResid": at["resid_mid.0"], "ln2": at["mlp_in.0"],
        "fc": hidden, "gelu": first.mlp.act(hidden), "mlp": at["mlp_out.0"], "mlpResid": at["resid_post.0"],
        "block0": at["resid_post.0"], "block1": at["resid_post.1"], "block2": at["resid_post.2"],
        "ln_f": model.final_norm.apply(at["resid_post.2"], at["final_norm_scale"]), "lm_head": at["logits"],
        "probs": at["logits"].softmax(-1),
    }  # fmt: skip
    assert found.keys() == reference.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, reference[name], rtol=0, atol=1e-5)


def test_stories260k_has_its_documented_loss(data: Path) -> None:
    model = load_model(data / "models" / "stories260K")
    stories = json.loads((data / "text" / "tinystories_1000.json").read_text(encoding="utf-8"))[:60]
    # The model was trained on windows of 256 tokens, and its corpus has single line breaks.
    ids = [model.tokens(story.replace("\n\n", "\n")[:900])[:256] for story in stories]
    logits = model.capture(ids, ["logits"])["logits"]
    right = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=-100)
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), right[:, 1:].flatten())
    torch.testing.assert_close(loss, torch.tensor(1.297), rtol=0, atol=0.02)


def test_stories260k_tells_a_story(data: Path) -> None:
    model = load_model(data / "models" / "stories260K")
    best = model.predict("Once upon a", k=3)
    assert (best[0].token, best[0].id) == (" time", model.token_id(" time"))
    assert best[0].probability > 0.99
    assert sum(each.probability for each in model.predict("Once upon a", k=999)) == pytest.approx(1.0)
    assert model.generate("Once upon a time", 11) == ", there was a little girl named Lily."
    for text in (" time", "time"):
        assert model.token_text(model.token_id(text)) == " time"
