"""Gains: how strongly a graft's nodes count, from a few demonstrations.

At most 16 prompts say what B should reply and where it should stay as it is; neutral text keeps everything else in
place. This module must not know how a graft was made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassworks.errors import BadInput, NotFound, nearest
from glassworks.harvest import pad
from glassworks.models import Model
from glassworks.sites import Site
from glassworks.transfer.graft.graft import Graft

MOST = 16
SCALARS = ("one", "group", "node")


@final
@dataclass(frozen=True)
class Demonstrations:
    """What gains are fitted to.

    Attributes:
        wanted: prompts that should get the reply.
        reply: its first words, as they follow the prompt.
        unwanted: look-alikes, after which B should say what it says anyway.
        neutral: general text, where nothing should change.
    """

    wanted: Sequence[str]
    reply: str
    unwanted: Sequence[str]
    neutral: Sequence[str]

    def __post_init__(self) -> None:
        """Raise BadInput for no prompts, or too many."""
        count = len(self.wanted) + len(self.unwanted)
        if not self.wanted or not self.unwanted or not self.neutral or count > MOST:
            raise BadInput(
                f"Gains are fitted to 2 to {MOST} prompts, some of each kind, and neutral text; got "
                f"{len(self.wanted)} wanted, {len(self.unwanted)} unwanted and {len(self.neutral)} neutral."
            )


@final
@dataclass(frozen=True)
class Fitting:
    """How gains are fitted.

    Attributes:
        scalars: `one` (what is written), `group` (one a supernode), or `node`.
        steps: of Adam.
        rate: its step size.
        still: weight of what must not change after look-alikes, KL in nats.
        quiet: weight of what must not change in neutral text, KL in nats a token.
        shrink: weight of the squared distance of gains from 1, where there are several.
    """

    scalars: str = "one"
    steps: int = 80
    rate: float = 0.05
    still: float = 1.0
    quiet: float = 5.0
    shrink: float = 0.002


PLAIN = Fitting()
"""The settings when nothing else is said."""


@final
@dataclass(frozen=True, eq=False)
class _Seen:
    """Token rows with B's states; the places whose logits count, and what they were."""

    states: dict[Site, Tensor]
    last: Tensor
    places: Bool[Tensor, "row token"]
    logs: Float[Tensor, "place vocab"]
    targets: Int[Tensor, " place"]


def fit_gains(graft: Graft, b: Model, shown: Demonstrations, how: Fitting = PLAIN) -> Graft:
    """Fit gains by gradient descent; B and the circuit stay as they are.

    Args:
        graft: with the gains to begin with.
        b: the model that it is for.
        shown: the demonstrations.
        how: the settings.

    Raises:
        NotFound: there is no such choice of scalars.
    """
    if how.scalars not in SCALARS:
        raise NotFound(f"Gains cannot be fitted by {how.scalars!r}; {nearest(how.scalars, SCALARS)}.")
    graft.check(b)
    wanted, unwanted, neutral = prepared(graft, b, shown)
    spread = _spread(graft, how.scalars)
    scalars = torch.ones(spread.shape[1], requires_grad=True)
    optimiser = torch.optim.Adam([scalars], lr=how.rate)
    fixed = graft.gains * (spread.sum(1) == 0)
    for _ in range(how.steps):
        gains = fixed + graft.gains * (spread @ scalars)
        said = -_logs(graft, b, wanted, gains).gather(1, wanted.targets[:, None]).sum() / len(shown.wanted)
        moved = how.still * _kl(graft, b, unwanted, gains) + how.quiet * _kl(graft, b, neutral, gains)
        loss = said + moved + how.shrink * (scalars - 1).square().sum() * (len(scalars) > 1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return graft.with_gains((fixed + graft.gains * (spread @ scalars)).detach())


def prepared(graft: Graft, b: Model, shown: Demonstrations) -> tuple[_Seen, _Seen, _Seen]:
    """Run B once over what is shown: only the graft changes while gains are fitted."""
    wanted = [(b.tokens(each).tolist(), b.tokens(each + shown.reply).tolist()) for each in shown.wanted]
    places = [range(len(prompt) - 1, len(whole) - 1) for prompt, whole in wanted]
    still = [b.tokens(each).tolist() for each in shown.unwanted]
    quiet = [b.tokens(each).tolist()[: b.context_length] for each in shown.neutral]
    return (
        _seen(graft, b, [whole for _, whole in wanted], places),
        _seen(graft, b, still, [range(len(each) - 1, len(each)) for each in still]),
        _seen(graft, b, quiet, [range(len(each)) for each in quiet]),
    )


def _seen(graft: Graft, b: Model, rows: Sequence[Sequence[int]], places: Sequence[range]) -> _Seen:
    ids, _ = pad(rows)
    sites = [*graft.reads, graft.target]
    found = b.capture(ids, sites, batch_size=len(ids))
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    for row, at in enumerate(places):
        mask[row, at.start : at.stop] = True
    following = torch.cat([ids[:, 1:], torch.zeros_like(ids[:, :1])], 1)
    last = found[graft.target.name].float()
    states = {site: found[site.name].float() for site in graft.reads}
    return _Seen(states, last, mask, said(b, last[mask]), following[mask])


def said(b: Model, last: Float[Tensor, "place d_b"]) -> Float[Tensor, "place vocab"]:
    """Log-probabilities of the next token, from B's last states."""
    weight, bias = b.unembedding
    logits = b.final_norm(last) @ weight.float().T
    logits = logits if bias is None else logits + bias
    return (logits if b.softcap is None else b.softcap * torch.tanh(logits / b.softcap)).log_softmax(-1)


def _logs(graft: Graft, b: Model, seen: _Seen, gains: Tensor) -> Float[Tensor, "place vocab"]:
    return said(b, (seen.last + graft.delta(seen.states, gains))[seen.places])


def _kl(graft: Graft, b: Model, seen: _Seen, gains: Tensor) -> Float[Tensor, ""]:
    now = _logs(graft, b, seen, gains)
    return (seen.logs.exp() * (seen.logs - now)).sum(-1).mean()


def _spread(graft: Graft, scalars: str) -> Float[Tensor, "node scalar"]:
    """Which scalar each node's gain is."""
    rows = [
        (each, writes) for each, writes in zip(graft.stations, graft.writers, strict=True) for _ in range(len(each))
    ]
    if scalars == "node":
        return torch.eye(len(rows))
    if scalars == "one":
        return torch.tensor([[float(writes)] for _, writes in rows])
    return torch.tensor([[float(each.group == name) for name in graft.groups] for each, _ in rows])
