"""Two tiny models, one of which is the other seen from another side, and tokenizers that cut texts differently."""

from random import Random

import torch
import transformers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from glassworks.models import Model

WIDTH, LAYERS = 16, 3
WORDS = ("red", "green", "blue", "cat", "dog", "runs", "sits", "and", "the", "on")
LETTERS = "abcdefghijklmnopqrstuvwxyz "


def tokenizer(pieces: tuple[str, ...] | str, pattern: str) -> PreTrainedTokenizerFast:
    """One token a match of a pattern; `<s>` first."""
    names = ["<s>", "<unk>", *pieces]
    made = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    made.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", unk_token="<unk>")


def by_words() -> PreTrainedTokenizerFast:
    return tokenizer((*WORDS, *(f" {word}" for word in WORDS)), r" ?[a-z]+")


def by_letters() -> PreTrainedTokenizerFast:
    return tokenizer(LETTERS, r"[a-z ]")


def texts(count: int, seed: int = 0) -> list[str]:
    random = Random(seed)
    return [" ".join(random.choices(WORDS, k=random.randint(3, 12))) for _ in range(count)]


def tiny_llama(seed: int, vocabulary: int = 40) -> transformers.LlamaForCausalLM:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=96,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    hf = transformers.LlamaForCausalLM(config)
    for name, weight in hf.named_parameters():
        if not name.endswith("norm.weight"):  # gains of 1 let a rotation pass
            weight.data = torch.randn_like(weight) * (1.0 if "embed" in name else 0.4)
    return hf.requires_grad_(False)


def rotated(hf: transformers.LlamaForCausalLM, turn: torch.Tensor) -> transformers.LlamaForCausalLM:
    """The same model with its residual stream rotated."""
    other = tiny_llama(0, hf.config.vocab_size)
    other.load_state_dict(hf.state_dict())
    for name, weight in other.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.data = turn.T @ weight
        elif weight.ndim == 2:
            weight.data = weight @ turn
    return other


def rotation(seed: int = 5, width: int = WIDTH) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed)))[0]


Twins = tuple[Model, Model, torch.Tensor]


def twins() -> Twins:
    turn = rotation()
    hf = tiny_llama(1)
    return Model(hf, by_words(), "one"), Model(rotated(hf, turn), by_words(), "turned"), turn
