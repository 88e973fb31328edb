"""How the embedded models and their scopes were made: `python -m recipes.smallworld smallworld-m --out models`.

recipe     the sizes of the family and the numbers of their trainings
tokenizer  whole words and names as single tokens
packing    documents to rows of tokens
training   the loop, from nothing or from a base model
card       what was measured, and the aims
model      one model: train, measure, write
scopes     the coders of a model, from one harvest
build      a model and then its scope
"""

from recipes.smallworld.build import build
from recipes.smallworld.card import AIMS, CHAT_AIMS, MOST_STATE_IN_EMBEDDING
from recipes.smallworld.recipe import BASES, SIZES, Recipe
from recipes.smallworld.scopes import Coders, Suite, smallworld_scope, train_suite, world_text

__all__ = [
    "AIMS",
    "BASES",
    "CHAT_AIMS",
    "MOST_STATE_IN_EMBEDDING",
    "SIZES",
    "Coders",
    "Recipe",
    "Suite",
    "build",
    "smallworld_scope",
    "train_suite",
    "world_text",
]
