"""References: folders, embedded names, and repositories that cannot be reached."""

import os
import socket
import subprocess
import sys
import time

import pytest

from glassworks import hub
from glassworks.errors import BadInput, NotFound


def test_a_folder_is_itself(tmp_path):
    assert hub.resolve(tmp_path) == tmp_path
    assert hub.resolve(str(tmp_path), "scope") == tmp_path


def test_the_embedded_default_has_two_names():
    assert hub.resolve("smallworld") == hub.resolve("smallworld-m")
    assert hub.resolve("smallworld", "scope") != hub.resolve("smallworld")
    assert "smallworld-m" in hub.embedded("scope")


@pytest.mark.parametrize("name", ["smallwrld", "a/b/c", "/nowhere", "../x", "x/"])
def test_an_unknown_name_lists_what_there_is(name):
    with pytest.raises(NotFound, match=r"neither a folder nor an embedded name; .* smallworld"):
        hub.resolve(name)


@pytest.mark.parametrize(("name", "right"), [
    ("gpt2", "openai-community/gpt2"), ("pythia-70m", "EleutherAI/pythia-70m"), ("unknown", "[.]$"),
])  # fmt: skip
def test_a_known_name_without_its_owner_is_answered_with_it(name, right):
    with pytest.raises(NotFound, match=f"written owner/name(, such as )?{right}"):
        hub.resolve(name)


def test_an_empty_name_is_refused():
    with pytest.raises(BadInput, match="is empty"):
        hub.resolve("")


def test_a_repository_that_is_not_cached_is_not_found_offline():
    with pytest.raises(NotFound, match="neither a folder here nor in the local cache"):
        hub.resolve("nobody/nothing-of-that-name")


@pytest.mark.slow
def test_a_silent_hub_is_given_up_within_ten_seconds(tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        environment = os.environ | {
            "HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "HF_HOME": str(tmp_path),
            "HF_HUB_OFFLINE": "0",
        }
        start = time.monotonic()
        result = subprocess.run(
            [sys.executable, "-m", "glassworks", "info", "nobody/nothing"],
            capture_output=True, text=True, env=environment, timeout=60, check=False,
        )  # fmt: skip
    assert result.returncode == 2
    assert "hub cannot be reached" in result.stderr
    assert time.monotonic() - start <= 10
