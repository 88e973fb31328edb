"""Outcomes: what edits do to a prompt's continuation, and what they do to other text besides.

Divergences are KL(clean || edited) in nats, from log-softmaxes in float64. This module must not know how an edit acts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.edits.edit import Edit
from glassworks.edits.patching.pair import token_of
from glassworks.edits.targets import FeatureRef, Features
from glassworks.edits.where import Gate, Where
from glassworks.errors import BadInput
from glassworks.harvest import batches
from glassworks.models import Model, Prompt

LOGITS = 1 << 24
"""Logits that are held at a time: 128 MiB in float64."""


@final
@dataclass(frozen=True)
class Choice:
    """A token that could come next: its probabilities without and with the edits, and the change of its logit."""

    token: str
    id: int
    clean: float
    edited: float
    logit: float


@final
@dataclass(frozen=True)
class OffTarget:
    """What edits do to text that they are not for, at every token of it.

    Attributes:
        texts: how many texts.
        tokens: how many predictions.
        kl: mean divergence of a prediction, in nats.
        clean_loss: mean loss of the next token without the edits, in nats.
        edited_loss: with them.
    """

    texts: int
    tokens: int
    kl: float
    clean_loss: float
    edited_loss: float


@final
@dataclass(frozen=True)
class Outcome:
    """What edits do to a prompt.

    Attributes:
        model: name of the model.
        prompt: as the model reads it.
        edits: each in words.
        choices: the likeliest next tokens of both runs.
        tokens: what the prompt's tokens show.
        kl: divergence of the prediction after each of them.
        clean_text: how the model goes on without the edits.
        edited_text: with them.
        off_target: what they do to reference text; None where none was given, or the edits are bound to the prompt.
    """

    model: str
    prompt: str
    edits: tuple[str, ...]
    choices: tuple[Choice, ...]
    tokens: tuple[str, ...]
    kl: tuple[float, ...]
    clean_text: str
    edited_text: str
    off_target: OffTarget | None = None

    def __str__(self) -> str:
        before, after = (self.top(edited).token.strip() for edited in (False, True))
        return f"{'; '.join(self.edits)}: {before} -> {after}, KL {self.kl[-1]:.3g} after the prompt"

    def __rich__(self) -> Any:
        from glassworks.pages import facts

        rows = [
            {"token": repr(choice.token), "clean": choice.clean, "edited": choice.edited, "logit change": choice.logit}
            for choice in self.choices
        ]
        values: dict[str, Any] = {"edits": "; ".join(self.edits), "next token": rows, "KL": self.kl[-1]}
        if self.clean_text or self.edited_text:
            values |= {"clean": self.clean_text, "edited": self.edited_text}
        other = self.off_target
        if other is not None:
            losses = f"loss {other.clean_loss:.3g} -> {other.edited_loss:.3g}"
            values["other text"] = f"KL {other.kl:.3g} when every token is edited, {losses}"
        return facts(values)

    def top(self, edited: bool = True) -> Choice:
        """The likeliest next token, with the edits or without them."""
        return max(self.choices, key=lambda each: each.edited if edited else each.clean)

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def outcome(
    model: Model,
    prompt: Prompt,
    edits: Sequence[Edit],
    *,
    k: int = 8,
    new_tokens: int = 20,
    reference: Sequence[Prompt] = (),
    temperature: float | int = 0,
    seed: int = 0,
) -> Outcome:
    """Run a prompt with and without edits, and compare.

    Args:
        model: the model.
        prompt: text or ids.
        edits: what acts, in order.
        k: how many of the likeliest tokens of each run are told.
        new_tokens: how far both continuations go at most; 0 for none.
        reference: texts that the edits are not for, on which they act at every token.
        temperature: of the continuations; 0 is greedy.
        seed: of their sampling.

    Raises:
        BadInput: no edits, or one that does not fit the prompt.
        NotFound: an edit names what the model lacks.
    """
    if not edits:
        raise BadInput("There are no edits; give at least one.")
    ids, name = model.tokens(prompt).tolist(), str(model.name)

    def run() -> tuple[Tensor, str]:
        logits = model.capture(ids, ["logits"])["logits"].double()
        return logits, model.generate(ids, new_tokens, temperature=temperature, seed=seed) if new_tokens > 0 else ""

    clean, clean_text = run()
    with model.edit(*edits):
        edited, edited_text = run()
    wide = [everywhere(each) for each in edits]
    bound = not len(reference) or any(each is None for each in wide)
    return Outcome(
        model=name,
        prompt=prompt if isinstance(prompt, str) else "".join(model.token_text(each) for each in ids),
        edits=tuple(map(str, edits)),
        choices=_choices(model, clean[-1], edited[-1], k),
        tokens=tuple(model.token_text(each) for each in ids),
        kl=tuple(divergence(clean, edited).tolist()),
        clean_text=clean_text,
        edited_text=edited_text,
        off_target=None if bound else off_target(model, [each for each in wide if each is not None], reference),
    )


def off_target(model: Model, edits: Sequence[Edit], texts: Sequence[Prompt]) -> OffTarget:
    """Measure what edits do to texts.

    Args:
        model: the model.
        edits: what acts, as it is said.
        texts: text or ids; those of one token say nothing.
    """
    rows = [ids for ids in (model.tokens(each).tolist() for each in texts) if len(ids) > 1]
    if not rows:
        raise BadInput("Reference text needs at least one text of two tokens.")
    sums, counted = torch.zeros(3, dtype=torch.float64), 0
    for numbers in batches(rows, max(1, LOGITS // model.vocab_size)):
        part = [rows[number] for number in numbers]
        clean = model.capture(part, ["logits"], batch_size=len(part))["logits"]
        with model.edit(*edits):
            edited = model.capture(part, ["logits"], batch_size=len(part))["logits"]
        for ids, one, other in zip(part, clean, edited, strict=True):
            target, last = torch.tensor(ids[1:], device=one.device), len(ids) - 1
            before, after = (_log(each[:last]) for each in (one, other))
            losses = [-each.gather(1, target[:, None]).sum() for each in (before, after)]
            sums += torch.stack([_divergence(before, after).sum(), *losses]).cpu()
            counted += last
    return OffTarget(len(rows), counted, *(sums / counted).tolist())


@final
@dataclass(frozen=True)
class Dose:
    """What one amount of an edit does.

    Attributes:
        amount: how much.
        probabilities: of the tokens that are watched.
        kl: divergence of the prediction after the prompt, in nats.
        top: the likeliest next token.
        text: how the model goes on.
        off_target: mean divergence on reference text, in nats; None where none was given.
    """

    amount: float
    probabilities: Mapping[str, float]
    kl: float
    top: str
    text: str
    off_target: float | None

    def row(self) -> dict[str, Any]:
        """One line of a table."""
        chances = {f"p({token})": chance for token, chance in self.probabilities.items()}
        return {"amount": self.amount, "next": self.top, **chances, "KL": self.kl, "KL elsewhere": self.off_target}

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def doses(
    model: Model,
    prompt: Prompt,
    make: Callable[[float], Sequence[Edit]],
    amounts: Sequence[float | int],
    *,
    watch: Sequence[str] = (),
    reference: Sequence[Prompt] = (),
    new_tokens: int = 12,
) -> list[Dose]:
    """Give edits in several amounts: dose and response, beside what each dose does elsewhere.

    Args:
        model: the model.
        prompt: text or ids.
        make: makes the edits of an amount.
        amounts: the doses, in the order in which they are told.
        watch: tokens whose probabilities are told; by default the likeliest without an edit and at the last amount.
        reference: texts that the edits are not for.
        new_tokens: how far each continuation goes at most.

    Raises:
        BadInput: no amounts.
        NotFound: a text that is watched is no token.
    """
    if not len(amounts):
        raise BadInput("There are no amounts; give at least one.")
    ids = model.tokens(prompt).tolist()
    clean = _last(model, ids)
    if not watch:
        with model.edit(*make(float(amounts[-1]))):
            ends = [int(each.argmax()) for each in (clean, _last(model, ids))]
        seen = {model.token_text(each).strip(): each for each in ends}
    else:
        seen = {token: token_of(model, token) for token in watch}
    found = []
    for amount in map(float, amounts):
        edits = make(amount)
        with model.edit(*edits):
            edited, text = _last(model, ids), model.generate(ids, new_tokens) if new_tokens > 0 else ""
        chances = edited.softmax(-1)
        wide = [each for each in map(everywhere, edits) if each is not None]
        elsewhere = off_target(model, wide, reference).kl if len(reference) and len(wide) == len(edits) else None
        probabilities = {token: float(chances[number]) for token, number in seen.items()}
        top = model.token_text(edited.argmax())
        found.append(Dose(amount, probabilities, float(divergence(clean, edited)), top, text, elsewhere))
    return found


def divergence(clean: Float[Tensor, "*row vocab"], edited: Float[Tensor, "*row vocab"]) -> Float[Tensor, "*row"]:
    """KL(clean || edited) of logits, in nats."""
    return _divergence(_log(clean), _log(edited))


def everywhere(edit: Edit) -> Edit | None:
    """The same edit at every token of any text; None for a patch, which knows one prompt only.

    A gate still decides. Of a feature that is changed differently at several tokens, the first change counts.
    """
    if edit.source is not None:
        return None
    gate = edit.where if isinstance(edit.where, Gate) else None
    where: Where = "all" if gate is None else Gate(_loose(gate.feature), gate.above)
    if not isinstance(edit.target, Features):
        return replace(edit, where=where)
    loose = [_loose(ref) for ref in edit.target.refs]
    kept = [loose.index(ref) for ref in dict.fromkeys(loose)]

    def fitting(numbers: tuple[float, ...]) -> tuple[float, ...]:
        if edit.operation == "clamp" or len(numbers) % len(loose):
            return numbers
        return tuple(numbers[start + each] for start in range(0, len(numbers), len(loose)) for each in kept)

    target = Features(tuple(loose[each] for each in kept))
    sizes = edit.sizes if len(edit.sizes) != len(loose) else tuple(edit.sizes[each] for each in kept)
    return replace(edit, where=where, target=target, amounts=fitting(edit.amounts), sizes=sizes)


def _loose(ref: FeatureRef) -> FeatureRef:
    return FeatureRef(ref.coder_id, None, ref.index)


def _last(model: Model, ids: list[int]) -> Float[Tensor, " vocab"]:
    return model.capture(ids, ["logits"])["logits"][-1].double()


def _log(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits.double(), dim=-1)


def _divergence(clean: Tensor, edited: Tensor) -> Tensor:
    """From log-probabilities; a token that is ruled out adds nothing."""
    return torch.where(clean > -torch.inf, clean.exp() * (clean - edited), 0.0).sum(-1)


def _choices(model: Model, clean: Tensor, edited: Tensor, k: int) -> tuple[Choice, ...]:
    k = min(k, len(clean))
    tokens = list(dict.fromkeys([*edited.topk(k).indices.tolist(), *clean.topk(k).indices.tolist()]))
    before, after, change = clean.softmax(-1), edited.softmax(-1), edited - clean
    found = [Choice(model.token_text(t), t, float(before[t]), float(after[t]), float(change[t])) for t in tokens]
    return tuple(sorted(found, key=lambda each: -max(each.clean, each.edited)))
