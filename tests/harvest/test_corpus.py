"""Corpora: every kind of file gives the same documents, and what is wrong is reported."""

import gzip
import json

import pytest

from glassworks.errors import BadInput, NotFound
from glassworks.harvest import Corpus

TEXTS = ["One document.", "Another,\nof two lines.", "Ümlaut."]
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.fixture
def folder(tmp_path):
    lines = "\n".join(json.dumps({"text": text, "title": "x"}) for text in TEXTS)
    (tmp_path / "lines.jsonl").write_text(lines)
    (tmp_path / "list.json").write_text(json.dumps(TEXTS))
    (tmp_path / "many.txt").write_text("\n<|doc|>\n".join(TEXTS))
    with gzip.open(tmp_path / "packed.txt.gz", "wt") as stream:
        stream.write("<|doc|>".join(TEXTS))
    return tmp_path


@pytest.mark.parametrize("name", ["lines.jsonl", "list.json", "many.txt", "packed.txt.gz"])
def test_files(folder, name: str):
    corpus = Corpus((str(folder / name),), separator="<|doc|>")
    assert [*corpus] == TEXTS
    assert [*corpus] == TEXTS  # again
    assert corpus.plain()["bytes"] == (folder / name).stat().st_size


def test_folders_are_read_in_order(folder):
    (folder / "inner").mkdir()
    (folder / "inner" / "a.md").write_text("Deep.")
    (folder / "picture.png").write_bytes(b"x")
    found = [*Corpus((str(folder), str(folder / "list.json")), separator="<|doc|>")]
    assert found == ["Deep.", *TEXTS, *TEXTS, *TEXTS, *TEXTS, *TEXTS]
    assert [*Corpus((str(folder),), documents=2)] == ["Deep.", TEXTS[0]]


def test_a_text_file_is_one_document_and_separators_may_lie_anywhere(tmp_path, monkeypatch):
    file = tmp_path / "a.txt"
    file.write_text("abc--def--g")
    assert [*Corpus((str(file),))] == ["abc--def--g"]
    for block in range(1, 12):
        monkeypatch.setattr("glassworks.harvest.corpus.BLOCK", block)
        assert [*Corpus((str(file),), separator="--")] == ["abc", "def", "g"]


def test_chats_tokens_and_columns(tmp_path):
    file = tmp_path / "a.jsonl"
    old = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    records = [{"messages": CHAT}, {"conversations": old}, {"tokens": [1, 2]}, CHAT, {"story": "s"}]
    file.write_text("\n".join(json.dumps(each) for each in records))
    assert [*Corpus((str(file),), column="story")] == [CHAT, CHAT, [1, 2], CHAT, "s"]


def test_parquet(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"text": TEXTS}), tmp_path / "a.parquet")
    assert [*Corpus((str(tmp_path / "a.parquet"),))] == TEXTS


def test_datasets_are_streamed(folder):
    pytest.importorskip("datasets")
    (folder / "only").mkdir()
    (folder / "lines.jsonl").rename(folder / "only" / "train.jsonl")
    assert [*Corpus((f"hf:{folder / 'only'}",), documents=2)] == TEXTS[:2]
    with pytest.raises(NotFound, match="The dataset nobody/nothing cannot be read"):
        [*Corpus(("hf:nobody/nothing",))]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "x"}\n{"text"', r"Line 2 of .*a.jsonl is no JSON"),
        ("a.jsonl", '{"texts": "x"}', r"has no 'text'; the nearest are texts"),
        ("a.jsonl", "3", r"A record of .* is '3'; it must be"),
        ("a.jsonl", '{"messages": [{"role": "user"}]}', "must have a role and a content"),
        ("a.json", '{"text": "x"}', "holds one dict; it must hold a list"),
        ("a.json", "[", "is no JSON"),
        ("a.pdf", "x", "is no text that is known"),
    ],
)
def test_what_cannot_be_read(tmp_path, name: str, content: str, message: str):
    (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match=message):
        [*Corpus((str(tmp_path / name),))]


def test_what_is_not_there(tmp_path):
    with pytest.raises(NotFound, match="does not exist; give a file"):
        [*Corpus((str(tmp_path / "a.txt"),))]
    with pytest.raises(NotFound, match=r"holds no \.txt"):
        Corpus((str(tmp_path),)).plain()
