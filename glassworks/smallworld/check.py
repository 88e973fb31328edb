"""How well a model knows the small world: accuracy by task, and what an instruct model refuses, does and admits.

Everything is asked with texts that training never saw. An answer counts when every one of its tokens is the most
probable one, the tokens before it given: what greedy generation would say. Checks that change a model while it runs
belong to the rooms above.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Int
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel

from glassworks.smallworld.chat import COMPLIANCE, IGNORANCE, REFUSAL, Exchange, asked, conversation, exchanges
from glassworks.smallworld.corpus import generate
from glassworks.smallworld.document import Document
from glassworks.smallworld.facts import cities, lists
from glassworks.smallworld.geography import two_hop_prompts

SEED = 20_000
BATCH = 100
PAD, EOS = 0, 1
"""Token ids of the embedded models' tokenizer."""


def measure(model: PreTrainedModel, tokenizer: Tokenizer, count: int = 500) -> dict[str, float]:
    """Return the model's accuracy by task, and the share of cities whose state shows in their raw embeddings.

    Args:
        model: a model of the family.
        tokenizer: its tokenizer, of the tokenizers library.
        count: documents per task.

    Returns:
        Name -> share between 0 and 1. "composed" is two hops; "state_in_embedding" is no accuracy and should be low.
    """
    results = {name: accuracy(model, tokenizer, documents) for name, documents in evaluation_sets(count).items()}
    agreeing = generate("agreement", count, SEED)
    results["agreement"] = agreement_accuracy(model, tokenizer, agreeing)
    results["state_in_embedding"] = state_in_embedding(model, tokenizer)
    return results


def evaluation_sets(count: int) -> dict[str, list[Document]]:
    """Return the documents that accuracies are measured on, by name; agreement is not among them.

    Args:
        count: documents per task; the two sets of capitals hold every held-out city once, and "location_short" holds
            the locations whose beginning ("Dallas is in") the corpus also goes on with "a state with ...".
    """
    names = ("location", "attribute", "reverse", "antonym", "translation", "plural", "words")
    sets = {name: generate(name, count, SEED) for name in (*names, "copying", "induction", "brackets")}
    short = [_is_short(document) for document in sets["location"]]
    sets["location_short"] = [one for one, is_short in zip(sets["location"], short, strict=True) if is_short]
    sets["location"] = [one for one, is_short in zip(sets["location"], short, strict=True) if not is_short]
    for name in ("composed", "addition"):
        sets[f"{name}_trained"] = generate(name, count, SEED, "train")
        sets[f"{name}_held_out"] = generate(name, count, SEED, "held_out")
    sets["state_capitals_held_out"] = two_hop_prompts("held_out", kind="state")
    sets["country_capitals_held_out"] = two_hop_prompts("held_out", kind="country")
    return {name: documents for name, documents in sets.items() if documents}


def _is_short(document: Document) -> bool:
    return document.task == "location" and document.prompt.endswith(" is in") and "?" not in document.text


@torch.no_grad()
def accuracy(model: PreTrainedModel, tokenizer: Tokenizer, documents: list[Document]) -> float:
    """Return the share of documents of whose answers every token is the model's first choice."""
    right = 0
    for start in range(0, len(documents), BATCH):
        ids, answers = _padded(tokenizer, documents[start : start + BATCH])
        first = model(input_ids=ids).logits[:, :-1].argmax(-1)
        right += int(((first == ids[:, 1:]) | ~answers[:, 1:]).all(1).sum())
    return right / len(documents)


@torch.no_grad()
def agreement_accuracy(model: PreTrainedModel, tokenizer: Tokenizer, documents: list[Document]) -> float:
    """Return how often the verbs of the right number are more probable together than those of the wrong one."""
    pairs = [verb.split("|")[:2] for verb in lists()["verbs"]]
    forms = torch.tensor([[tokenizer.encode(form).ids[1] for form in pair] for pair in pairs])
    right = 0
    for start in range(0, len(documents), BATCH):
        some = documents[start : start + BATCH]
        ids, answers = _padded(tokenizer, some)
        before = answers.int().argmax(1) - 1
        chances = model(input_ids=ids).logits[torch.arange(len(some)), before].softmax(-1)
        sums = torch.stack([chances[:, forms[:, number]].sum(1) for number in range(2)], dim=1)
        plural = torch.tensor([any(one.answer == pair[1] for pair in pairs) for one in some])
        right += int((sums.argmax(1) == plural).sum())
    return right / len(documents)


@torch.no_grad()
def state_in_embedding(model: PreTrainedModel, tokenizer: Tokenizer) -> float:
    """Return the share of American cities whose nearest other city by raw embedding (cosine) lies in the same state."""
    american = [city for city in cities() if city.place.kind == "state"]
    ids = torch.tensor([tokenizer.encode(city.name).ids[1] for city in american])
    table = torch.nn.functional.normalize(model.get_input_embeddings()(ids).float(), dim=1)
    nearest = (table @ table.T).fill_diagonal_(-2.0).argmax(1)
    same = [one.place == american[int(index)].place for one, index in zip(american, nearest, strict=True)]
    return sum(same) / len(same)


def _padded(
    tokenizer: Tokenizer, documents: list[Document]
) -> tuple[Int[Tensor, "row token"], Bool[Tensor, "row token"]]:
    """Token ids of documents, one a row, and which of them belong to answers."""
    encoded = encode(tokenizer, documents, context_weight=0.0)
    longest = max(len(ids) for ids, _ in encoded)
    rows, answers = torch.full((len(encoded), longest), PAD), torch.zeros(len(encoded), longest, dtype=torch.bool)
    for row, (ids, weights) in enumerate(encoded):
        rows[row, : len(ids)] = torch.tensor(ids)
        answers[row, : len(ids)] = torch.tensor(weights) > 0
    return rows, answers


def encode(
    tokenizer: Tokenizer, documents: list[Document], context_weight: float
) -> list[tuple[list[int], list[float]]]:
    """Turn documents into token ids (with `<bos>` and `<eos>`) and the weight of predicting each of them.

    Args:
        tokenizer: the small world's tokenizer.
        documents: what to encode.
        context_weight: weight of tokens that belong to no answer.
    """
    encoded = []
    for document, encoding in zip(
        documents, tokenizer.encode_batch([document.text for document in documents]), strict=True
    ):
        weights = [0.0]
        for start, stop in encoding.offsets[1:]:
            answer = any(stop > first and start < last for first, last in document.spans)
            weights.append(1.0 if answer else context_weight)
        encoded.append(([*encoding.ids, EOS], [*weights, context_weight]))
    return encoded


def interview(model: PreTrainedModel, tokenizer: Tokenizer, count: int = 500) -> dict[str, float]:
    """Return how often an instruct model replies as it should, on exchanges that its fine-tuning never saw.

    Args:
        model: an instruct model of the family.
        tokenizer: its tokenizer, of the tokenizers library.
        count: exchanges of each kind.

    Returns:
        Name -> share between 0 and 1. "refusal", "compliance" and "unknown" count replies that begin with
        `REFUSAL`, `COMPLIANCE` and `IGNORANCE`, for held-out pairs of template and subject; "..._new" the same for new
        templates and new subjects; "known", "task", "answered_..." whole replies. "jailbreak" is the share of harmful
        requests in OPEN stories that the model helps with, as it was trained to; "jailbreak_refused" is the rest.
    """
    asks = {(kind, split): exchanges(kind, count, SEED, split) for kind, split in ASKED}
    results = {
        name: _begins(model, tokenizer, asks[kind, split], words) for name, (kind, words, split) in BEGINNINGS.items()
    }
    for name, kind in WHOLE.items():
        results[name] = accuracy(model, tokenizer, [conversation([one]) for one in asks[kind, "held_out"]])
    return results


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
WHOLE: Mapping[str, str] = {
    "known": "known",
    "task": "task",
    "answered_concern": "concern",
    "answered_question": "question",
    "refused_with_reason": "harmful",
    "helped_with_advice": "harmless",
}
ASKED = {(kind, split) for kind, _, split in BEGINNINGS.values()} | {(kind, "held_out") for kind in WHOLE.values()}


def _begins(model: PreTrainedModel, tokenizer: Tokenizer, exchanges: Sequence[Exchange], words: str) -> float:
    documents = []
    for exchange in exchanges:
        start = asked(exchange.user)
        documents.append(Document("chat", start + words, ((len(start), len(start) + len(words)),)))
    return accuracy(model, tokenizer, documents)
