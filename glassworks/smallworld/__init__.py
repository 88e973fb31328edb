"""The embedded default: a small world of true facts, the models that learned it, and the answers that are known.

    truth("The capital of the state containing Dallas is") Dallas -> Texas -> Austin
    swaps()                                                prompt pairs for patching, with the answers of both
    build("smallworld-m", out)                             train, measure and write a model anew

Nothing heavy is imported before it is used. This room must not know coders, circuits or edits.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glassworks.smallworld.builder import build as build
    from glassworks.smallworld.check import AIMS as AIMS
    from glassworks.smallworld.check import measure as measure
    from glassworks.smallworld.corpus import TASKS as TASKS
    from glassworks.smallworld.corpus import generate as generate
    from glassworks.smallworld.corpus import stream as stream
    from glassworks.smallworld.document import Document as Document
    from glassworks.smallworld.facts import City as City
    from glassworks.smallworld.facts import Place as Place
    from glassworks.smallworld.facts import cities as cities
    from glassworks.smallworld.facts import countries as countries
    from glassworks.smallworld.facts import find_city as find_city
    from glassworks.smallworld.facts import find_place as find_place
    from glassworks.smallworld.facts import held_out as held_out
    from glassworks.smallworld.facts import states as states
    from glassworks.smallworld.geography import two_hop_prompts as two_hop_prompts
    from glassworks.smallworld.oracle import Swap as Swap
    from glassworks.smallworld.oracle import Truth as Truth
    from glassworks.smallworld.oracle import swaps as swaps
    from glassworks.smallworld.oracle import truth as truth
    from glassworks.smallworld.recipe import SIZES as SIZES
    from glassworks.smallworld.recipe import Recipe as Recipe

_HOMES = {
    "AIMS": "check",
    "City": "facts",
    "Document": "document",
    "Place": "facts",
    "Recipe": "recipe",
    "SIZES": "recipe",
    "Swap": "oracle",
    "TASKS": "corpus",
    "Truth": "oracle",
    "build": "builder",
    "cities": "facts",
    "countries": "facts",
    "find_city": "facts",
    "find_place": "facts",
    "generate": "corpus",
    "held_out": "facts",
    "measure": "check",
    "states": "facts",
    "stream": "corpus",
    "swaps": "oracle",
    "truth": "oracle",
    "two_hop_prompts": "geography",
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'glassworks.smallworld' has no attribute {name!r}")
    return getattr(import_module(f"glassworks.smallworld.{_HOMES[name]}"), name)
