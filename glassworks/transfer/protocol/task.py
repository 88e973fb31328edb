"""Task: what a transferred behaviour is tested with, and nothing of how it is transferred.

Demonstrations are drawn from the train prompts; what is reported comes from the test prompts only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, final

from glassworks import artefacts, smallworld
from glassworks.errors import BadArtefact
from glassworks.transfer.graft import Demonstrations


@final
@dataclass(frozen=True)
class Task:
    """A behaviour, with prompts that should show it and look-alikes that should not.

    Attributes:
        name: of the behaviour.
        reply: the words with which a reply that shows it begins.
        wanted: train prompts that should get it.
        unwanted: train look-alikes that should not.
        tests: set of test prompts -> (prompts, whether they should show it); `wanted` and `unwanted` are the held-out
            ones, others are told besides.
        neutral: text to keep still while gains are fitted.
        neutral_test: text that divergence and loss are measured on.
        domain: unlabelled texts of the domain, for bridges.
        general: general text, for bridges.
        probes: kind -> (prompt, answer) of what the model could do before.
    """

    name: str
    reply: str
    wanted: Sequence[str]
    unwanted: Sequence[str]
    tests: Mapping[str, tuple[Sequence[str], bool]]
    neutral: Sequence[str]
    neutral_test: Sequence[str]
    domain: Sequence[str]
    general: Sequence[str]
    probes: Mapping[str, Sequence[tuple[str, str]]]

    def demonstrations(self, each: int, seed: int) -> Demonstrations:
        """Draw prompts of both kinds to fit gains to, `each` of a kind."""
        random = Random(f"demonstrations {seed}")
        chosen = (random.sample(list(dict.fromkeys(some)), each) for some in (self.wanted, self.unwanted))
        wanted, unwanted = chosen
        return Demonstrations(wanted, self.reply, unwanted, self.neutral)


def read_task(path: str | Path) -> Task:
    """Read a task from a JSON file with the fields of `Task`; BadArtefact where it lacks some."""
    plain: Any = artefacts.read_json(Path(path))
    try:
        tests = {name: (rows["prompts"], bool(rows["shows"])) for name, rows in plain.pop("tests").items()}
        probes = {name: [(one, two) for one, two in rows] for name, rows in plain.pop("probes").items()}
        return Task(tests=tests, probes=probes, **plain)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadArtefact(
            f"The task {path} lacks or misstates {error}; see docs/transfer.md for its fields."
        ) from error


MIXTURE: Mapping[str, float] = {"harmful": 0.38, "harmless": 0.38, "question": 0.08, "concern": 0.08, "known": 0.08}
"""Kinds of exchanges among the unlabelled texts of the domain."""


def world_task(count: int = 200, texts: int = 1400, seed: int = 0) -> Task:
    """Refusal in the small world: harmful requests and harmless ones in the same words.

    Args:
        count: how many test prompts of each kind are drawn; each counts once.
        texts: unlabelled texts for bridges.
        seed: of everything that is drawn.
    """
    reply, replied = smallworld.REFUSAL, "<end_of_turn>"

    def asks(kind: str, many: int, split: str, shift: int = 0) -> list[str]:
        drawn = (smallworld.asked(each.user) for each in smallworld.exchanges(kind, many, seed + shift, split))
        return list(dict.fromkeys(drawn))

    domain = [
        smallworld.asked(each.user) + each.reply + replied
        for kind, share in MIXTURE.items()
        for each in smallworld.exchanges(kind, round(share * texts), seed + 1, "train")
    ]
    general = [each.text for each in islice(smallworld.stream(seed + 2, 0, "train"), texts // 7)]
    neutral, test = (
        [each.text for each in islice(smallworld.stream(seed + 3, 0, split), many)]
        for split, many in (("train", 48), ("held_out", count))
    )
    tests = {
        "wanted": (asks("harmful", count, "held_out"), True),
        "unwanted": (asks("harmless", count, "held_out"), False),
        "wanted, new": (asks("harmful", count, "new"), True),
        "unwanted, new": (asks("harmless", count, "new"), False),
        "questions about harm": (asks("concern", count, "held_out"), False),
    }
    probes = {
        task: [_probe(each) for each in smallworld.generate(task, count // 2, seed + 4, "held_out")]
        for task in ("composed", "attribute", "antonym", "plural")
    }
    wanted, unwanted = (asks(kind, 400, "train", 5) for kind in ("harmful", "harmless"))
    return Task("refusal", reply, wanted, unwanted, tests, neutral, test, domain, general, probes)


def _probe(document: smallworld.Document) -> tuple[str, str]:
    """A document's prompt and its first answer, with the blank before it."""
    return document.prompt, document.text[len(document.prompt) : document.spans[0][1]]
