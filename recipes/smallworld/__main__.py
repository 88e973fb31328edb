"""`python -m recipes.smallworld`: train an embedded model from nothing, and its scope as it is shipped."""

import argparse
import sys
from pathlib import Path

from glassworks.errors import GlassworksError
from recipes.smallworld.build import build


def main() -> None:
    """Build what the command line names; a mistake of the user ends it with one line and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m recipes.smallworld", description=__doc__)
    parser.add_argument("name", nargs="?", default="smallworld-m", help="smallworld-s, -m or -l, or one with -it")
    parser.add_argument("--out", "-o", type=Path, default=Path("models"), help="folder that gets NAME and NAME-scope")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--checkpoints", type=Path, help="folder for checkpoints; in the cache if unset")
    parser.add_argument("--scopes", action="store_true", help="train no model, but coders of every kind for it")
    words = parser.parse_args()
    try:
        for written in build(words.name, words.out, words.resume, words.checkpoints, scopes=words.scopes):
            print(f"wrote {written}")
    except GlassworksError as error:
        print(f"recipes.smallworld: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
