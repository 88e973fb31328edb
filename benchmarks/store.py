"""The store against the disk itself: writing, cold and warm reading in shuffled order, random rows.

    python benchmarks/store.py [GB]

Written like `harvest` does (tensors to files, flushed, hashed), read like training does (`Shuffled`: blocks in random
order into a bounded buffer). Beside it in the same run: plain sequential writing and reading of as many bytes with the
same system calls, cold meaning that the system's cache was told to forget the files. Shards are written in turn with
the plain files, since disks of rented machines are fast for a gigabyte and slow after it. Where tensorstore is
installed the same figures of a sharded zarr v3 array, which was the other candidate for a store.
"""

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from common import machine, peak_mb

from glassworks.harvest import Shuffled, load_store
from glassworks.harvest.folders import open_folder
from glassworks.harvest.plan import begin
from glassworks.harvest.shard import Shard, write
from glassworks.harvest.store import COLUMNS
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


def write_raw(folder: Path, values: torch.Tensor, number: int) -> None:
    folder.mkdir(exist_ok=True)
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


PLAN = {"model": "none", "sites": {SITE: WIDTH}, "heads": {}, "dtype": "bfloat16", "shard_rows": ROWS}


def write_store(folder: Path, values: torch.Tensor, number: int) -> None:
    place = open_folder(folder)
    if not number:
        begin(place, PLAN, False)
    tokens = torch.arange(ROWS, dtype=torch.int32)
    columns = dict.fromkeys(COLUMNS, tokens)
    sums = {f"{name}.{SITE}": torch.zeros(WIDTH, dtype=torch.float64) for name in ("mean", "square")}
    write(place, Shard(number, columns, {SITE: {"values": values}}, sums), lambda: None)


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


def write_zarr(array: Any, folder: Path, values: torch.Tensor, number: int) -> None:
    import ml_dtypes

    array[number * ROWS : (number + 1) * ROWS].write(values.view(torch.int16).numpy().view(ml_dtypes.bfloat16)).result()
    newest = max((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.stat().st_mtime_ns)
    handle = os.open(newest, os.O_RDONLY)
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

    def keep(name: str, work: Callable[[], Any], size: int = size) -> None:
        found.setdefault(name, []).append(rate(work, size))

    for _ in range(REPEATS):
        for place in places.values():
            shutil.rmtree(place, ignore_errors=True)
        writers = {"raw": partial(write_raw, places["raw"]), "store": partial(write_store, places["store"])}
        if find_spec("tensorstore"):
            writers["zarr"] = partial(write_zarr, zarr(places["zarr"], values, shards, True), places["zarr"])
        for number in range(shards):
            for name in sorted(writers, reverse=bool(number % 2)):
                keep(f"write {name}", lambda work=writers[name], at=number: work(values, at), size // shards)
        seal(open_folder(places["store"]), PLAN, shards)
        for state in ("cold", "warm"):
            forget(folder) if state == "cold" else None
            keep(f"{state} raw", lambda: read_raw(places["raw"]))
            keep(f"{state} store, shuffled blocks", lambda: read_store(places["store"], True))
            forget(folder) if state == "cold" else None
            keep(f"{state} store, shuffled float32 batches", lambda: read_store(places["store"], False))
        found.setdefault("random rows/s", []).append(random_rows(places["store"]))
        if find_spec("tensorstore"):
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
        ours, raw = found["write store"], found["write raw"]
        shares = {
            "write, share of raw, median shard": statistics.median(a / b for a, b in zip(ours, raw, strict=True)),
            "write, share of raw, all together": statistics.harmonic_mean(ours) / statistics.harmonic_mean(raw),
            "cold shuffled read, share of cold raw": middle["cold store, shuffled blocks"] / middle["cold raw"],
        }
        figures[f"{threads} threads"] = middle | {name: round(share, 3) for name, share in shares.items()}
    about = machine("torch", "tensorstore", "numpy") | {"threads": "2 and 1", "GB": shards * ROWS * WIDTH * 2 / 1e9}
    text = json.dumps({"machine": about, "GB/s, medians": figures, "peak MB": peak_mb()}, indent=1)
    RESULT.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)
