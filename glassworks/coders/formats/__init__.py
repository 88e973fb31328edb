"""Foreign formats: each finds its files in a release and says how each coder is to be read.

A new format is a function from files to entries and a row of the table below, the more particular ones first. This
package must not know what a scope is.
"""

from collections.abc import Callable

from glassworks.coders.entries import Entry
from glassworks.coders.files import Files, files_of
from glassworks.coders.formats import (
    circuit_tracer,
    crosslayer_transcoder,
    dictionary_learning,
    gemma_scope,
    openmoss,
    pickles,
    saelens,
    sparsify,
)
from glassworks.errors import Unsupported

__all__ = ["FORMATS", "find_entries"]

FORMATS: dict[str, Callable[[Files], list[Entry]]] = {
    "gemma_scope_2": gemma_scope.second,
    "gemma_scope_2_joint": gemma_scope.second_joint,
    "gemma_scope_1": gemma_scope.first,
    "saelens": saelens.entries,
    "sparsify": sparsify.entries,
    "dictionary_learning": dictionary_learning.entries,
    "qwen_scope": pickles.qwen_scope,
    "llamascopium": openmoss.llamascopium,
    "llama_scope": openmoss.llama_scope,
    "crosslayer_transcoder": crosslayer_transcoder.entries,
    "circuit_tracer": circuit_tracer.entries,
    "linear_pickle": pickles.two_linear_layers,
    "tinystories_topk": pickles.tinystories,
}
"""Name -> the coders of that format among some files, without reading weights: none where it is not recognised."""


def find_entries(files: Files) -> list[Entry]:
    """Say which coders a release holds; a release may mix formats.

    Args:
        files: the release's files.

    Raises:
        Unsupported: no format is recognised.
        BadArtefact: a configuration is damaged.
    """
    links = circuit_tracer.links(files)
    if links:  # a set that names the files of other repositories
        listed = [(find_entries(files_of(name, revision)), set(wanted)) for (name, revision), wanted in links.items()]
        return [entry for entries, wanted in listed for entry in entries if set(entry.files) <= wanted]
    entries = [entry for read in FORMATS.values() for entry in read(files)]
    if not entries:
        raise Unsupported(
            f"{files.reference} holds no coders of a format that we know; known are {', '.join(FORMATS)}. "
            f"Its files are {', '.join(list(files)[:5]) or 'none'}."
        )
    return entries
