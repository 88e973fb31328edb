"""Files of a repository: exactly those that are asked for, from a hub on this machine; and no network where cached."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

COMMIT = "c" * 40
CODER = "resid_post/layer_12_width_16k_l0_medium"


class Hub(BaseHTTPRequestHandler):
    """The four answers of the hub that a client needs, for the files of one folder."""

    root: Path
    asked: list[str]

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if "/resolve/" in path:
            return self.file(path.split(f"/resolve/{COMMIT}/")[1])
        files = sorted(each for each in self.root.rglob("*") if each.is_file())
        names = [each.relative_to(self.root).as_posix() for each in files]
        if "/tree/" in path:
            tree = [
                {"type": "file", "path": name, "size": each.stat().st_size, "oid": sha1(name.encode()).hexdigest()}
                for name, each in zip(names, files, strict=True)
            ]
            return self.answer(json.dumps(tree).encode())
        siblings = [{"rfilename": name} for name in names]
        facts = {"id": "some/release", "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
        return self.answer(json.dumps(facts).encode())

    def file(self, name: str) -> None:
        if self.command == "GET":
            self.asked.append(name)
        self.answer(
            (self.root / name).read_bytes(), {"X-Repo-Commit": COMMIT, "ETag": f'"{sha1(name.encode()).hexdigest()}"'}
        )

    def answer(self, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(200)
        for name, value in (
            {"Content-Length": str(len(body)), "Content-Type": "application/json"} | (headers or {})
        ).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub(tmp_path) -> Iterator[ThreadingHTTPServer]:
    folder = tmp_path / "release"
    for name in (CODER, "resid_post/layer_12_width_16k_l0_big"):
        (folder / name).mkdir(parents=True)
        shapes = {"w_enc": (8, 40), "w_dec": (40, 8), "b_enc": (40,), "b_dec": (8,), "threshold": (40,)}
        save_file({key: torch.rand(shape) for key, shape in shapes.items()}, folder / name / "params.safetensors")
        (folder / name / "examples.safetensors").write_bytes(b"x" * 100_000)
    Hub.root, Hub.asked = folder, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def run(code: str, home: Path, port: int, offline: bool = False) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": str(int(offline)),
        "HF_HUB_DISABLE_XET": "1",
    }
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120, check=False
    )


TAKE = (
    "from glassworks import load_scope; s = load_scope('some/release'); print(len(s.entries));"
    f"print(s['{CODER}'].d_latent)"
)


@pytest.mark.slow
def test_only_the_files_in_use_are_fetched_and_then_no_network_is_needed(hub, tmp_path):
    port = hub.server_address[1]
    first = run(TAKE, tmp_path / "home", port)
    assert first.stdout.split() == ["2", "40"], first.stderr
    assert Hub.asked == [f"{CODER}/params.safetensors"]
    Hub.asked.clear()
    assert run(TAKE, tmp_path / "home", port, offline=True).stdout.split() == ["2", "40"]
    hub.shutdown()
    nothing = "import socket; socket.socket.connect = None;" + TAKE  # a call of the network would raise TypeError
    again = run(nothing, tmp_path / "home", port)
    assert again.stdout.split() == ["2", "40"], again.stderr
    assert Hub.asked == []


@pytest.mark.slow
def test_a_file_that_is_not_there_is_told_offline(hub, tmp_path):
    port = hub.server_address[1]
    run("from glassworks import load_scope; load_scope('some/release')", tmp_path / "home", port)
    ended = run(TAKE, tmp_path / "home", port, offline=True)
    assert "neither a folder here nor in the local cache" in ended.stderr
    assert Hub.asked == []


@pytest.mark.slow
def test_a_file_larger_than_the_disk_is_not_begun(hub, tmp_path):
    code = "import shutil; from collections import namedtuple; U = namedtuple('U', 'total used free');"
    code += "shutil.disk_usage = lambda _: U(10, 9, 1000);" + TAKE
    ended = run(code, tmp_path / "home", hub.server_address[1])
    assert "What is needed of some/release has 0.0 GB and the disk of" in ended.stderr
    assert "make room, or set HF_HOME to another disk" in ended.stderr
    assert Hub.asked == []


@pytest.mark.slow
def test_a_set_may_name_files_of_another_repository(hub, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    link = f"hf://some/release/{CODER}/params.safetensors"
    (folder / "config.yaml").write_text(f"model_name: google/gemma-3-270m\ntranscoders:\n- {link}\n")
    code = f"from glassworks import load_scope; s = load_scope({str(folder)!r});"
    code += f"print(list(s), s.coders[{CODER!r}].d_latent)"
    ended = run(code, tmp_path / "home", hub.server_address[1])
    assert ended.stdout.split() == [f"['{CODER}']", "40"], ended.stderr
    assert Hub.asked == [f"{CODER}/params.safetensors"]
