"""The store against the disk itself: writing, cold and warm reading in shuffled order, random rows.

    python benchmarks/store.py [GB]

Written like `harvest` does (tensors to files, flushed, hashed), read like training does (`Shuffled`: blocks in random
order into a bounded buffer). Beside it in the same run: plain sequential writing and reading of as many bytes with the
same system calls, cold meaning that the system's cache was told to forget the files. Where tensorstore is installed
the same figures of a sharded zarr v3 array, which was the other candidate for a store.
"""

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from common import machine, peak_mb

from glassworks.harvest import Shuffled, load_store
from glassworks.harvest.folders import open_folder
from glassworks.harvest.plan import begin
from glassworks.harvest.shard import Shard, write
from glassworks.harvest.writing import seal

RESULT = Path(__file__).parent / "results" / "store.json"
SITE, WIDTH, ROWS = "resid_post.0", 640, 131_072
REPEATS = 3
CHUNK = 4096
BATCH = 4096


def forget(folder: Path) -> None:
    """Let the system's cache forget the files of a folder."""
    for file in folder.rglob("*"):
        if file.is_file():
            handle = os.open(file, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def rate(work: Callable[[], Any], size: int) -> float:
    """GB/s."""
    began = time.perf_counter()
    work()
    return size / 1e9 / (time.perf_counter() - began)


def write_raw(folder: Path, values: torch.Tensor, shards: int) -> None:
    folder.mkdir()
    for number in range(shards):
        with (folder / str(number)).open("wb") as stream:
            stream.write(values.view(torch.uint8).numpy().data)
            stream.flush()
            os.fsync(stream.fileno())


def read_raw(folder: Path) -> None:
    buffer = bytearray(8 << 20)
    for file in sorted(folder.iterdir()):
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def write_store(folder: Path, values: torch.Tensor, shards: int) -> None:
    plan = {"model": "none", "sites": {SITE: WIDTH}, "heads": {}, "dtype": "bfloat16", "shard_rows": ROWS}
    place = open_folder(folder)
    begin(place, plan, False)
    tokens = torch.arange(ROWS, dtype=torch.int32)
    columns = dict.fromkeys(("tokens", "documents", "positions", "following"), tokens)
    sums = {f"{name}.{SITE}": torch.zeros(WIDTH, dtype=torch.float64) for name in ("mean", "square")}
    for number in range(shards):
        write(place, Shard(number, columns, {SITE: {"values": values}}, sums), lambda: None)
    seal(place, plan, shards)


def read_store(folder: Path, raw: bool) -> None:
    """Every row once, in random order: the blocks alone, or as batches in float32."""
    store = load_store(folder)
    stream = Shuffled(store, BATCH)
    if raw:
        for _ in range(len(stream.blocks)):
            stream.chunk()
    else:
        for _ in range(store.rows // BATCH):
            stream.draw()


def random_rows(folder: Path) -> float:
    """Rows a second of batches that are drawn at random from the whole store."""
    store = load_store(folder)
    picks = [torch.randint(store.rows, (BATCH,)) for _ in range(20)]
    began = time.perf_counter()
    for rows in picks:
        store.take(SITE, rows)
    return len(picks) * BATCH / (time.perf_counter() - began)


def zarr(folder: Path, values: torch.Tensor, shards: int, create: bool) -> Any:
    import ml_dtypes  # noqa: F401
    import tensorstore

    inner = {
        "name": "sharding_indexed",
        "configuration": {"chunk_shape": [CHUNK, WIDTH], "codecs": [{"name": "bytes"}]},
    }
    grid = {"name": "regular", "configuration": {"chunk_shape": [ROWS, WIDTH]}}
    about = {"shape": [shards * ROWS, WIDTH], "data_type": "bfloat16", "chunk_grid": grid, "codecs": [inner]}
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}/"}, "metadata": about}
    return tensorstore.open(spec, create=create, open=True).result()


def write_zarr(folder: Path, values: torch.Tensor, shards: int) -> None:
    import ml_dtypes

    array = zarr(folder, values, shards, True)
    numbers = values.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    for number in range(shards):
        array[number * ROWS : (number + 1) * ROWS].write(numbers).result()
    for file in folder.rglob("*"):
        if file.is_file():
            handle = os.open(file, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)


def read_zarr(folder: Path, values: torch.Tensor, shards: int) -> None:
    array, waiting = zarr(folder, values, shards, False), []
    for number in torch.randperm(shards * ROWS // CHUNK).tolist():
        waiting.append(array[number * CHUNK : (number + 1) * CHUNK].read())
        if len(waiting) > 4:
            waiting.pop(0).result()
    for each in waiting:
        each.result()


def measure(folder: Path, shards: int) -> dict[str, list[float]]:
    values = torch.randn(ROWS, WIDTH).bfloat16()
    size = shards * values.numel() * 2
    places = {name: folder / name for name in ("raw", "store", "zarr")}
    found: dict[str, list[float]] = {}

    def keep(name: str, work: Callable[[], Any]) -> None:
        found.setdefault(name, []).append(rate(work, size))

    for _ in range(REPEATS):
        for place in places.values():
            shutil.rmtree(place, ignore_errors=True)
        keep("write raw", lambda: write_raw(places["raw"], values, shards))
        keep("write store", lambda: write_store(places["store"], values, shards))
        for state in ("cold", "warm"):
            forget(folder) if state == "cold" else None
            keep(f"{state} raw", lambda: read_raw(places["raw"]))
            keep(f"{state} store, shuffled blocks", lambda: read_store(places["store"], True))
            forget(folder) if state == "cold" else None
            keep(f"{state} store, shuffled float32 batches", lambda: read_store(places["store"], False))
        found.setdefault("random rows/s", []).append(random_rows(places["store"]))
        if find_spec("tensorstore"):
            keep("write zarr", lambda: write_zarr(places["zarr"], values, shards))
            forget(folder)
            keep("cold zarr, shuffled chunks", lambda: read_zarr(places["zarr"], values, shards))
            keep("warm zarr, shuffled chunks", lambda: read_zarr(places["zarr"], values, shards))
    return found


def main(gigabytes: float) -> None:
    shards = max(1, round(gigabytes * 1e9 / (ROWS * WIDTH * 2)))
    figures: dict[str, Any] = {}
    for threads in (2, 1):
        torch.set_num_threads(threads)
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            found = measure(Path(folder), shards)
        middle = {name: round(statistics.median(rates), 3) for name, rates in found.items()}
        shares = {
            "write, share of raw": middle["write store"] / middle["write raw"],
            "cold shuffled read, share of cold raw": middle["cold store, shuffled blocks"] / middle["cold raw"],
        }
        figures[f"{threads} threads"] = middle | {name: round(share, 3) for name, share in shares.items()}
    about = machine("torch", "tensorstore", "numpy") | {"threads": "2 and 1", "GB": shards * ROWS * WIDTH * 2 / 1e9}
    text = json.dumps({"machine": about, "GB/s, medians": figures, "peak MB": peak_mb()}, indent=1)
    RESULT.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)
