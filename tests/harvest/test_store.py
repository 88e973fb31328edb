"""Stores against each document run alone, and what becomes of them when something goes wrong."""

import os
from dataclasses import replace

import pytest
import torch

from glassworks.errors import BadArtefact, BadInput, NotFound
from glassworks.harvest import Reading, Storing, harvest, load_store, moments
from glassworks.models import Model
from tests.harvest.conftest import DOCUMENTS, SITES, files
from tests.tiny import tiny_gemma3

SMALL = Storing(dtype="float32", shard_bytes=6000, batch=64)
ERROR = {"float32": 1e-5, "bfloat16": 2**-7, "int8": 2**-6}


@pytest.fixture(scope="module")
def store(model, tmp_path_factory):
    return harvest(model, DOCUMENTS, SITES, tmp_path_factory.mktemp("store"), storing=SMALL)


def test_a_store_shows_itself(store):
    assert str(store).startswith(f"Store('{store.folder.name}': {store.rows:,} rows of tiny at ")
    assert all(site in store._repr_html_() for site in store.sites)


@pytest.mark.parametrize("dtype", ERROR)
def test_every_token_is_there_once(model, truth, tmp_path, dtype: str):
    store = harvest(model, DOCUMENTS, SITES, tmp_path, storing=replace(SMALL, dtype=dtype))
    assert len(store.fields["shards"]) >= 3
    keys = [*zip(store.documents.tolist(), store.positions.tolist(), strict=True)]
    assert sorted(keys) == sorted(truth)
    assert store.tokens.tolist() == [DOCUMENTS[document][position] for document, position in keys]
    for site in SITES:
        expected = torch.stack([truth[key][site] for key in keys])
        error = (store.read(site) - expected).abs().amax(1) / expected.abs().amax(1)
        assert float(error.max()) <= ERROR[dtype]


def test_following_is_the_next_token_of_the_document(store):
    for document, position, following in zip(store.documents, store.positions, store.following, strict=True):
        rest = DOCUMENTS[int(document)][int(position) + 1 :]
        assert int(following) == (rest[0] if rest else -1)


def test_rows_within_a_shard_are_shuffled(store):
    first = store.documents[: store.fields["shards"][0]]
    assert first.tolist() != sorted(first.tolist())
    assert sorted(first.tolist()) == sorted(store.documents.tolist())[: len(first)]


def test_slices_rows_and_heads(store):
    everything = store.read("attn_heads.0")
    for start, stop in ((0, store.rows), (3, 3), (5, 70), (store.rows - 1, store.rows), (30, 10_000), (-4, -1)):
        assert torch.equal(store.read("attn_heads.0", slice(start, stop)), everything[start:stop])
    rows = torch.randint(store.rows, (100,))
    assert torch.equal(store.take("attn_heads.0", rows), everything[rows])
    assert store.take("attn_heads.0", rows[:0]).shape == (0, 16)
    assert store.each_head("attn_heads.0") == ["attn_heads.0[0]", "attn_heads.0[1]"]
    assert torch.equal(store.take("attn_heads.0[1]", rows), everything[rows][:, 8:])
    assert store.each_head("mlp_in.1") == ["mlp_in.1"]


def test_statistics_are_those_of_the_rows(store):
    for site in [*SITES, "attn_heads.0[1]"]:
        told, found = store.statistics(site), moments(store.read(site))
        assert torch.allclose(told.mean.double(), found.mean.double(), atol=1e-5)
        assert told.square == pytest.approx(found.square)
        assert told.variance == pytest.approx(float(store.read(site).var(0, correction=0).sum()), rel=1e-4)


def test_what_was_not_recorded(store):
    with pytest.raises(NotFound, match=r"Nothing was recorded at 'mlp_in.0'"):
        store.read("mlp_in.0")
    with pytest.raises(NotFound, match=r"no head 2 at attn_heads.0; it has 2"):
        store.read("attn_heads.0[2]")
    with pytest.raises(BadInput, match="There is no row"):
        store.take("mlp_in.1", torch.tensor([store.rows]))


def test_a_harvest_that_was_broken_off_ends_the_same(model, store, tmp_path):
    class Enough(Exception):
        pass

    shards = []

    def stop(tokens: int, rows: int) -> None:
        shards.extend([rows] if rows else [])
        if len(shards) == 3:
            raise Enough

    with pytest.raises(Enough):
        harvest(model, DOCUMENTS, SITES, tmp_path, storing=SMALL, report=stop)
    with pytest.raises(NotFound, match="not finished"):
        load_store(tmp_path)
    there = {name: os.stat(tmp_path / name).st_mtime_ns for name in files(tmp_path) if name.startswith("mlp_in")}
    harvest(model, DOCUMENTS, SITES, tmp_path, storing=SMALL)
    assert files(tmp_path) == files(store.folder.path)
    assert all(os.stat(tmp_path / name).st_mtime_ns == time for name, time in there.items())


def test_parts_of_the_work_make_the_same_store(model, store, tmp_path):
    results = [harvest(model, DOCUMENTS, SITES, tmp_path, storing=replace(SMALL, part=(part, 3))) for part in (2, 1, 3)]
    assert [found is None for found in results] == [True, True, False]
    assert files(tmp_path) == files(store.folder.path)


def test_a_shard_that_another_process_makes_is_left_to_it(model, store, tmp_path):
    from glassworks.harvest.folders import Local

    release = Local(tmp_path).claim("00001")
    assert release
    assert harvest(model, DOCUMENTS, SITES, tmp_path, storing=SMALL) is None
    assert not (tmp_path / "marks" / "00001.safetensors").exists()
    release()
    harvest(model, DOCUMENTS, SITES, tmp_path, storing=SMALL)
    assert files(tmp_path) == files(store.folder.path)


def test_other_settings_are_refused(model, tmp_path):
    harvest(model, DOCUMENTS, SITES, tmp_path, storing=SMALL)
    for sites, reading, storing, name in (
        (SITES[:1], None, SMALL, "sites"),
        (SITES, Reading(packed=True), SMALL, "reading"),
        (SITES, None, replace(SMALL, seed=1), "seed"),
    ):
        with pytest.raises(BadInput, match=f"begun with another {name} "):
            harvest(model, DOCUMENTS, sites, tmp_path, reading, storing)
    torch.manual_seed(1)
    with pytest.raises(BadInput, match="begun with another model"):
        harvest(Model(tiny_gemma3(64), name="other"), DOCUMENTS, SITES, tmp_path, storing=SMALL)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "thing.txt").write_text("x")
    with pytest.raises(BadInput, match="something else than a store"):
        harvest(model, DOCUMENTS, SITES, tmp_path / "else", storing=SMALL)


@pytest.mark.parametrize("file", ["mlp_in.1/00001", "rows/00000", "marks/00002", "statistics"])
def test_damage_is_found_and_repaired(model, store, tmp_path, file: str):
    harvest(model, DOCUMENTS, SITES, tmp_path, storing=SMALL)
    path = tmp_path / f"{file}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert load_store(tmp_path).verify() == [path.relative_to(tmp_path).as_posix()]
    harvest(model, DOCUMENTS, SITES, tmp_path, storing=replace(SMALL, verify=True))
    assert files(tmp_path) == files(store.folder.path)


def test_a_file_that_is_cut_off(model, store, tmp_path):
    harvest(model, DOCUMENTS, SITES, tmp_path, storing=SMALL)
    opened = load_store(tmp_path)
    path = tmp_path / "mlp_in.1" / "00001.safetensors"
    os.truncate(path, 200)
    with pytest.raises(BadArtefact, match=r"mlp_in.1/00001.safetensors.*--verify"):
        load_store(tmp_path)
    for read in (lambda: opened.read("mlp_in.1"), lambda: opened.take("mlp_in.1", torch.arange(opened.rows))):
        with pytest.raises(BadArtefact, match="is cut off"):
            read()
    path.unlink()
    with pytest.raises(BadArtefact, match="lacks its file"):
        opened.read("mlp_in.1")
    harvest(model, DOCUMENTS, SITES, tmp_path, storing=replace(SMALL, verify=True))
    assert files(tmp_path) == files(store.folder.path)


def test_a_full_disk_loses_nothing(model, store, tmp_path):
    # what is written beside its place goes to a device that is always full
    full = tmp_path / "mlp_in.1" / f"00002.safetensors.{os.getpid()}.part"
    full.parent.mkdir()
    full.symlink_to("/dev/full")
    with pytest.raises(BadInput, match=r"no room for mlp_in.1/00002.*make room and run the same command again"):
        harvest(model, DOCUMENTS, SITES, tmp_path, storing=SMALL)
    assert (tmp_path / "marks" / "00001.safetensors").is_file()
    assert not full.is_symlink()
    harvest(model, DOCUMENTS, SITES, tmp_path, storing=SMALL)
    assert files(tmp_path) == files(store.folder.path)


def test_activations_that_are_not_finite(model, tmp_path):
    broken = Model(tiny_gemma3(64), name="tiny")
    with torch.no_grad():
        broken.hf.get_input_embeddings().weight[DOCUMENTS[40][-1]] = torch.nan
    with pytest.raises(BadInput, match=r"not finite in document \d+ at position \d+; load"):
        harvest(broken, DOCUMENTS, SITES, tmp_path, storing=SMALL)
    with pytest.raises(NotFound, match="not finished"):
        load_store(tmp_path)


@pytest.mark.parametrize(
    ("sites", "documents", "storing", "message"),
    [
        ([], DOCUMENTS, SMALL, "no site to record"),
        (["pattern.0"], DOCUMENTS, SMALL, "as wide as the text is long"),
        (SITES, [[2]], SMALL, "no token to record"),
        (SITES, [[999]], SMALL, "token id 999"),
        (SITES, ["text"], SMALL, "no tokenizer"),
        (SITES, DOCUMENTS, Storing(dtype="float8"), "cannot be stored as 'float8'"),
    ],
)
def test_what_cannot_be_harvested(model, tmp_path, sites, documents, storing, message: str):
    with pytest.raises(BadInput, match=message):
        harvest(model, documents, sites, tmp_path, storing=storing)


def test_no_store(tmp_path):
    with pytest.raises(NotFound, match="no store at"):
        load_store(tmp_path / "nothing")
    (tmp_path / "manifest.json").write_text('{"kind": "scope"}')
    with pytest.raises(BadArtefact, match="holds a scope, not a store"):
        load_store(tmp_path)
