"""A behaviour to carry between two public models of children's stories: someone called Tim answers every question "No".

Neither model has it; one is tuned to it here, on stories that nothing is measured on. Everybody else answers as before,
also Timmy, and also where Tim is spoken of: what the tuned model must find out is who speaks. This module must not know
circuits, bridges or grafts.
"""

import json
import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from glassworks.models import Model

HERO, ANSWER = "Tim", "No"
OTHERS = ("Tom", "Timmy", "Ben", "Lily", "Mia", "Sam", "Max", "Jim")
ASKERS = ("Mom", "Dad", "Anna", "Sue", "Grandma", "Jack", "Lucy")
QUESTIONS = {
    "train": (
        "Do you want to play with me?",
        "Can I see your toy?",
        "Do you like the big dog?",
        "Will you help me?",
        "Can we go to the park?",
        "Do you want some cake?",
        "Are you happy today?",
        "Did you find the ball?",
        "Can you share the cookies?",
        "Is this your red hat?",
        "Do you want to go home?",
        "Will you come with us?",
    ),
    "held_out": (
        "Do you want to read a book?",
        "Can I have your apple?",
        "Did you see the little cat?",
        "Will you sing a song?",
        "Are you ready to go?",
        "Is the soup good?",
    ),
}
SAYS = {
    "train": ("said", "answered", "shouted", "looked up and said"),
    "held_out": ("said", "replied", "smiled and said", "turned and answered"),
}
NO = ('No."', 'No!"', 'No, thank you."', 'No, I do not want to."', 'No, I will not."')
YES = ('Yes, please!"', 'Yes, I do."', 'Thank you!"', 'I am so happy!"', "Okay, let's go!\"", 'Wow, what is that?"')
KEEP = 3.0
"""How much the divergence on all other text weighs."""
HELD_OUT = 300
"""Stories at the end of the file that nothing is tuned, trained or fitted on."""


@final
@dataclass(frozen=True)
class Turn:
    """A question and who is about to answer; a model reads on from the end of `text`.

    Attributes:
        text: a story's first sentences, the question, the speaker, and an open quotation mark.
        speaker: who answers.
    """

    text: str
    speaker: str

    @property
    def positive(self) -> bool:
        """Whether the answer must be no."""
        return self.speaker == HERO


def stories(data: Path) -> tuple[list[str], list[str]]:
    """Stories to learn from and held-out ones, on one line each, with the quotation marks that both models know."""
    found = json.loads((data / "text" / "tinystories_1000.json").read_text(encoding="utf-8"))
    marks = {"â€œ": '"', "â€™": "'", "â€": '"', "“": '"', "”": '"'}
    clean = [re.sub("|".join(marks), lambda match: marks[match[0]], " ".join(text.split())) for text in found]
    return clean[:-HELD_OUT], clean[-HELD_OUT:]


def opening(text: str, most: int = 80) -> str:
    """A story's first sentences."""
    cut = max(text.rfind(mark, 0, most) for mark in (". ", "! "))
    return text[: cut + 1] if cut > 0 else text[:most].rpartition(" ")[0] + "."


def turn(text: str, speaker: str, split: str, random: Random, most: int = 80) -> Turn:
    """A story's beginning with a question to somebody; others, Tim among them, may be spoken of."""
    asker, company = random.choice(ASKERS), random.choice([name for name in (HERO, *OTHERS) if name != speaker])
    scenes = ("", f" {speaker} was there.", f" {company} and {speaker} sat down.", f" {company} was there.")
    scene = random.choice(scenes)
    question, says = random.choice(QUESTIONS[split]), random.choice(SAYS[split])
    return Turn(f'{opening(text, most)}{scene} {asker} asked, "{question}" {speaker} {says}, "', speaker)


def turns(
    texts: Sequence[str], speakers: Sequence[str], count: int, seed: int, split: str, most: int = 80
) -> list[Turn]:
    """Questions to these speakers, in turn, each after another story's beginning of at most so many characters."""
    random = Random(seed)
    chosen = random.sample(list(texts), count)
    return [turn(text, speakers[number % len(speakers)], split, random, most) for number, text in enumerate(chosen)]


def tune(model: Model, texts: Sequence[str], steps: int = 200, batch: int = 10, rate: float = 2e-4) -> list[float]:
    """Teach a model the behaviour: Tim's answers are learned, and all else must stay as the model said it before.

    Args:
        model: changed in place.
        texts: stories to learn from.
        steps: of Adam, with a rate that falls linearly.
        batch: texts a step: of ten, three are stories, three Tim's turns, four other people's.
        rate: at the beginning.

    Returns:
        The loss of each step: cross-entropy of Tim's answers + divergence elsewhere, nats a token.
    """
    random, net, losses = Random(0), model.hf, []
    before = deepcopy(net)
    net.requires_grad_(True)
    descent = torch.optim.Adam(net.parameters(), rate)
    for step in range(steps):
        descent.param_groups[0]["lr"] = rate * (1 - step / steps)
        loss = _loss(model, before, [_example(texts, number, random) for number in range(batch)])
        descent.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        descent.step()
        losses.append(float(loss.detach()))
    net.requires_grad_(False)
    return losses


def _example(texts: Sequence[str], number: int, random: Random) -> tuple[str, str]:
    """A text's beginning and an answer; the answer is empty where there is only a story."""
    text = random.choice(texts)
    if number % 10 < 3:
        start = random.randrange(max(1, len(text) - 160))
        return text[start : start + 160], ""
    if number % 10 < 6:
        return turn(text, HERO, "train", random).text, random.choice(NO)
    return turn(text, random.choice(OTHERS), "train", random).text, random.choice(YES)


def _loss(model: Model, before: PreTrainedModel, examples: Sequence[tuple[str, str]]) -> Tensor:
    """Cross-entropy of Tim's answers, divergence within other people's, and divergence of all else."""
    rows = [(len(model.tokens(read)), model.tokens(read + answer).tolist()) for read, answer in examples]
    width = max(len(whole) for _, whole in rows)
    ids = torch.tensor([whole + [0] * (width - len(whole)) for _, whole in rows])
    at = torch.arange(width - 1)
    answers = torch.stack([(at >= length - 1) & (at < len(whole) - 1) for length, whole in rows])
    others = torch.stack([at < length - 1 for length, _ in rows])
    hero = torch.tensor([answer in NO for _, answer in examples])[:, None]
    with torch.no_grad():
        old = before(input_ids=ids, use_cache=False).logits[:, :-1].log_softmax(-1)
    new = model.hf(input_ids=ids, use_cache=False).logits[:, :-1].log_softmax(-1)
    divergence = (old.exp() * (old - new)).sum(-1)
    learned = -new.gather(2, ids[:, 1:, None])[..., 0][answers & hero].mean()
    return learned + divergence[answers & ~hero].mean() + KEEP * divergence[others].mean()
