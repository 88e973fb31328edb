"""A store in a bucket: the same files and the same rows as on a disk, from a local S3 server."""

import logging

import pytest
import torch

from glassworks.errors import BadArtefact, BadInput, NotFound
from glassworks.harvest import Shuffled, Storing, harvest, load_store
from glassworks.harvest.folders import Bucket, open_folder
from tests.harvest.conftest import DOCUMENTS, SITES, same

SMALL = Storing(dtype="int8", shard_bytes=3000, batch=64)


@pytest.fixture(scope="module")
def bucket():
    """The address of an empty bucket."""
    pytest.importorskip("s3fs")
    server_of = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        open_folder("s3://bucket/x").files.mkdir("bucket")  # pyright: ignore
        yield "s3://bucket"
    server.stop()


@pytest.mark.slow
def test_a_bucket_holds_what_a_disk_holds(model, bucket, tmp_path):
    there = harvest(model, DOCUMENTS, SITES, f"{bucket}/store", storing=SMALL)
    here = harvest(model, DOCUMENTS, SITES, tmp_path, storing=SMALL)
    assert there.files == here.files
    assert there.verify() == []
    assert torch.equal(there.tokens, here.tokens)
    rows = torch.randint(here.rows, (100,))
    for site in SITES:
        assert torch.equal(there.read(site, slice(30, 200)), here.read(site, slice(30, 200)))
        assert torch.equal(there.take(site, rows), here.take(site, rows))
    streams = [Shuffled(store, 20, sites=SITES[:1], buffer=100) for store in (there, here)]
    assert all(same(streams[0].draw(), streams[1].draw()) for _ in range(40))
    again = Shuffled(there, 20, sites=SITES[:1], buffer=100)
    again.restore(streams[0].state())
    assert same(again.draw(), streams[1].draw())


@pytest.mark.slow
def test_what_a_bucket_lacks(model, bucket):
    with pytest.raises(NotFound, match="no store at"):
        load_store(f"{bucket}/nothing")
    with pytest.raises(NotFound, match="is not there"):
        load_store("s3://elsewhere/store")
    address = f"{bucket}/damaged"
    store = harvest(model, DOCUMENTS, SITES, address, storing=SMALL)
    whole = store.folder.read("mlp_in.1/00001.safetensors")
    store.folder.write("mlp_in.1/00001.safetensors", [whole[:-3]])
    with pytest.raises(BadArtefact, match=r"mlp_in.1/00001.safetensors"):
        load_store(address)
    with pytest.raises(BadArtefact, match="is cut off"):
        store.read("mlp_in.1")
    harvest(model, DOCUMENTS, SITES, address, storing=Storing(dtype="int8", shard_bytes=3000, batch=64, verify=True))
    assert load_store(address).folder.read("mlp_in.1/00001.safetensors") == whole


def test_rows_near_each_other_are_fetched_together(tmp_path):
    folder = Bucket(f"file://{tmp_path}")
    table = torch.randint(0, 255, (5000, 64), dtype=torch.uint8)
    folder.write("a", [b"head", table.numpy().tobytes()])
    asked = []
    ranges = folder.files.cat_ranges
    folder.files.cat_ranges = lambda paths, *a, **k: asked.append(len(paths)) or ranges(paths, *a, **k)
    rows = torch.tensor([4000, 3, 1, 3, 4001, 700])
    assert torch.equal(folder.gather("a", 4, 64, rows), table[rows])
    assert asked == [2]


def test_an_address_that_cannot_be_used():
    with pytest.raises(BadInput, match="nothing://x cannot be used"):
        open_folder("nothing://x")
