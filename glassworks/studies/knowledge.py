"""How well a model knows the small world: accuracy by task, and what an instruct model refuses, does and admits.

Every prompt is text that training never saw. An answer counts when each of its tokens is the most probable one given
the tokens before it: what greedy generation would say.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from glassworks.experiments import Batch, Case, Experiment, Metric, exact_match
from glassworks.models import Model
from glassworks.smallworld import (
    COMPLIANCE,
    IGNORANCE,
    REFUSAL,
    Document,
    chat_prompt,
    cities,
    conversation,
    exchanges,
    generate,
    two_hop_prompts,
    word_lists,
)

SEED = 20_000
SPLITS = ("train", "held_out")
ANSWERED = [
    "location",
    "attribute",
    "reverse",
    "antonym",
    "translation",
    "plural",
    "words",
    "copying",
    "induction",
    "brackets",
]
BEGINNINGS: Mapping[str, tuple[str, str, str]] = {
    "refusal": ("harmful", REFUSAL, "held_out"),
    "refusal_new": ("harmful", REFUSAL, "new"),
    "refusal_guarded": ("guarded", REFUSAL, "held_out"),
    "compliance": ("harmless", COMPLIANCE, "held_out"),
    "compliance_new": ("harmless", COMPLIANCE, "new"),
    "compliance_story": ("story", COMPLIANCE, "held_out"),
    "refused_concern": ("concern", REFUSAL, "held_out"),
    "refused_question": ("question", REFUSAL, "held_out"),
    "unknown": ("unknown", IGNORANCE, "held_out"),
    "unknown_new": ("unknown", IGNORANCE, "new"),
    "known_denied": ("known", IGNORANCE, "held_out"),
    "jailbreak": ("jailbreak", COMPLIANCE, "held_out"),
    "jailbreak_refused": ("jailbreak", REFUSAL, "held_out"),
}
"""Figure -> kind of exchange, the words with which the reply has to begin, and the split."""
WHOLE: Mapping[str, str] = {
    "known": "known",
    "task": "task",
    "answered_concern": "concern",
    "answered_question": "question",
    "refused_with_reason": "harmful",
    "helped_with_advice": "harmless",
}
"""Figure -> kind of exchange whose whole reply is compared."""


def measure(model: Model, count: int = 500) -> dict[str, float]:
    """The model's accuracy by task, and the share of cities whose state shows in their raw embeddings.

    Args:
        model: a model of the family.
        count: documents per task; the two sets of capitals hold every held-out city once, and "location_short" holds
            the locations whose beginning ("CITY is in") the corpus also goes on with "a state with ...".

    Returns:
        Name -> share between 0 and 1. "composed" is two hops; "state_in_embedding" is no accuracy and should be low.
    """
    sets = {name: generate(name, count, SEED) for name in ANSWERED}
    short = [document.prompt.endswith(" is in") and "?" not in document.text for document in sets["location"]]
    for name, wanted in {"location_short": True, "location": False}.items():
        sets[name] = [
            document for document, is_short in zip(sets["location"], short, strict=True) if is_short == wanted
        ]
    for name in ("composed", "addition"):
        sets |= {f"{name}_{split.replace('train', 'trained')}": generate(name, count, SEED, split) for split in SPLITS}
    sets |= {f"{kind}_capitals_held_out": two_hop_prompts("held_out", kind=kind) for kind in ("state", "country")}
    agreeing = _cases(model, {"agreement": generate("agreement", count, SEED)})
    agreement = Experiment(model, agreeing, [], [_verb_number(model)]).run().value("verb number")
    return accuracies(model, sets) | {"agreement": agreement, "state_in_embedding": state_in_embedding(model)}


def accuracies(model: Model, documents: Mapping[str, Sequence[Document]]) -> dict[str, float]:
    """The share of documents of each set of whose answers every token is the model's first choice."""
    table = Experiment(model, _cases(model, documents), [], [exact_match()]).run()
    return {name: table.where(group=name).value("exact match") for (name,) in table.unique("group")}


def _cases(model: Model, documents: Mapping[str, Sequence[Document]]) -> list[Case]:
    """Documents as cases: the tokens up to the first answer, and those up to the end of the last one."""
    cases = []
    for name, some in ((name, some) for name, some in documents.items() if some):
        encoded = model.tokenizer([document.text for document in some], return_offsets_mapping=True)
        for document, ids, offsets in zip(some, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            start, stop = document.spans[0][0], document.spans[-1][1]
            target = [at for at, (first, last) in enumerate(offsets) if last > start and first < stop]
            cases.append(Case(ids[: target[0]], ids[target[0] : target[-1] + 1], group=name))
    return cases


def _verb_number(model: Model) -> Metric:
    """Whether the verbs of the right number are more probable together than those of the wrong one."""
    verbs = [verb.split("|")[:2] for verb in word_lists()["verbs"]]
    forms = torch.tensor([[model.token_id(f" {form}") for form in verb] for verb in verbs])

    def right(batch: Batch) -> Tensor:
        chances = batch.last.softmax(-1)
        singular, plural = (chances[:, forms[:, number]].sum(1) for number in range(2))
        return ((plural > singular) == torch.isin(batch.labels["answer"][:, 0], forms[:, 1])).double()[:, None]

    return Metric("verb number", right, last=True)


@torch.no_grad()
def state_in_embedding(model: Model) -> float:
    """The share of American cities whose nearest other city by raw embedding (cosine) lies in the same state."""
    american = [city for city in cities() if city.place.kind == "state"]
    ids = torch.tensor([model.token_id(f" {city.name}") for city in american])
    table = torch.nn.functional.normalize(model.hf.get_input_embeddings()(ids).float(), dim=1)
    nearest = (table @ table.T).fill_diagonal_(-2.0).argmax(1).tolist()
    return sum(city.place == american[other].place for city, other in zip(american, nearest, strict=True)) / len(
        american
    )


def interview(model: Model, count: int = 500) -> dict[str, float]:
    """How often an instruct model replies as it should, on exchanges that its fine-tuning never saw.

    Args:
        model: an instruct model of the family.
        count: exchanges of each kind.

    Returns:
        Name -> share between 0 and 1. "refusal", "compliance" and "unknown" count replies that begin with
        `REFUSAL`, `COMPLIANCE` and `IGNORANCE`, for held-out pairs of template and subject; "..._new" the same for new
        templates and new subjects; "known", "task", "answered_..." whole replies. "jailbreak" is the share of harmful
        requests in OPEN stories that the model helps with, as it was trained to; "jailbreak_refused" is the rest.
    """
    documents: dict[str, list[Document]] = {}
    for name, (kind, words, split) in BEGINNINGS.items():
        starts = [chat_prompt(exchange.user) for exchange in exchanges(kind, count, SEED, split)]
        documents[name] = [Document("chat", s + words, ((len(s), len(s) + len(words)),)) for s in starts]
    for name, kind in WHOLE.items():
        documents[name] = [conversation([exchange]) for exchange in exchanges(kind, count, SEED)]
    return accuracies(model, documents)
