"""Targets: what a graph explains. Logits, likely tokens, what follows, a feature, a direction; at any position.

Each is a linear read of the residual stream, perhaps behind a norm with a frozen scale, so a graph can have it as a
target. As text, on the command line and on the explorer's page (`parse`):

    cold                        a token that may come next, exactly one of the vocabulary; `#17` is a token by its id
    cold - hot                  the difference of two tokens' logits
    cold@5                      what comes after token 5; negative numbers count from the end, of differences too
    likely, likely@5            the likeliest tokens there
    next:3                      the three tokens that follow, each after the one before
    mlp_in.2/17@5               a feature at a token: coder, number, position
    direction:FILE:SITE@5       a direction of the stream, as a file (.npy or .safetensors) holds it, read at a site
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from glassworks.circuits.engine.freeze import Captured, Place, Read, final_place, read_place
from glassworks.circuits.engine.linear import Targets
from glassworks.circuits.nodes import LOGIT, Nodes
from glassworks.coders import Coder, Scope
from glassworks.edits import FeatureRef
from glassworks.errors import BadArtefact, BadInput, NotFound, Unsupported
from glassworks.models import Model, Prompt
from glassworks.sites import Site

Token = str | int
"""A token's text, or its id."""


@final
@dataclass(frozen=True, eq=False)
class PromptRun:
    """A model's run on a prompt, from which targets are read.

    Attributes:
        model: the model.
        scope: the coders whose features can be targets.
        captured: values at sites; `logits` are needed for logits, and what `sites` names for the rest.
    """

    model: Model
    scope: Scope | None
    captured: Captured

    def position(self, position: int) -> int:
        """A position counted from the start; BadInput where the prompt has no such token."""
        tokens = len(self.captured["logits"])
        if not -tokens <= position < tokens:
            raise BadInput(f"There is no token {position} to explain; the prompt has tokens 0 to {tokens - 1}.")
        return position % tokens

    def probabilities(self, position: int) -> Float[Tensor, " vocab"]:
        """Of what comes after a token."""
        return self.captured["logits"][position].float().softmax(0)

    @cached_property
    def mean(self) -> tuple[Float[Tensor, " d_model"], Float[Tensor, ""]]:
        """The mean over the vocabulary of what logits read, and of their bias."""
        matrix, bias = self.model.unembedding
        return matrix.mean(0, dtype=torch.float32), matrix.new_zeros(()) if bias is None else bias.float().mean()

    def unembedding(self, token: int) -> tuple[Float[Tensor, " d_model"], Float[Tensor, ""]]:
        """What a token's logit reads behind the final norm, and its bias."""
        matrix, bias = self.model.unembedding
        return matrix[token].float(), matrix.new_zeros(()).float() if bias is None else bias[token].float()

    def token(self, token: Token) -> int:
        """A token's id; NotFound for a text that is no token, BadInput for an id outside the vocabulary."""
        if isinstance(token, str):
            return self.model.token_id(token)
        if not 0 <= token < self.model.vocab_size:
            last = self.model.vocab_size - 1
            raise BadInput(f"The target {token} is outside the vocabulary; ids go from 0 to {last}.")
        return int(token)

    def coder(self, name: str) -> Coder:
        """A coder by id; NotFound where the scope has none of that name."""
        if self.scope is None:
            raise NotFound(f"There is no coder {name!r}: the prompt is traced without a scope.")
        coder = self.scope[name]
        if len(coder.reads) != 1:
            raise Unsupported(f"The coder {name} reads several sites; name one of its parts, like {coder.parts[0].id}.")
        return coder


def logit_value(model: Model, logits: Float[Tensor, " vocab"]) -> Float[Tensor, " vocab"]:
    """Logits before soft-capping, `softcap * tanh(x / softcap)`."""
    logits, softcap = logits.float(), model.softcap
    return logits if softcap is None else softcap * torch.atanh(logits.double() / softcap).float()


def _one(place: Place, row: Tensor, position: int, constant: Tensor) -> Targets:
    return place.targets(row[None].detach(), torch.tensor([position], device=row.device), constant[None].detach())


@final
@dataclass(frozen=True)
class Logit:
    """A token's logit minus the mean logit; or the difference of two tokens' logits.

    Attributes:
        token: its text or id.
        minus: the token whose logit is subtracted; None is the mean over the vocabulary.
        position: after which token; negative ones count from the end.
    """

    token: Token
    minus: Token | None = None
    position: int = -1

    def sites(self, scope: Scope | None) -> list[Site]:
        """None besides the logits."""
        return []

    def resolved(self, run: PromptRun) -> list["Logit"]:
        """Itself, by ids; NotFound for a text that is no token, BadInput for an id outside the vocabulary."""
        minus = None if self.minus is None else run.token(self.minus)
        return [Logit(run.token(self.token), minus, run.position(self.position))]

    def target(self, run: PromptRun) -> Targets:
        """A row of the unembedding minus another, or minus the mean row, behind the final norm."""
        row, bias = run.unembedding(int(self.token))
        less, other = run.mean if self.minus is None else run.unembedding(int(self.minus))
        return _one(final_place(run.model, run.captured), row - less, self.position, bias - other)

    def value(self, run: PromptRun) -> Float[Tensor, ""]:
        """The difference of logits, before soft-capping."""
        logits = logit_value(run.model, run.captured["logits"][self.position])
        return logits[int(self.token)] - (logits.mean() if self.minus is None else logits[int(self.minus)])

    def label(self, run: PromptRun) -> str:
        """The token's text; `a - b` for a difference."""
        text = run.model.token_text(int(self.token))
        return text if self.minus is None else f"{text.strip()} - {run.model.token_text(int(self.minus)).strip()}"


@final
@dataclass(frozen=True)
class Likely:
    """The smallest set of next tokens whose probabilities sum to a share, or the most allowed.

    Attributes:
        position: after which token.
        share: of the probability.
        most: how many tokens at the most.
    """

    position: int = -1
    share: float = 0.95
    most: int = 10

    def sites(self, scope: Scope | None) -> list[Site]:
        """None besides the logits."""
        return []

    def resolved(self, run: PromptRun) -> list[Logit]:
        """Their logits, the likeliest first."""
        position = run.position(self.position)
        top = run.probabilities(position).topk(min(self.most, run.model.vocab_size))
        enough = int((top.values.cumsum(0) < self.share).sum()) + 1
        return [Logit(token, None, position) for token in top.indices[:enough].tolist()]


@final
@dataclass(frozen=True)
class Feature:
    """The pre-activation of a feature at a position, active or not.

    Attributes:
        coder: id of its coder; any of the scope that reads the residual stream, perhaps through the MLP's norm.
        index: its latent.
        position: at which token.
    """

    coder: str
    index: int
    position: int = -1

    def sites(self, scope: Scope | None) -> list[Site]:
        """What its coder reads."""
        return [] if scope is None else list(scope[self.coder].reads)

    def resolved(self, run: PromptRun) -> list["Feature"]:
        """Itself; NotFound where there is no such coder or feature."""
        size = run.coder(self.coder).d_latent
        if not 0 <= self.index < size:
            raise NotFound(f"The coder {self.coder} has features 0 to {size - 1}; there is no {self.index}.")
        return [replace(self, position=run.position(self.position))]

    def target(self, run: PromptRun) -> Targets:
        """The feature's encoder row."""
        coder, index = run.coder(self.coder), torch.tensor([self.index])
        row, bias = coder.encoder_rows(index)[0].float(), coder.encoder_bias(index)[0].float()
        return _one(read_place(run.model, coder.reads[0], run.captured), row, self.position, bias)

    def value(self, run: PromptRun) -> Float[Tensor, ""]:
        """The pre-activation."""
        coder, index = run.coder(self.coder), torch.tensor([self.index])
        x = run.captured[coder.reads[0].name][self.position].float()
        return x @ coder.encoder_rows(index)[0].float() + coder.encoder_bias(index)[0].float()

    def label(self, run: PromptRun) -> str:
        """Its label, or its name."""
        known = "" if run.scope is None else run.scope.label(run.coder(self.coder).id, self.index)
        return known or f"{self.coder}/{self.index}"


@final
@dataclass(frozen=True, eq=False)
class Direction:
    """The projection of the stream on a direction: a probe's, a refusal's.

    Attributes:
        vector: the direction, of any length; the value is its product with the activation.
        site: where it is read: resid_pre, resid_mid, resid_post, mlp_in, mlp_in_pregain, attn_out or attn_heads of a
            layer.
        position: at which token.
        name: what to call it.
    """

    vector: Float[Tensor, " width"]
    site: str
    position: int = -1
    name: str = "direction"

    def sites(self, scope: Scope | None) -> list[Site]:
        """Where it is read."""
        return [Site.parse(self.site)]

    def resolved(self, run: PromptRun) -> list["Direction"]:
        """Itself; BadInput where the vector does not fit."""
        vector = self.vector.detach().float().to(run.model.device)
        width = run.captured[self.site].flatten(1).shape[1]
        if vector.shape != (width,) or not bool(vector.isfinite().all()):
            raise BadInput(
                f"The direction {self.name} has the shape {tuple(vector.shape)} or numbers that are not finite; "
                f"it must be ({width},), the width of {self.site}."
            )
        return [replace(self, vector=vector, position=run.position(self.position))]

    def target(self, run: PromptRun) -> Targets:
        """The vector itself; the stream after a block is the one before the next."""
        site = Site.parse(self.site)
        if site.kind == "resid_post" and site.layer is not None:
            place = Read(2 * site.layer + 2)
        else:
            place = read_place(run.model, site, run.captured)
        return _one(place, self.vector, self.position, self.vector.new_zeros(()))

    def value(self, run: PromptRun) -> Float[Tensor, ""]:
        """The product with the activation."""
        return run.captured[self.site][self.position].float() @ self.vector

    def label(self, run: PromptRun) -> str:
        """Its name."""
        return self.name


@final
@dataclass(frozen=True)
class Continuation:
    """What follows the prompt: every token of it is an outcome after the token before.

    Attributes:
        tokens: how many tokens the model shall add, the likeliest each time; or the text that follows.
    """

    tokens: int | str


LinearRead = Logit | Feature | Direction
"""A target that is one linear read."""
Outcome = Token | tuple[Token, Token] | FeatureRef | LinearRead | Likely | Continuation
"""What a graph can explain: a token's text or id, two of them (the difference of their logits), a feature, or one of
`Logit`, `Likely`, `Feature`, `Direction` and `Continuation`."""


KINDS: dict[str, type[LinearRead]] = {"logit": Logit, "feature": Feature, "direction": Direction}
"""The name of each kind of linear read among JSON values."""


def plain_target(read: LinearRead) -> dict[str, Any]:
    """A linear read as JSON values."""
    (kind,) = (name for name, kind in KINDS.items() if isinstance(read, kind))
    values = {field.name: getattr(read, field.name) for field in fields(read)}
    return {"kind": kind} | {name: value.tolist() if name == "vector" else value for name, value in values.items()}


def read_target(plain: Mapping[str, Any]) -> LinearRead:
    """Read what `plain_target` wrote."""
    values: dict[str, Any] = {n: torch.tensor(value) if n == "vector" else value for n, value in plain.items()}
    return KINDS[values.pop("kind")](**values)


def _as_target(value: Any) -> LinearRead | Likely:
    if isinstance(value, LinearRead | Likely):
        return value
    if isinstance(value, FeatureRef):
        return Feature(value.coder_id, value.index, -1 if value.position is None else value.position)
    if isinstance(value, str | int) and not isinstance(value, bool):
        return Logit(value)
    if isinstance(value, tuple) and len(value) == 2:
        return Logit(*value)
    raise BadInput(
        f"The target {value!r} is none; name a token (text or id), a pair of tokens, a FeatureRef, "
        "or take Logit, Likely, Feature, Direction or Continuation of glassworks.circuits."
    )


def resolve(
    model: Model, prompt: Prompt, targets: Outcome | Sequence[Outcome] | None
) -> tuple[Int[Tensor, " token"], list[LinearRead | Likely]]:
    """Make a list of targets, and add what follows to a prompt where a continuation is among them.

    Args:
        model: predicts what follows.
        prompt: text or ids.
        targets: one or several; by default the likeliest next tokens.

    Returns:
        The tokens to trace (the last token that follows is no input any more), and the targets with a logit for each
        token that follows. Negative positions of other targets count from the end of the prompt as it was given.

    Raises:
        BadInput: a target is none, nothing follows, or a text follows that would change the prompt's own tokens.
    """
    tokens = model.tokens(prompt)
    given: Sequence[Any] = targets if isinstance(targets, Sequence) and not isinstance(targets, str) else [targets]
    given = [Likely()] if targets is None else given
    kept = [_as_target(target) for target in given if not isinstance(target, Continuation)]
    continuations = [target for target in given if isinstance(target, Continuation)]
    if not continuations:
        return tokens, kept
    kept = [
        replace(target, position=target.position % len(tokens)) if -len(tokens) <= target.position < 0 else target
        for target in kept
    ]
    follows = max((_following(model, prompt, tokens, target.tokens) for target in continuations), key=len)
    logits = [Logit(token, None, len(tokens) - 1 + place) for place, token in enumerate(follows)]
    return torch.cat([tokens, tokens.new_tensor(follows[:-1])]), [*kept, *logits]


def _following(model: Model, prompt: Prompt, tokens: Tensor, added: int | str) -> list[int]:
    """The tokens that follow: so many of the model's own, or those of a text."""
    if isinstance(added, int):
        if added < 1:
            raise BadInput(f"A continuation of {added} tokens explains nothing; ask for 1 or more.")
        grown = tokens
        for _ in range(added):
            grown = torch.cat([grown, grown.new_tensor([model.predict(grown, 1)[0].id])])
        return grown[len(tokens) :].tolist()
    if not isinstance(prompt, str):
        raise BadInput("A text can only follow a text; give the prompt as text, or targets by position.")
    whole = model.tokens(prompt + added)
    if len(whole) <= len(tokens) or not bool((whole[: len(tokens)] == tokens).all()):
        raise BadInput(f"{added!r} does not follow the prompt in tokens of its own; start it at a new word.")
    return whole[len(tokens) :].tolist()


@final
@dataclass(frozen=True, eq=False)
class Outcomes:
    """The chosen outcomes.

    Attributes:
        targets: what each reads.
        value: what each is in the model: a demeaned logit before soft-capping, a difference, a pre-activation.
        ids: vocabulary id of each; the vocabulary's size or more for what is no token.
        probability: what each counts: its token's probability (of a difference the first one's), 1 without a token.
        labels: text to display for each.
        plain: each as JSON values, which a graph keeps as `origin.facts["targets"]`; `read_target` reads them.
    """

    targets: Targets
    value: Float[Tensor, " k"]
    ids: Int[Tensor, " k"]
    probability: Float[Tensor, " k"]
    labels: tuple[str, ...]
    plain: tuple[dict[str, Any], ...]

    def nodes(self, layer: int) -> Nodes:
        """The outcomes as logit nodes."""
        columns = {"layer": torch.full_like(self.ids, layer), "position": self.targets.position, "index": self.ids}
        return Nodes.build(LOGIT, columns | {"probability": self.probability}, self.labels)


def choose(model: Model, scope: Scope | None, captured: Captured, targets: Sequence[LinearRead | Likely]) -> Outcomes:
    """Make outcomes of targets.

    Args:
        model: gives tokens and unembedding.
        scope: the coders whose features may be targets.
        captured: the model's run, with the targets' own `sites`.
        targets: from `resolve`.

    Raises:
        NotFound: a text that is not exactly one token of the vocabulary, a coder or feature that does not exist.
        BadInput: an id outside the vocabulary, a position outside the prompt, the same target twice, or none at all.
    """
    run = PromptRun(model, scope, captured)
    reads = [read for target in targets for read in target.resolved(run)]
    same = any(isinstance(read, Logit) and read.token == read.minus for read in reads)
    if not reads or len(set(reads)) < len(reads) or same:
        raise BadInput("The targets are empty or name one twice; name at least one, each once.")
    ids = [
        int(read.token) if isinstance(read, Logit) and read.minus is None else model.vocab_size + place
        for place, read in enumerate(reads)
    ]
    return Outcomes(
        targets=Targets.cat([read.target(run) for read in reads]),
        value=torch.stack([read.value(run) for read in reads]),
        ids=torch.tensor(ids),
        probability=torch.tensor(
            [
                float(run.probabilities(read.position)[int(read.token)]) if isinstance(read, Logit) else 1.0
                for read in reads
            ]
        ),
        labels=tuple(read.label(run) for read in reads),
        plain=tuple(plain_target(read) for read in reads),
    )


def read_direction(path: str) -> Tensor:
    """Read a direction from a file: .npy, or .safetensors with one tensor.

    Raises:
        NotFound: there is no such file.
        BadArtefact: it holds something else than one row of numbers.
    """
    file = Path(path)
    if not file.is_file():
        raise NotFound(f"There is no file {file}; a direction is a .npy or .safetensors file with one vector.")
    try:
        tensors = list(load_file(file).values()) if file.suffix == ".safetensors" else [torch.from_numpy(np.load(file))]
    except (ValueError, TypeError, OSError, EOFError, SafetensorError) as error:
        raise BadArtefact(f"The file {file} cannot be read as numbers ({error}); write it again.") from error
    if len(tensors) != 1 or tensors[0].squeeze().ndim != 1:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise BadArtefact(f"The file {file} holds {shapes or 'nothing'}; a direction is one row of numbers.")
    return tensors[0].squeeze().float()


FORMS = re.compile(
    r"(?:(?P<likely>likely)|next:(?P<count>\d+)(?!@)|direction:(?P<file>.+):(?P<site>[\w.]+)"
    r"|(?P<coder>[\w./-]+)/(?P<index>\d+)|(?P<first>.+?)(?: - (?P<second>.+?))?)(?:@(?P<position>-?\d+))?",
    re.DOTALL,
)


def parse(text: str, model: Model, read: Callable[[str], Tensor] = read_direction) -> Outcome:
    """Read one target from text; a text that is a token is that token, whatever else it could mean.

    Args:
        text: see this module.
        model: knows the tokens.
        read: finds the vector of a direction by the name of its file.

    Raises:
        NotFound: it is none of what this module lists.
    """

    def token(text: str) -> Token | None:
        """The token of a text, `#17` by its id; None where there is none."""
        try:
            return model.token_id(text)
        except (NotFound, BadInput):
            return int(text[1:]) if re.fullmatch(r"#\d+", text) else None

    def required(text: str) -> Token:
        known = token(text)
        return model.token_id(text) if known is None else known  # raises, and names what is near

    if (known := token(text)) is not None:
        return Logit(known)
    form = FORMS.fullmatch(text)
    if form is None:
        raise BadInput("A target is empty; name a token, or see `glassworks trace --help`.")
    position = -1 if form["position"] is None else int(form["position"])
    if form["likely"]:
        return Likely(position)
    if form["count"]:
        return Continuation(int(form["count"]))
    if form["file"]:
        return Direction(read(form["file"]), form["site"], position, Path(form["file"]).stem)
    if form["coder"]:
        return Feature(form["coder"], int(form["index"]), position)
    return Logit(required(form["first"]), None if form["second"] is None else required(form["second"]), position)
