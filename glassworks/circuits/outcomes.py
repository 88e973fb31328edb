"""Which outcomes a graph explains, as rows of the linear engine and as nodes.

By default the likeliest next tokens; else whatever can be asked (`asked`), of any position, several at once. This
module must not know what the graph makes of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks.circuits.asked import Direction, Feature, Likely, Logit, Seen, Token, question, reading
from glassworks.circuits.engine.freeze import Captured
from glassworks.circuits.engine.linear import Targets
from glassworks.circuits.nodes import LOGIT, Nodes
from glassworks.coders import Scope
from glassworks.edits import FeatureRef
from glassworks.errors import BadInput
from glassworks.models import Model, Prompt
from glassworks.sites import Site


@final
@dataclass(frozen=True)
class Continuation:
    """What follows the prompt: every token of it is an outcome after the token before.

    Attributes:
        tokens: how many tokens the model shall add, the likeliest each time; or the text that follows.
    """

    tokens: int | str


Outcome = Token | tuple[Token, Token] | FeatureRef | Logit | Likely | Feature | Direction | Continuation
"""What a graph can explain: a token's text or id, two of them (the difference of their logits), a feature, or one of
the questions."""
Asked = Outcome | Sequence[Outcome] | None


@final
@dataclass(frozen=True, eq=False)
class Outcomes:
    """The chosen outcomes.

    Attributes:
        targets: what each reads.
        value: what each is in the model: a demeaned logit before soft-capping, a difference, a pre-activation.
        ids: vocabulary id of each; the vocabulary's size or more for what is no token.
        probability: what each counts: its token's probability (of a difference the first one's), 1 without a token.
        labels: what each shows.
        plain: each as JSON values, from which `values` reads it again.
    """

    targets: Targets
    value: Float[Tensor, " k"]
    ids: Int[Tensor, " k"]
    probability: Float[Tensor, " k"]
    labels: tuple[str, ...]
    plain: tuple[dict[str, Any], ...]

    def nodes(self, layer: int) -> Nodes:
        """The outcomes as logit nodes."""
        columns = {
            "layer": torch.full_like(self.ids, layer),
            "position": self.targets.position,
            "index": self.ids,
            "probability": self.probability,
        }
        return Nodes.build(LOGIT, columns, self.labels)


def listed(asked: Asked) -> list[Outcome]:
    """Targets as a list; the likeliest next tokens where none are named."""
    if asked is None:
        return [Likely()]
    return list(asked) if isinstance(asked, Sequence) and not isinstance(asked, str) else [asked]


def continued(model: Model, prompt: Prompt, asked: Asked) -> tuple[Int[Tensor, " token"], list[Outcome]]:
    """Add what follows to a prompt, where that is asked for.

    Args:
        model: says what follows.
        prompt: text or ids.
        asked: the targets.

    Returns:
        The tokens to trace (the last token that follows is no input any more), and the targets with a logit for each
        token that follows. Negative positions of other targets count from the end of the prompt as it was given.

    Raises:
        BadInput: nothing follows, or a text follows that would change the prompt's own tokens.
    """
    tokens, found = model.tokens(prompt), listed(asked)
    wanted = [each for each in found if isinstance(each, Continuation)]
    if not wanted:
        return tokens, found
    follows = max((_following(model, prompt, tokens, each) for each in wanted), key=len)
    start = len(tokens) - 1
    logits = [Logit(token, None, start + place) for place, token in enumerate(follows)]
    kept = [_from_start(question(each), len(tokens)) for each in found if not isinstance(each, Continuation)]
    return torch.cat([tokens, tokens.new_tensor(follows[:-1])]), [*kept, *logits]


def _following(model: Model, prompt: Prompt, tokens: Tensor, asked: Continuation) -> list[int]:
    if isinstance(asked.tokens, int):
        if asked.tokens < 1:
            raise BadInput(f"A continuation of {asked.tokens} tokens explains nothing; ask for 1 or more.")
        grown = tokens
        for _ in range(asked.tokens):
            grown = torch.cat([grown, grown.new_tensor([model.predict(grown, 1)[0].id])])
        return grown[len(tokens) :].tolist()
    if not isinstance(prompt, str):
        raise BadInput("A text can only follow a text; give the prompt as text, or targets by position.")
    whole = model.tokens(prompt + asked.tokens)
    if len(whole) <= len(tokens) or not bool((whole[: len(tokens)] == tokens).all()):
        raise BadInput(f"{asked.tokens!r} does not follow the prompt in tokens of its own; start it at a new word.")
    return whole[len(tokens) :].tolist()


def _from_start(asked: Any, tokens: int) -> Any:
    return replace(asked, position=asked.position % tokens) if -tokens <= asked.position < 0 else asked


def sites_of(scope: Scope | None, asked: Sequence[Outcome]) -> list[Site]:
    """What has to be captured for targets, besides what freezes the model."""
    return [site for each in asked for site in question(each).sites(scope)]


def choose(model: Model, scope: Scope | None, captured: Captured, asked: Sequence[Outcome]) -> Outcomes:
    """Make outcomes of what was asked.

    Args:
        model: gives tokens and unembedding.
        scope: the coders whose features may be asked for.
        captured: the model's run, with what `sites_of` names.
        asked: from `continued`.

    Raises:
        NotFound: a text that is not exactly one token of the vocabulary, a coder or feature that does not exist.
        BadInput: an id outside the vocabulary, a position outside the prompt, the same target twice, or none at all.
    """
    seen = Seen(model, scope, captured)
    found = [each for target in asked for each in question(target).resolved(seen)]
    same = any(isinstance(each, Logit) and each.token == each.minus for each in found)
    if not found or len(set(found)) < len(found) or same:
        raise BadInput("The targets are empty or name one twice; name at least one, each once.")
    ids = [
        int(each.token) if isinstance(each, Logit) and each.minus is None else model.vocab_size + place
        for place, each in enumerate(found)
    ]
    return Outcomes(
        targets=Targets.cat([each.target(seen) for each in found]),
        value=torch.stack([each.value(seen) for each in found]),
        ids=torch.tensor(ids),
        probability=torch.tensor([each.weight(seen) for each in found]),
        labels=tuple(each.label(seen) for each in found),
        plain=tuple(each.plain() for each in found),
    )


def values(
    model: Model, scope: Scope | None, captured: Captured, plain: Sequence[Mapping[str, Any]]
) -> Float[Tensor, " k"]:
    """Measure outcomes again, on any run of the model.

    Args:
        model: the model.
        scope: as when they were chosen.
        captured: values at `logits` and at `measured_at(plain)`.
        plain: `Outcomes.plain`, which a graph keeps as `origin.facts["targets"]`.
    """
    seen = Seen(model, scope, captured)
    return torch.stack([reading(dict(each)).value(seen) for each in plain])


def measured_at(scope: Scope | None, plain: Sequence[Mapping[str, Any]]) -> list[Site]:
    """What has to be captured for `values`, besides `logits`."""
    return [site for each in plain for site in reading(dict(each)).sites(scope)]
