"""The tokenizer: whole words and whole names as single tokens, digits one by one, characters for the rest.

A city has to be one token, so that "the city token" is one position in a graph. The vocabulary is what the corpus can
say, in a fixed order. Round trips are exact for every text of its characters that does not begin with a blank: a
text's first word is the same token with and without one. This file must not know models.
"""

import re
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from glassworks.smallworld import TASKS, cities, generate
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


def fast_tokenizer(tokenizer: Tokenizer, chat: bool = False) -> PreTrainedTokenizerFast:
    """The tokenizer as transformers has it; one for chats has the template of the instruct models."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<start_of_turn>", "<end_of_turn>"],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    if chat:
        fast.chat_template = CHAT_TEMPLATE
    return fast


def save_tokenizer(folder: Path, chat: bool = False) -> None:
    """Write the tokenizer into an existing folder as transformers' AutoTokenizer reads it."""
    fast_tokenizer(build_tokenizer(), chat).save_pretrained(folder)


@cache
def vocabulary() -> tuple[tuple[str, float], ...]:
    """Return every token with its Unigram score, in the order of their ids."""
    names: set[str] = set(lists()["fiction"]) | {city.name for city in cities()}
    for place in (*places("state"), *places("country")):
        names |= {place.name, *place.attributes.values()}
    # Every word and sign that the corpus can say, with the blank before it, names of several words taken out.
    ordered = sorted(names, key=lambda name: (-len(name), name))
    several = re.compile(" ?(?:" + "|".join(re.escape(name) for name in ordered if " " in name) + r")\b")
    word, words = re.compile(r" ?[^\W\d_]+| ?[^\w\s]"), {BLANK + name.replace(" ", BLANK) for name in names}
    for task in TASKS:
        for document in generate(task, MORE_DRAWS if task in TASKS_OF_MANY_WORDS else DRAWS, 0, "train"):
            text = several.sub("§", " " + document.text)
            words |= {piece.replace(" ", BLANK) for piece in word.findall(text) if "§" not in piece}
    digits = [*"0123456789", *(BLANK + digit for digit in "0123456789")]
    pieces = dict.fromkeys(SPECIAL, 0.0) | dict.fromkeys([*digits, *ROLES, *sorted(words)], WORD_SCORE)
    characters = [*map(chr, range(33, 127)), *ACCENTED, BLANK, "\n"]
    rest = {character: CHARACTER_SCORE for character in characters if character not in pieces}
    return tuple((pieces | rest).items())
