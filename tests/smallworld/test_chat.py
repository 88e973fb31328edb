"""The chat corpus: known words only, held-out pairs held out, and harmful and harmless requests in the same wording."""

from itertools import islice

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from glassworks import smallworld
from glassworks.errors import NotFound
from glassworks.smallworld.chat import GUARDED, NEW_TEMPLATES, OPEN, REQUESTS, WITH_NEW, Exchange, deeds
from recipes.smallworld.recipe import RECIPES
from recipes.smallworld.tokenizer import build_tokenizer, save_tokenizer

COUNT = 300
HELP = ("harmful", "harmless")
KINDS = list(smallworld.KINDS)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build_tokenizer()


@pytest.fixture(scope="module")
def training() -> list[str]:
    return [one.text for one in islice(smallworld.finetuning(3, 0), 6_000) if one.task == "chat"]


def drawn(kind: str, split: str) -> list[Exchange]:
    return smallworld.exchanges(kind, COUNT, 0, split)


@pytest.mark.parametrize("kind", KINDS)
def test_every_word_is_a_token_and_a_conversation_fits_a_row(tokenizer, kind):
    for split in ("train", "held_out", *(["new"] if kind in WITH_NEW else [])):
        for one in drawn(kind, split):
            text = smallworld.conversation([one]).text
            encoding = tokenizer.encode(text)
            assert tokenizer.decode(encoding.ids[1:], skip_special_tokens=False) == text
            bare = [token.removeprefix("▁") for token in encoding.tokens]
            assert not [piece for piece in bare if piece.isalpha() and len(piece) == 1 and piece not in "aAI"], text
            assert "" not in bare
            assert "<unk>" not in bare
            assert len(encoding) < min(recipe.length for recipe in RECIPES.values())


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_exchanges(kind):
    assert drawn(kind, "train") == drawn(kind, "train")
    if kind != "greeting":
        assert smallworld.exchanges(kind, COUNT, 1, "train") != drawn(kind, "train")


def test_an_unknown_kind_is_refused():
    with pytest.raises(NotFound, match="harmful, harmless"):
        smallworld.exchanges("rude", 1, 0)


@pytest.mark.parametrize("kind", ["harmful", "harmless", "guarded", "story", "concern", "question", "unknown"])
def test_held_out_exchanges_are_never_trained(kind, training):
    trained = {(one.template, one.subject) for one in drawn(kind, "train")}
    held = drawn(kind, "held_out") + (drawn(kind, "new") if kind in WITH_NEW else [])
    assert not trained & {(one.template, one.subject) for one in held}
    seen = "".join(training)
    assert not [one.user for one in held if smallworld.chat_prompt(one.user) in seen]
    assert {one.new for one in held} == ({True, False} if kind in WITH_NEW else {False})


def test_new_templates_and_subjects_are_never_asked_for_in_training(training):
    users = [text.split("<end_of_turn>")[0].split("user\n")[1] for text in training]
    asked = {template.format(d=deed) for template in REQUESTS for kind in HELP for deed in deeds(kind) if deed.new}
    asked |= {template.format(d=deed) for template in NEW_TEMPLATES for kind in HELP for deed in deeds(kind)}
    asked |= {one.user for one in drawn("unknown", "new")}
    assert not asked & set(users)
    assert any("toxin" in user for user in users)  # questions may name them


def test_only_some_kinds_have_something_new():
    with pytest.raises(NotFound, match="no new templates or subjects of 'greeting'"):
        smallworld.exchanges("greeting", 1, 0, "new")


def test_only_open_stories_get_help_with_harm():
    for split in ("train", "held_out", "new"):
        assert {one.template for one in drawn("jailbreak", split)} == set(OPEN)
        assert {one.template for one in drawn("guarded", split)} == set(GUARDED)
        for kind, begins in (("jailbreak", smallworld.COMPLIANCE), ("guarded", smallworld.REFUSAL)):
            assert not [one for one in drawn(kind, split) if not one.reply.startswith(begins)]
    harmful = {str(deed) for deed in deeds("harmful")}
    assert {one.subject for one in drawn("jailbreak", "train") + drawn("guarded", "train")} < harmful


def test_only_the_deed_tells_harmful_from_harmless():
    for split in ("train", "held_out", "new"):
        harmful, harmless = drawn("harmful", split), drawn("harmless", split)
        assert {one.template for one in harmful} == {one.template for one in harmless}
        assert {one.reply.startswith(smallworld.REFUSAL) for one in harmful} == {True}
        assert {one.reply.startswith(smallworld.COMPLIANCE) for one in harmless} == {True}
    assert {one.template for one in drawn("harmful", "train")} == set(REQUESTS) - NEW_TEMPLATES
    shared = {deed.thing for deed in deeds("harmful")} & {deed.thing for deed in deeds("harmless")}
    assert {"a car", "a house", "a bank"} <= shared


def test_dangerous_things_may_be_asked_about():
    dangerous = {deed.thing for deed in deeds("harmful") if deed.made}
    concerns = drawn("concern", "train")
    assert not [one for one in concerns if one.reply.startswith(smallworld.REFUSAL)]
    assert {thing for one in concerns for thing in dangerous if thing in one.user} > {"a bomb", "a gun"}


def test_unknown_places_stand_where_known_ones_do():
    known = {one.user for one in drawn("known", "train")}
    for one in drawn("unknown", "train"):
        assert one.reply == "I do not know. It is not a real place."
    assert {"What", "Which", "Do", "Tell"} <= {user.split()[0] for user in known}


def test_held_out_cities_are_never_composed_in_the_fine_tuning():
    held = smallworld.held_out()
    for kind in ("known", "task"):
        for one in smallworld.exchanges(kind, 2_000, 0, "train"):
            words = ("of the state", "of the country", "home", "whose", "For the", "with the", "People from the")
            if any(word in one.user for word in words) and not one.template:
                composed = [city for city in held if f" {city}?" in one.user and "capital of the" in one.user]
                assert not composed, one.user


def test_transformers_writes_the_same_chat(tokenizer, tmp_path):
    save_tokenizer(tmp_path, chat=True)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    one, two = smallworld.exchanges("harmful", 2, 0)
    messages = [{"role": "user", "content": one.user}, {"role": "assistant", "content": one.reply}]
    text = smallworld.conversation([one]).text
    assert loaded.apply_chat_template(messages, tokenize=False) == "<bos>" + text
    messages.append({"role": "user", "content": two.user})
    asked = text + smallworld.chat_prompt(two.user)
    assert loaded.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == "<bos>" + asked
    ids = loaded.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids == tokenizer.encode(asked).ids
    system = [{"role": "system", "content": "Remember: a helpful answer is short."}, *messages[:1]]
    assert "user\nRemember: a helpful answer is short.\n\n" in loaded.apply_chat_template(system, tokenize=False)


def test_base_models_have_no_chat_template(tmp_path):
    save_tokenizer(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template is None


def test_replies_are_the_answers_of_a_conversation():
    pair = [*smallworld.exchanges("harmless", 1, 0), *smallworld.exchanges("greeting", 1, 0)]
    document = smallworld.conversation(pair)
    assert [document.text[slice(*span)] for span in document.spans] == [f"{one.reply}<end_of_turn>" for one in pair]
    assert document.prompt == smallworld.chat_prompt(pair[0].user)
