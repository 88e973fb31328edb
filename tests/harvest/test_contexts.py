"""Contexts: how documents are cut, packed and masked."""

import pytest

import glassworks as gw
from glassworks.errors import BadInput
from glassworks.harvest import Contexts, Reading
from glassworks.harvest.contexts import columns_of, render

TEXTS = ["The opposite of hot is cold.", "The plural of cat is cats.", "Lyon is in France."]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message['role'] }}\n{{ message['content'] }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


@pytest.fixture(scope="module")
def model():
    return gw.load_model("smallworld")


@pytest.fixture
def chatty(model, monkeypatch):
    monkeypatch.setattr(model.tokenizer, "chat_template", TEMPLATE)
    return model


def test_each_document_goes_alone_and_long_ones_are_cut(model):
    documents = [[2, *range(10, 33)], [40, 41], [2, 50]]
    found = [*Contexts(model, documents, Reading(context=10))]
    assert [each.tokens for each in found] == [
        [2, *range(10, 19)],
        [2, *range(19, 28)],
        [2, *range(28, 33)],
        [40, 41],
        [2, 50],
    ]
    assert [each.documents[0] for each in found] == [0, 0, 0, 1, 2]
    assert all(each.kept == [False] + [True] * (len(each.tokens) - 1) for each in found)


def test_packed_contexts_are_full(model):
    documents = [[2, *range(10, 23)], [2, 41], [2, 50, 51]]
    found = [*Contexts(model, documents, Reading(context=6, packed=True))]
    assert [each.tokens for each in found] == [
        [2, 10, 11, 12, 13, 14],
        [2, 15, 16, 17, 18, 19],
        [2, 20, 21, 22, 2, 41],
        [2, 50, 51],
    ]
    assert found[2].documents == [0, 0, 0, 0, 1, 1]
    assert found[2].kept == [False, True, True, True, False, True]
    columns = columns_of(found)
    assert columns["tokens"].tolist() == [*range(10, 23), 41, 50, 51]
    assert columns["documents"].tolist() == [0] * 13 + [1, 2, 2]
    assert columns["positions"].tolist() == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2, 3, 5, 1, 2]
    assert columns["following"].tolist() == [11, 12, 13, 14, -1, 16, 17, 18, 19, -1, 21, 22, -1, -1, 51, -1]


def test_packed_documents_without_a_beginning_are_kept_apart(model):
    found = [*Contexts(model, [[10, 11], [12, 13]], Reading(packed=True, untrained=()))]
    assert [each.tokens for each in found] == [[10, 11, model.tokenizer.eos_token_id, 12, 13]]
    assert all(found[0].kept)


def test_texts_are_tokenised_as_the_model_does(model):
    found = [*Contexts(model, TEXTS, Reading())]
    assert [each.tokens for each in found] == [model.tokens(text).tolist() for text in TEXTS]


def test_rows_end_the_corpus(model):
    whole = [*Contexts(model, TEXTS, Reading())]
    assert len([*Contexts(model, TEXTS, Reading(rows=sum(whole[0].kept)))]) == 1
    assert len([*Contexts(model, TEXTS, Reading(rows=sum(whole[0].kept) + 1))]) == 2


def test_what_is_left_out(model):
    eos = model.tokenizer.eos_token_id
    document = [2, 10, eos, 11, model.tokenizer.pad_token_id, 2, 12]
    assert next(iter(Contexts(model, [document], Reading()))).kept == [False, True, False, True, False, False, True]
    kept = next(iter(Contexts(model, [document], Reading(untrained=("eos",))))).kept
    assert kept == [True, True, False, True, True, True, True]


def test_chats_are_rendered_and_their_start_left_out(chatty):
    chat = [{"role": "user", "content": "Lyon is in"}, {"role": "model", "content": "France."}]
    text = "<bos><start_of_turn>user\nLyon is in<end_of_turn>\n<start_of_turn>model\nFrance.<end_of_turn>\n"
    assert render(chatty.tokenizer, chat) == chatty.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert (
        render(chatty.tokenizer, chat[:1])[-1]
        == render(chatty.tokenizer, chat)[len(render(chatty.tokenizer, chat[:1])) - 1]
    )
    reading = Reading(untrained=("bos", "template"))
    found = next(iter(Contexts(chatty, [chat], reading)))
    texts = [chatty.token_text(token) for token in found.tokens]
    masked = texts[: found.kept.index(True)]
    assert "".join(masked).startswith("<bos><start_of_turn>")
    assert "Lyon" in texts[found.kept.index(True)]
    assert all(found.kept[len(masked) :])


def test_what_cannot_be_read(model, chatty):
    with pytest.raises(BadInput, match="no positions 'eoss' to leave out; the nearest are eos"):
        Contexts(model, TEXTS, Reading(untrained=("eoss",)))
    with pytest.raises(BadInput, match=r"A context has 2 to \d+ tokens"):
        Contexts(model, TEXTS, Reading(context=10**6))
    chatty.tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(BadInput, match=r"template refuses a chat .*no system role"):
        [*Contexts(chatty, [[{"role": "system", "content": "x"}]], Reading())]
    chatty.tokenizer.chat_template = None
    with pytest.raises(BadInput, match="no chat template; use an instruction-tuned model"):
        [*Contexts(chatty, [[{"role": "user", "content": "x"}]], Reading())]
    with pytest.raises(BadInput, match="whose start could be left out"):
        Contexts(chatty, TEXTS, Reading(untrained=("template",)))
