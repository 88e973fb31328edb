"""What can be asked of a prompt: logits, likely tokens, what follows, a feature, a direction; at any position.

Each is a linear read of the residual stream, perhaps behind a norm with a frozen scale, so a graph can have it as a
target. This module must not know graphs.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.circuits.engine.freeze import Captured, Place, Read, final_place, read_place
from glassworks.circuits.engine.linear import Targets
from glassworks.coders import Coder, Scope
from glassworks.edits import FeatureRef
from glassworks.errors import BadInput, NotFound, Unsupported
from glassworks.models import Model
from glassworks.sites import Site

Token = str | int
"""A token's text, or its id."""


@final
@dataclass(frozen=True, eq=False)
class Seen:
    """A model's run on a prompt, as questions read it.

    Attributes:
        model: the model.
        scope: the coders whose features can be asked for.
        captured: values at sites; `logits` are needed for logits, and what `sites` names for the rest.
    """

    model: Model
    scope: Scope | None
    captured: Captured

    @property
    def tokens(self) -> int:
        """How many tokens the prompt has."""
        return len(self.captured["logits"])

    def position(self, position: int) -> int:
        """A position counted from the start; BadInput where the prompt has no such token."""
        if not -self.tokens <= position < self.tokens:
            raise BadInput(f"There is no token {position} to explain; the prompt has tokens 0 to {self.tokens - 1}.")
        return position % self.tokens

    def probabilities(self, position: int) -> Float[Tensor, " vocab"]:
        """Of what comes after a token."""
        return self.captured["logits"][position].float().softmax(0)

    def logits(self, position: int) -> Float[Tensor, " vocab"]:
        """Scores after a token, before `softcap * tanh(x / softcap)`."""
        logits, softcap = self.captured["logits"][position].float(), self.model.softcap
        return logits if softcap is None else softcap * torch.atanh(logits.double() / softcap).float()

    @cached_property
    def mean(self) -> tuple[Float[Tensor, " d_model"], Float[Tensor, ""]]:
        """The mean over the vocabulary of what logits read, and of their bias."""
        matrix, bias = self.model.unembedding
        return matrix.mean(0, dtype=torch.float32), matrix.new_zeros(()) if bias is None else bias.float().mean()

    def unembedding(self, token: int) -> tuple[Float[Tensor, " d_model"], Float[Tensor, ""]]:
        """What a token's logit reads behind the final norm, and its bias."""
        matrix, bias = self.model.unembedding
        return matrix[token].float(), matrix.new_zeros(()).float() if bias is None else bias[token].float()

    def coder(self, name: str) -> Coder:
        """A coder by id; NotFound where the scope has none of that name."""
        if self.scope is None:
            raise NotFound(f"There is no coder {name!r}: the prompt is traced without a scope.")
        coder = self.scope[name]
        if len(coder.reads) != 1:
            raise Unsupported(f"The coder {name} reads several sites; name one of its parts, like {coder.parts[0].id}.")
        return coder


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
        """Nothing else."""
        return []

    def resolved(self, seen: Seen) -> list["Logit"]:
        """Itself, by ids; NotFound for a text that is no token, BadInput for an id outside the vocabulary."""
        minus = None if self.minus is None else _id(seen.model, self.minus)
        return [Logit(_id(seen.model, self.token), minus, seen.position(self.position))]

    def target(self, seen: Seen) -> Targets:
        """A row of the unembedding minus another, or minus the mean row, behind the final norm."""
        (row, bias), (less, other) = seen.unembedding(int(self.token)), self._less(seen)
        return _one(final_place(seen.model, seen.captured), row - less, self.position, bias - other)

    def _less(self, seen: Seen) -> tuple[Tensor, Tensor]:
        return seen.mean if self.minus is None else seen.unembedding(int(self.minus))

    def value(self, seen: Seen) -> Float[Tensor, ""]:
        """The difference of logits, before soft-capping."""
        logits = seen.logits(self.position)
        return logits[int(self.token)] - (logits.mean() if self.minus is None else logits[int(self.minus)])

    def weight(self, seen: Seen) -> float:
        """The token's probability."""
        return float(seen.probabilities(self.position)[int(self.token)])

    def label(self, seen: Seen) -> str:
        """The token's text; `a - b` for a difference."""
        text = seen.model.token_text(int(self.token))
        return text if self.minus is None else f"{text.strip()} - {seen.model.token_text(int(self.minus)).strip()}"

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {"kind": "logit", "token": self.token, "minus": self.minus, "position": self.position}


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
        """Nothing else."""
        return []

    def resolved(self, seen: Seen) -> list[Logit]:
        """Their logits, the likeliest first."""
        position = seen.position(self.position)
        top = seen.probabilities(position).topk(min(self.most, seen.model.vocab_size))
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

    def resolved(self, seen: Seen) -> list["Feature"]:
        """Itself; NotFound where there is no such coder or feature."""
        size = seen.coder(self.coder).d_latent
        if not 0 <= self.index < size:
            raise NotFound(f"The coder {self.coder} has features 0 to {size - 1}; there is no {self.index}.")
        return [replace(self, position=seen.position(self.position))]

    def target(self, seen: Seen) -> Targets:
        """The feature's encoder row."""
        coder, index = seen.coder(self.coder), torch.tensor([self.index])
        row, bias = coder.encoder_rows(index)[0].float(), coder.encoder_bias(index)[0].float()
        return _one(read_place(seen.model, coder.reads[0], seen.captured), row, self.position, bias)

    def value(self, seen: Seen) -> Float[Tensor, ""]:
        """The pre-activation."""
        coder, index = seen.coder(self.coder), torch.tensor([self.index])
        x = seen.captured[coder.reads[0].name][self.position].float()
        return x @ coder.encoder_rows(index)[0].float() + coder.encoder_bias(index)[0].float()

    def weight(self, seen: Seen) -> float:
        """Always 1."""
        return 1.0

    def label(self, seen: Seen) -> str:
        """Its label, or its name."""
        known = "" if seen.scope is None else seen.scope.label(seen.coder(self.coder).id, self.index)
        return known or f"{self.coder}/{self.index}"

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {"kind": "feature", "coder": self.coder, "index": self.index, "position": self.position}


@final
@dataclass(frozen=True, eq=False)
class Direction:
    """What the stream holds of a direction: a probe's, a refusal's.

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

    def resolved(self, seen: Seen) -> list["Direction"]:
        """Itself; BadInput where the vector does not fit."""
        vector = self.vector.detach().float().to(seen.model.device)
        width = seen.captured[self.site].flatten(1).shape[1]
        if vector.shape != (width,) or not bool(vector.isfinite().all()):
            raise BadInput(
                f"The direction {self.name} has the shape {tuple(vector.shape)} or numbers that are not finite; "
                f"it must be ({width},), the width of {self.site}."
            )
        return [replace(self, vector=vector, position=seen.position(self.position))]

    def target(self, seen: Seen) -> Targets:
        """The vector itself."""
        place = _stream_place(seen.model, Site.parse(self.site), seen.captured)
        return _one(place, self.vector, self.position, self.vector.new_zeros(()))

    def value(self, seen: Seen) -> Float[Tensor, ""]:
        """The product with the activation."""
        return seen.captured[self.site][self.position].float() @ self.vector

    def weight(self, seen: Seen) -> float:
        """Always 1."""
        return 1.0

    def label(self, seen: Seen) -> str:
        """Its name."""
        return self.name

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        where = {"site": self.site, "position": self.position, "name": self.name}
        return {"kind": "direction", **where, "vector": self.vector.tolist()}


Reading = Logit | Feature | Direction
"""One linear read."""
Question = Reading | Likely


def question(asked: Any) -> Question:
    """Turn what the user names into a question.

    Args:
        asked: a token's text or id, a pair of them (the difference), a `FeatureRef`, or a question.

    Raises:
        BadInput: it is something else.
    """
    if isinstance(asked, Question):
        return asked
    if isinstance(asked, FeatureRef):
        return Feature(asked.coder_id, asked.index, -1 if asked.position is None else asked.position)
    if isinstance(asked, str | int) and not isinstance(asked, bool):
        return Logit(asked)
    if isinstance(asked, tuple) and len(asked) == 2:
        return Logit(*asked)
    raise BadInput(
        f"The target {asked!r} is none; name a token (text or id), a pair of tokens, a FeatureRef, "
        "or take Logit, Likely, Feature, Direction or Continuation of glassworks.circuits."
    )


def reading(plain: dict[str, Any]) -> Reading:
    """Read what `plain` of a read wrote."""
    kinds = {"logit": Logit, "feature": Feature, "direction": Direction}
    fields = {name: value for name, value in plain.items() if name != "kind"}
    if plain["kind"] == "direction":
        fields["vector"] = torch.tensor(fields["vector"])
    return kinds[plain["kind"]](**fields)


def _id(model: Model, token: Token) -> int:
    if isinstance(token, str):
        return model.token_id(token)
    if not 0 <= token < model.vocab_size:
        raise BadInput(f"The target {token} is outside the vocabulary; ids go from 0 to {model.vocab_size - 1}.")
    return int(token)


def _one(place: Place, row: Tensor, position: int, constant: Tensor) -> Targets:
    return place.targets(row[None].detach(), torch.tensor([position], device=row.device), constant[None].detach())


def _stream_place(model: Model, site: Site, captured: Captured) -> Place:
    """Where a direction lies; the stream after a block is the one before the next."""
    if site.kind == "resid_post" and site.layer is not None:
        return Read(2 * site.layer + 2)
    return read_place(model, site, captured)
