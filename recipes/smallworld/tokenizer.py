"""The tokenizer: whole words and whole names as single tokens, digits one by one, characters for the rest.

A city has to be one token, so that "the city token" is one position in a graph. The vocabulary is what the corpus can
say, in a fixed order. Round trips are exact for every text of its characters that does not begin with a blank: a
text's first word is the same token with and without one. This file must not know models.
"""

import re
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from glassworks.smallworld import TASKS, City, Place, cities, generate
from glassworks.smallworld.facts import lists, places

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
PAD, EOS, BOS, UNK, _, END_OF_TURN = range(6)
ROLES = ("user", "model", "system")
BLANK = "▁"
DRAWS, MORE_DRAWS = 2_000, 6_000
TASKS_OF_MANY_WORDS = ("translation", "words", "plain")
WORD_SCORE, CHARACTER_SCORE = -1.0, -10.0
ACCENTED = "".join(chr(code) for code in range(0xC0, 0x100) if chr(code).isalpha()) + "Œœ"
CONTEXT = 256
CHAT_TEMPLATE = """{{ bos_token }}\
{% set system = messages[0].content + '\\n\\n' if messages[0].role == 'system' else '' %}\
{% for message in messages if message.role != 'system' %}\
{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' }}\
{{ (system if loop.first else '') + message.content | trim + '<end_of_turn>\\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""


@cache
def vocabulary() -> tuple[tuple[str, float], ...]:
    """Return every token with its Unigram score, in the order of their ids."""
    names = _names()
    words = sorted(_words(names) | {BLANK + name.replace(" ", BLANK) for name in names})
    characters = [chr(code) for code in range(33, 127)] + list(ACCENTED) + [BLANK, "\n"]
    pieces: dict[str, float] = dict.fromkeys(SPECIAL, 0.0)
    pieces.update(dict.fromkeys(list("0123456789"), WORD_SCORE))
    pieces.update(dict.fromkeys([BLANK + digit for digit in "0123456789"], WORD_SCORE))
    pieces.update(dict.fromkeys([*ROLES, *words], WORD_SCORE))
    for character in characters:
        pieces.setdefault(character, CHARACTER_SCORE)
    return tuple(pieces.items())


def build_tokenizer() -> Tokenizer:
    """Make the tokenizer; `<bos>` is put in front by itself, and blanks belong to the word that follows."""
    tokenizer = Tokenizer(models.Unigram(list(vocabulary()), unk_id=UNK, byte_fallback=False))
    # A line's first word gets the blank that it would have inside a line, so it is the same token in both places.
    tokenizer.normalizer = normalizers.Replace(Regex("\n(?=[^\n])"), "\n ")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=BLANK, prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(BLANK, " "),
            decoders.Fuse(),
            decoders.Replace("\n ", "\n"),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", BOS)]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    return tokenizer


def save_tokenizer(folder: Path, chat: bool = False) -> None:
    """Write the tokenizer as transformers' AutoTokenizer reads it.

    Args:
        folder: an existing folder; tokenizer.json and tokenizer_config.json are written into it.
        chat: whether the chat template of the instruct models goes with it.
    """
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=build_tokenizer(),
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<start_of_turn>", "<end_of_turn>"],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)


def _names() -> list[str]:
    """All names of places and all items of several words, the longest first."""
    found: set[str] = set(lists()["fiction"])
    everything: list[Place | City] = [*places("state"), *places("country"), *cities()]
    for one in everything:
        found.add(one.name)
        if isinstance(one, Place):
            found.update(one.attributes.values())
    return sorted(found, key=lambda name: (-len(name), name))


def _words(names: list[str]) -> set[str]:
    """Every word and sign that the corpus can say, with the blank before it, names of several words taken out."""
    several = re.compile(" ?(?:" + "|".join(re.escape(name) for name in names if " " in name) + r")\b")
    word = re.compile(r" ?[^\W\d_]+| ?[^\w\s]")
    found: set[str] = set()
    for task in TASKS:
        for document in generate(task, MORE_DRAWS if task in TASKS_OF_MANY_WORDS else DRAWS, 0, "train"):
            text = several.sub("§", " " + document.text)
            found.update(piece.replace(" ", BLANK) for piece in word.findall(text) if "§" not in piece)
    return found
