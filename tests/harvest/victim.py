"""Harvests that are killed: run as a program, `victim.py FOLDER KILLS`.

An uninterrupted harvest comes first. Then children harvest into another folder, every second time two at once, and are
killed at random moments; whenever a store is finished, it must be the same files, and the next one begins.
"""

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from glassworks.harvest import Storing, harvest
from glassworks.models import Model
from tests.tiny import tiny_gemma3

SITES = ["mlp_in.1", "attn_heads.0", "resid_post.0"]
DOCUMENTS = [[2 + (3 * number + place) % 60 for place in range(2 + number % 11)] for number in range(120)]
STORING = Storing(dtype="int8", shard_bytes=2400, batch=64)


def files(folder: Path) -> dict[str, bytes]:
    return {each.relative_to(folder).as_posix(): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def child(model: Model, folder: Path) -> int:
    number = os.fork()
    if number == 0:
        harvest(model, DOCUMENTS, SITES, folder, storing=STORING)
        os._exit(0)
    return number


def main(folder: Path, wanted: int) -> None:
    torch.set_num_threads(1)
    model = Model(tiny_gemma3(64), name="tiny")
    began = time.monotonic()
    os.waitpid(child(model, folder / "whole"), 0)
    seconds = time.monotonic() - began
    whole = files(folder / "whole")
    shards = sum(name.startswith("marks") for name in whole)
    dice, kills, finished, most = random.Random(0), 0, 0, 0
    while kills < wanted:
        children = [child(model, folder / "killed") for _ in range(1 + kills % 2)]
        time.sleep(dice.uniform(0, 0.7 * seconds))
        for each in children:
            os.kill(each, signal.SIGKILL)
        kills += sum(os.WIFSIGNALED(os.waitpid(each, 0)[1]) for each in children)
        most = max(most, len([*(folder / "killed").glob("marks/*")]))
        if (folder / "killed" / "manifest.json").is_file() or kills >= wanted:
            os.waitpid(child(model, folder / "killed"), 0)
            assert files(folder / "killed") == whole
            finished += 1
            shutil.rmtree(folder / "killed")
    print(f"{kills} kills, {finished} stores finished after them, {shards} shards each, {seconds:.2f} s uninterrupted")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
