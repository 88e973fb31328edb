"""References: from what a user names to a folder on this disk.

A reference is a folder, the name of an embedded model, or a Hugging Face repository (`owner/name`). Everything
above this module gets a local folder and never touches the network. It must not know what the files mean.
"""

from functools import cache
from pathlib import Path

from glassworks.errors import BadInput, NotFound, nearest

EMBEDDED = Path(__file__).parent / "smallworld" / "weights"
ALIASES = {"smallworld": "smallworld-m"}
SUFFIX = {"model": "", "scope": "-scope"}
MODEL_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
SECONDS_TO_ANSWER = 3


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
        raise NotFound(
            f"There is no {kind} {name!r}: no such folder, and embedded are {', '.join(known)}; "
            f"{nearest(name, known)}. A Hugging Face repository is written owner/name."
        )
    return _download(name, kind, revision, tuple(patterns or MODEL_FILES))


def embedded(kind: str = "model") -> list[str]:
    """Names of the embedded models, or of those that have an embedded scope."""
    if not EMBEDDED.is_dir():
        return []
    folders = {folder.name for folder in EMBEDDED.iterdir() if folder.is_dir()}
    models = sorted(name for name in folders if not name.endswith(SUFFIX["scope"]))
    return [name for name in models if name + SUFFIX[kind] in folders]


@cache
def _download(name: str, kind: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    cached_only = not _hub_answers()
    try:
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=list(patterns), local_files_only=cached_only)
        )
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
