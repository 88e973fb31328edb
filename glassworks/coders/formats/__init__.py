"""Foreign formats: one small file each, which recognises its files and says how each coder is to be read.

A new format is a new file and a row of the table below, the more particular ones first. This package must not know
what a scope is.
"""

from collections.abc import Callable
from dataclasses import dataclass

from glassworks.coders.entries import Entry
from glassworks.coders.files import Files, files_of
from glassworks.coders.formats import (
    circuit_tracer,
    crosslayer_transcoder,
    dictionary_learning,
    gemma_scope_1,
    gemma_scope_2,
    gemma_scope_2_joint,
    linear_pickles,
    llama_scope,
    llamascopium,
    qwen_scope,
    saelens,
    sparsify,
    tinystories_topk,
)
from glassworks.errors import BadArtefact, Unsupported

__all__ = ["FORMATS", "Format", "find_entries"]


@dataclass(frozen=True)
class Format:
    """A way in which others lay out coders.

    Attributes:
        name: its name.
        recognise: whether files are of this format; reads small configurations at the most.
        entries: what they hold, without reading weights.
    """

    name: str
    recognise: Callable[[Files], bool]
    entries: Callable[[Files], list[Entry]]


FORMATS = [
    Format(module.__name__.rsplit(".", 1)[-1], module.recognise, module.entries)
    for module in (
        gemma_scope_2,
        gemma_scope_2_joint,
        gemma_scope_1,
        saelens,
        sparsify,
        dictionary_learning,
        qwen_scope,
        llamascopium,
        llama_scope,
        crosslayer_transcoder,
        circuit_tracer,
        linear_pickles,
        tinystories_topk,
    )
]


def find_entries(files: Files) -> list[Entry]:
    """Say which coders a release holds; a release may mix formats.

    Args:
        files: the release's files.

    Raises:
        Unsupported: no format is recognised.
        BadArtefact: a configuration is damaged.
    """
    links = circuit_tracer.links(files)
    if links:
        return [entry for (name, revision), wanted in links.items() for entry in _linked(name, revision, wanted)]
    found = [entry for each in FORMATS if each.recognise(files) for entry in _entries(each, files)]
    if not found:
        raise Unsupported(
            f"{files.reference} holds no coders of a format that we know; known are "
            f"{', '.join(each.name for each in FORMATS)}. Its files are {', '.join(list(files)[:5]) or 'none'}."
        )
    return found


def _entries(each: Format, files: Files) -> list[Entry]:
    try:
        return each.entries(files)
    except (KeyError, TypeError, AttributeError) as error:
        raise BadArtefact(
            f"A configuration of {files.reference}, in the format {each.name}, lacks or misstates {error}."
        ) from error


def _linked(name: str, revision: str | None, wanted: list[str]) -> list[Entry]:
    """The coders of another repository that a set names file by file."""
    return [entry for entry in find_entries(files_of(name, revision)) if set(entry.files) <= set(wanted)]
