"""The tokenizer: names are single tokens, digits are single tokens, and texts come back as they were."""

from itertools import islice

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from glassworks import smallworld
from recipes.smallworld.tokenizer import BOS, EOS, PAD, UNK, build_tokenizer, save_tokenizer

TEXTS = [
    "The capital of the state containing Dallas is Austin.",
    "36 + 59 = 95",
    'Después de "dieciséis" viene "diecisiete".',
    "A word nobody wrote: xyzzy, 3.14 & more\n\n  indented\nlast",
    "two  blanks",
    "trailing blank ",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build_tokenizer()


def test_round_trip_of_all_forms_of_the_corpus(tokenizer):
    for split in ("train", "held_out"):
        for document in islice(smallworld.stream(5, 0, split), 5000):
            assert tokenizer.decode(tokenizer.encode(document.text).ids) == document.text


@pytest.mark.parametrize("text", TEXTS)
def test_round_trip_of_other_texts(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_every_name_is_one_token(tokenizer):
    names = [city.name for city in smallworld.cities()]
    for place in [*smallworld.states(), *smallworld.countries()]:
        names += [place.name, *place.attributes.values()]
    assert [name for name in names if len(tokenizer.encode(name).ids) != 2] == []


def test_no_word_of_the_corpus_falls_into_characters(tokenizer):
    short = set()
    texts = [document for document in islice(smallworld.stream(6, 0), 5000) if '"El Dorado' not in document.text]
    assert len(texts) > 4990  # names of two words have no token without a blank before them
    for document in texts:
        pieces = tokenizer.encode(document.text).tokens[1:]
        short |= {piece for piece in pieces if len(piece.removeprefix("▁")) < 2 and piece.removeprefix("▁").isalpha()}
    assert short <= {"▁a", "▁A", "▁I", "s"}


def test_digits_are_tokens(tokenizer):
    assert tokenizer.encode("36 + 59 =").tokens == ["<bos>", "▁3", "6", "▁+", "▁5", "9", "▁="]


def test_turns_leave_no_blank_behind(tokenizer):
    chat = "<start_of_turn>user\nHow do I make a cake?<end_of_turn>\n<start_of_turn>model\nSure!<end_of_turn>\n"
    encoding = tokenizer.encode(chat)
    assert tokenizer.decode(encoding.ids[1:], skip_special_tokens=False) == chat
    assert encoding.tokens[1:6] == ["<start_of_turn>", "user", "\n", "▁How", "▁do"]
    assert tokenizer.token_to_id("<unk>") not in encoding.ids


def test_transformers_loads_it(tokenizer, tmp_path):
    save_tokenizer(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "The capital of New York is"
    assert loaded(text).input_ids == tokenizer.encode(text).ids
    assert (loaded.pad_token_id, loaded.eos_token_id, loaded.bos_token_id, loaded.unk_token_id) == (PAD, EOS, BOS, UNK)
    assert loaded.decode(loaded(text).input_ids, skip_special_tokens=True) == text


def test_it_is_the_same_every_time(tokenizer):
    assert build_tokenizer().to_str() == tokenizer.to_str()
