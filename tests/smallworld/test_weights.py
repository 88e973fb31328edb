"""The shipped model: it meets the aims, and its circuit is real."""

import json

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

import glassworks as gw
from glassworks import artefacts, hub, smallworld, studies
from recipes.smallworld import AIMS, MOST_STATE_IN_EMBEDDING

FOLDER = hub.resolve("smallworld")
TOLERANCE = 0.02  # of accuracies on 200 documents


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(FOLDER).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


@pytest.fixture(scope="module")
def measured() -> dict[str, float]:
    return studies.measure(gw.load_model("smallworld"), count=200)


def test_files_are_whole():
    artefacts.read(FOLDER, "model").verify()


@pytest.mark.parametrize("task", AIMS)
def test_it_meets_the_aims(measured, task):
    assert measured[task] >= AIMS[task]


def test_the_card_says_what_is_measured(measured):
    card = json.loads((FOLDER / "card.json").read_text())
    assert card["missed_aims"] == []
    for name, value in card["measured"].items():
        if name != "location_short":  # few documents, and no sure answer
            assert measured[name] == pytest.approx(value, abs=TOLERANCE), name


def test_the_table_does_not_hold_the_states(measured):
    assert measured["state_in_embedding"] <= MOST_STATE_IN_EMBEDDING


@pytest.mark.parametrize("opening", ["The", "Fact: the"])
def test_the_famous_prompt(model, tokenizer, opening):
    ids = torch.tensor([tokenizer.encode(f"{opening} capital of the state containing Dallas is").ids])
    with torch.no_grad():
        chances = model(input_ids=ids).logits[0, -1].softmax(-1)
    assert chances[tokenizer.encode("Austin").ids[1]] > 0.9


@torch.no_grad()
def test_patching_the_city_flips_the_answer(model, tokenizer):
    """Give the city token the MLP outputs of a city of another state: the capital becomes that state's."""
    pairs = smallworld.swaps(count=200)
    ids, others = (
        torch.tensor([tokenizer.encode(text).ids for text in texts])
        for texts in ([pair.prompt for pair in pairs], [pair.other_prompt for pair in pairs])
    )
    (city,) = (ids != others).any(0).nonzero()[:, 0].tolist()
    norms = [layer.post_feedforward_layernorm for layer in model.model.layers]
    outputs: dict[int, torch.Tensor] = {}

    def keep(layer):
        return lambda module, args, output: outputs.__setitem__(layer, output.clone())

    def patch(layer):
        def hook(module, args, output):
            output[:, city] = outputs[layer][:, city]
            return output

        return hook

    handles = [norm.register_forward_hook(keep(layer)) for layer, norm in enumerate(norms)]
    model(input_ids=others)
    for handle in handles:
        handle.remove()
    handles = [norm.register_forward_hook(patch(layer)) for layer, norm in enumerate(norms)]
    first = model(input_ids=ids).logits[:, -1].argmax(-1)
    for handle in handles:
        handle.remove()
    wanted = torch.tensor([tokenizer.encode(pair.other_answer).ids[1] for pair in pairs])
    assert (first == wanted).float().mean() >= 0.9
