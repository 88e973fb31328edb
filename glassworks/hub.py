"""References: from what a user names to a folder on this disk.

A reference is a folder, the name of an embedded model, or a Hugging Face repository (`owner/name`). Everything
above this module gets a local folder and never touches the network. It must not know what the files mean.
"""

import json
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from glassworks.artefacts import replace_text
from glassworks.errors import BadInput, NotFound, nearest

EMBEDDED = Path(__file__).parent / "smallworld" / "weights"
ALIASES = {"smallworld": "smallworld-m"}
SUFFIX = {"model": "", "scope": "-scope"}
MODEL_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
OWNERS = {
    "gpt2": "openai-community",
    "distilgpt2": "distilbert",
    "pythia": "EleutherAI",
    "gemma": "google",
    "llama": "meta-llama",
    "mistral": "mistralai",
    "qwen": "Qwen",
    "phi": "microsoft",
    "olmo": "allenai",
    "smollm": "HuggingFaceTB",
}
"""How names of known models begin -> who publishes them on the Hugging Face hub."""
SECONDS_TO_ANSWER = 3
SECONDS_A_LISTING_LASTS = 86_400
SPARE_BYTES = 1 << 30
"""What a download must leave free on the disk."""


@dataclass(frozen=True)
class Listing:
    """The files of a repository at one commit.

    Attributes:
        commit: which one.
        sizes: name of each file -> its size in bytes.
    """

    commit: str
    sizes: dict[str, int]


def resolve(
    reference: str | Path, kind: str = "model", revision: str | None = None, patterns: list[str] | None = None
) -> Path:
    """Find the folder that a reference means, downloading it where it is a repository.

    Args:
        reference: a folder, an embedded name (`embedded(kind)`), or `owner/name` on the Hugging Face hub.
        kind: `model` or `scope`; embedded names mean a different folder for each.
        revision: branch, tag or commit of a repository.
        patterns: which files of a repository are needed; all files a model can need by default.

    Raises:
        NotFound: there is no such folder, name or repository, or the hub cannot be reached and the cache lacks it.
    """
    if not str(reference):
        raise BadInput(f"The {kind}'s name is empty; give a folder, an embedded name or owner/name on the hub.")
    folder = Path(reference).expanduser()
    if folder.is_dir():
        return folder
    name = str(reference)
    if name in embedded(kind) or name in ALIASES:
        return EMBEDDED / (ALIASES.get(name, name) + SUFFIX[kind])
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or name.endswith("/"):
        known = [*ALIASES, *embedded(kind)]
        owner = next((owner for start, owner in OWNERS.items() if name.lower().startswith(start)), None)
        example = f", such as {owner}/{name}" if kind == "model" and owner is not None and "/" not in name else ""
        raise NotFound(
            f"There is no {kind} {name!r}, neither a folder nor an embedded name; {nearest(name, known)}. "
            f"A Hugging Face repository is written owner/name{example}."
        )
    return _download(name, kind, revision, tuple(patterns or MODEL_FILES))


def embedded(kind: str = "model") -> list[str]:
    """Names of the embedded models, or of those that have an embedded scope."""
    if not EMBEDDED.is_dir():
        return []
    folders = {folder.name for folder in EMBEDDED.iterdir() if folder.is_dir()}
    models = sorted(name for name in folders if not name.endswith(SUFFIX["scope"]))
    return [name for name in models if name + SUFFIX[kind] in folders]


def listing(name: str, revision: str | None = None) -> Listing:
    """List the files of a repository without downloading any.

    A listing is kept for a day, and without end where the hub cannot be reached, so that a scope of the cache is
    listed with no network at all.

    Args:
        name: `owner/name`.
        revision: branch, tag or commit.

    Raises:
        NotFound: there is no such repository, or the hub cannot be reached and nothing of it is in the cache.
    """
    kept = _kept_listing(name, revision)
    fresh = kept.is_file() and time.time() - kept.stat().st_mtime < SECONDS_A_LISTING_LASTS
    if fresh or not _hub_answers():
        return Listing(**json.loads(kept.read_text())) if kept.is_file() else _cached_listing(name, revision)
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    with _reported(name, "scope"):
        commit = HfApi().model_info(name, revision=revision).sha or "main"
        tree = HfApi().list_repo_tree(name, revision=commit, recursive=True)
        found = Listing(commit, {each.path: each.size for each in tree if isinstance(each, RepoFile)})
    kept.parent.mkdir(parents=True, exist_ok=True)
    replace_text(kept, json.dumps({"commit": found.commit, "sizes": found.sizes}))
    return found


def fetch(name: str, file: str, found: Listing) -> Path:
    """Get exactly one file of a repository: from the cache with no network at all, else by downloading it.

    Args:
        name: `owner/name`.
        file: its name in the repository.
        found: the repository's listing.

    Raises:
        NotFound: the repository has no such file, or the hub cannot be reached.
        BadInput: the disk has too little room.
    """
    from huggingface_hub import hf_hub_download

    if file not in found.sizes:
        raise NotFound(f"The repository {name} has no file {file!r}; {nearest(file, found.sizes)}.")
    cached = _cached(name, file, found)
    if cached is not None:
        return cached
    check_room(name, [file], found)
    with _reported(name, "scope"):
        return Path(hf_hub_download(name, file, revision=found.commit, local_files_only=not _hub_answers()))


def check_room(name: str, files: Iterable[str], found: Listing) -> None:
    """Raise BadInput unless the disk of the cache has room for those of some files that are not there yet.

    Args:
        name: `owner/name`.
        files: their names in the repository.
        found: the repository's listing.
    """
    from huggingface_hub import constants

    needed = sum(found.sizes[file] for file in files if _cached(name, file, found) is None)
    folder = Path(constants.HF_HUB_CACHE)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed and needed + SPARE_BYTES > free:
        raise BadInput(
            f"What is needed of {name} has {needed / 1e9:.1f} GB and the disk of {folder} has {free / 1e9:.1f} GB "
            "free; make room, or set HF_HOME to another disk."
        )


def _cached(name: str, file: str, found: Listing) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(name, file, revision=found.commit)
    return Path(path) if isinstance(path, str) else None


def _kept_listing(name: str, revision: str | None) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "glassworks" / "listings" / f"{name.replace('/', '--')}@{revision or 'main'}.json"


def _cached_listing(name: str, revision: str | None) -> Listing:
    """What the cache holds of a repository that was fetched by something else."""
    from huggingface_hub import snapshot_download

    with _reported(name, "scope"):
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return Listing(folder.name, {file: path.stat().st_size for file, path in files.items()})


@cache
def _download(name: str, kind: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    cached_only = not _hub_answers()
    with _reported(name, kind):
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=list(patterns), local_files_only=cached_only)
        )


@contextmanager
def _reported(name: str, kind: str) -> Iterator[None]:
    """Turn what the hub's client raises into one sentence."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        yield
    except HFValidationError as error:
        raise NotFound(f"{name!r} is neither a folder nor a valid repository name ({error}).") from error
    except HfHubHTTPError as error:
        raise NotFound(
            f"The hub does not give the {kind} {name!r} ({_first_line(error)}); check the name and the revision, "
            "and log in with `hf auth login` where the repository asks for it."
        ) from error
    except (LocalEntryNotFoundError, OSError) as error:
        raise NotFound(
            f"The {kind} {name!r} is neither a folder here nor in the local cache, and the hub cannot be reached; "
            f"embedded are {', '.join([*ALIASES, *embedded(kind)])}."
        ) from error


def _hub_answers() -> bool:
    """Whether the hub can be reached: the hub's own client would wait and try again for minutes."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        with urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=SECONDS_TO_ANSWER):
            return True
    except HTTPError:
        return True
    except OSError:
        return False


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
