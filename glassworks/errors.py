"""The exceptions that a user can cause, in one place.

    ValueError
      GlassworksError     everything below; the command line prints it and exits with code 2
        NotFound          a name that does not exist here: model, scope, site, token, feature, file
        Unsupported       it exists, and Glassworks cannot handle it
        BadInput          a value that cannot be used: empty prompt, position out of range
        BadArtefact       a folder or file that is damaged or is something else than expected

Each message is one sentence a fact: what was wrong, what was got, what is allowed, what to do next.
Our own mistakes are `assert`s, never these. This module must know nothing else of the package.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class GlassworksError(ValueError):
    """Something that the user gave cannot be used as it is."""


class NotFound(GlassworksError):
    """A name that does not exist where it was looked for."""


class Unsupported(GlassworksError):
    """A thing that exists, and that Glassworks cannot handle."""


class BadInput(GlassworksError):
    """A value that cannot be used."""


class BadArtefact(GlassworksError):
    """A folder or file that is damaged, or is something else than expected."""


def nearest(name: str, allowed: Iterable[str], most: int = 5) -> str:
    """Say which allowed names come closest to a wrong one.

    Args:
        name: what was asked for.
        allowed: the names that exist.
        most: how many names to list at the most.

    Returns:
        `"the nearest are a, b"`, or `"there are a, b, ..."` where none is close, ready to end a message.
    """
    names = list(allowed)
    lower = {each.lower(): each for each in names}
    close = [lower[match] for match in get_close_matches(name.lower(), lower, n=most, cutoff=0.6)]
    if close:
        return "the nearest are " + ", ".join(close)
    if not names:
        return "there are none"
    return "there are " + ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
