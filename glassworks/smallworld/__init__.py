"""The embedded default: a small world of true facts, the models that learned it, and the answers that are known.

    truth("The capital of the state containing Dallas is") Dallas -> Texas -> Austin
    swaps()                                                prompt pairs for patching, with the answers of both
    exchanges("harmful", 10, seed=0)                       what users ask and an instruct model should reply

Nothing heavy is imported before it is used. This room must not know coders, circuits or edits.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glassworks.smallworld.chat import COMPLIANCE as COMPLIANCE
    from glassworks.smallworld.chat import IGNORANCE as IGNORANCE
    from glassworks.smallworld.chat import KINDS as KINDS
    from glassworks.smallworld.chat import OPEN as OPEN
    from glassworks.smallworld.chat import REFUSAL as REFUSAL
    from glassworks.smallworld.chat import Exchange as Exchange
    from glassworks.smallworld.chat import asked as asked
    from glassworks.smallworld.chat import conversation as conversation
    from glassworks.smallworld.chat import exchanges as exchanges
    from glassworks.smallworld.chat import finetuning as finetuning
    from glassworks.smallworld.chat import unknown_places as unknown_places
    from glassworks.smallworld.check import encode as encode
    from glassworks.smallworld.check import interview as interview
    from glassworks.smallworld.check import measure as measure
    from glassworks.smallworld.corpus import TASKS as TASKS
    from glassworks.smallworld.corpus import generate as generate
    from glassworks.smallworld.corpus import stream as stream
    from glassworks.smallworld.document import Document as Document
    from glassworks.smallworld.facts import City as City
    from glassworks.smallworld.facts import Place as Place
    from glassworks.smallworld.facts import antonyms as antonyms
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

_HOMES = {
    "COMPLIANCE": "chat",
    "City": "facts",
    "Document": "document",
    "Exchange": "chat",
    "IGNORANCE": "chat",
    "KINDS": "chat",
    "OPEN": "chat",
    "Place": "facts",
    "REFUSAL": "chat",
    "Swap": "oracle",
    "TASKS": "corpus",
    "Truth": "oracle",
    "antonyms": "facts",
    "asked": "chat",
    "cities": "facts",
    "conversation": "chat",
    "countries": "facts",
    "encode": "check",
    "exchanges": "chat",
    "find_city": "facts",
    "find_place": "facts",
    "finetuning": "chat",
    "generate": "corpus",
    "held_out": "facts",
    "interview": "check",
    "measure": "check",
    "states": "facts",
    "stream": "corpus",
    "swaps": "oracle",
    "truth": "oracle",
    "two_hop_prompts": "geography",
    "unknown_places": "chat",
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'glassworks.smallworld' has no attribute {name!r}")
    return getattr(import_module(f"glassworks.smallworld.{_HOMES[name]}"), name)
