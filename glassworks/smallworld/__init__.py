"""The embedded default: a small world of true facts, the models that learned it, and the answers that are known.

    truth("The capital of the state containing Dallas is") Dallas -> Texas -> Austin
    swaps()                                                prompt pairs for patching, with the answers of both
    exchanges("harmful", 10, seed=0)                       what users ask and an instruct model should reply

Its texts and facts are plain Python. This room must not know models, coders, circuits or edits.
"""

from glassworks.smallworld.chat import (
    COMPLIANCE,
    IGNORANCE,
    KINDS,
    OPEN,
    REFUSAL,
    Exchange,
    chat_prompt,
    conversation,
    exchanges,
    finetuning,
    unknown_places,
)
from glassworks.smallworld.corpus import TASKS, generate, stream
from glassworks.smallworld.document import Document
from glassworks.smallworld.facts import (
    City,
    Place,
    antonyms,
    cities,
    countries,
    find_city,
    find_place,
    held_out,
    states,
)
from glassworks.smallworld.facts import lists as word_lists
from glassworks.smallworld.geography import two_hop_prompts
from glassworks.smallworld.oracle import Swap, Truth, swaps, truth

__all__ = [
    "COMPLIANCE",
    "IGNORANCE",
    "KINDS",
    "OPEN",
    "REFUSAL",
    "TASKS",
    "City",
    "Document",
    "Exchange",
    "Place",
    "Swap",
    "Truth",
    "antonyms",
    "chat_prompt",
    "cities",
    "conversation",
    "countries",
    "exchanges",
    "find_city",
    "find_place",
    "finetuning",
    "generate",
    "held_out",
    "states",
    "stream",
    "swaps",
    "truth",
    "two_hop_prompts",
    "unknown_places",
    "word_lists",
]
