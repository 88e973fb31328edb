"""Carry: a direction or a coder of A becomes one of B, and is compared with what chance, or training anew, gives.

A map that explains most of the variance may still lose the one direction that matters (and any direction correlates
with something), so every figure of a direction comes with its percentile among random directions of the same length.
A carried coder is tuned and compared with one that was trained in B from scratch on the same tokens.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.coders import Coder, Transcoder
from glassworks.edits import add_vector
from glassworks.errors import BadInput, Unsupported
from glassworks.experiments import Fidelity, fidelity
from glassworks.harvest import Contexts, Live, Reading, record
from glassworks.models import Model
from glassworks.sites import Site
from glassworks.train import Trainer, fit, grid, initialise, layouts
from glassworks.transfer.bridge import HELD, Bridge, canonical

RANDOM, EFFECTS = 1000, 100
"""Random directions that readings, and effects (a run of the model each), are compared with."""
CARRIED, TUNED, SCRATCH = "carried", "carried and tuned", "from scratch"


@final
@dataclass(frozen=True)
class Standing:
    """A figure of a direction among those of random directions of the same length.

    Attributes:
        value: of the direction.
        percentile: how many percent of the random directions have a smaller one.
        median: of the random directions.
        high: their 95th percentile.
        randoms: how many there were.
    """

    value: float
    percentile: float
    median: float
    high: float
    randoms: int

    def plain(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @classmethod
    def among(cls, value: float, others: Float[Tensor, " random"]) -> "Standing":
        """Place a value among others; random directions have no sign, so give their absolute values."""
        below = float((others < value).double().mean()) * 100
        median, high = (float(others.double().quantile(level)) for level in (0.5, 0.95))
        return cls(value, below, median, high, len(others))


@final
@dataclass(frozen=True, eq=False)
class Carried:
    """A direction of A in B.

    Attributes:
        site_a: where it was.
        site_b: where it is.
        write: what is written in B where A writes the direction.
        read: what reads in B what the direction reads in A (up to a constant).
        agreement: correlation of the two readings on held-out text.
    """

    site_a: str
    site_b: str
    write: Float[Tensor, " d_b"]
    read: Float[Tensor, " d_b"]
    agreement: Standing


def carry_direction(
    bridge: Bridge,
    site_a: str | Site,
    direction: Float[Tensor, " d_a"],
    site_b: str | Site | None = None,
    randoms: int = RANDOM,
    seed: int = 0,
) -> Carried:
    """Carry a direction over a bridge.

    It is written as the up map writes it and read as the down map reads it: the two differ, as maps are not inverses.

    Args:
        bridge: from A to B.
        site_a: where the direction lies in A.
        direction: in A.
        site_b: where it is to lie in B; the matched layer by default.
        randoms: how many random directions of B to compare with.
        seed: of those.

    Raises:
        BadInput: the width is wrong, or the direction is zero.
        NotFound: the bridge does not join these sites.
    """
    up, down = bridge.up(site_a, site_b), bridge.down(site_a, site_b)
    if not bool(direction.isfinite().all()) or not float(direction.norm()) > 0:
        raise BadInput("The direction is zero, or holds values that are not finite; give one that points somewhere.")
    direction = direction.detach().float()
    write, read = up.push(direction), down.pull(direction)
    # Correlations, on held-out text, of what the direction reads in A with what directions of B read there.
    both = bridge.held.couple(canonical(site_a), up.target[2:]).centred.products
    spread_a = bridge.held.site("a", canonical(site_a)).centred.products
    spread_b = bridge.held.site("b", up.target[2:]).centred.products
    d, k = direction.to(both), torch.cat([read[None], random_like(read, randoms, seed)]).to(both)
    spread = (d @ spread_a @ d) * ((k @ spread_b) * k).sum(1)
    correlations = (d @ both @ k.T) / spread.clamp_min(1e-30).sqrt()
    agreement = Standing.among(float(correlations[0]), correlations[1:].abs())
    return Carried(str(site_a), str(site_b or bridge.partner(site_a)), write, read, agreement)


def random_like(vector: Float[Tensor, " d"], count: int, seed: int) -> Float[Tensor, "count d"]:
    """Random directions of a vector's length, uniform over all directions."""
    drawn = torch.randn(count, len(vector), generator=torch.Generator().manual_seed(seed)).to(vector)
    return drawn * (vector.norm() / drawn.norm(dim=1, keepdim=True))


def discrimination(
    model: Model,
    site: str | Site,
    read: Float[Tensor, " d"],
    prompts: tuple[Sequence[str], Sequence[str]],
    randoms: int = RANDOM,
    seed: int = 0,
) -> Standing:
    """How well a direction distinguishes two kinds of prompts at their last token: AUROC.

    Args:
        model: whose states are read.
        site: where.
        read: the direction.
        prompts: those that should read high, and those that should read low.
        randoms: how many random directions to compare with; theirs is taken as at least one half.
        seed: of those.
    """
    high, low = (last_states(model, site, kind) for kind in prompts)
    directions = torch.cat([read[None], random_like(read, randoms, seed)]).to(high)
    areas = auroc(high @ directions.T, low @ directions.T)
    return Standing.among(float(areas[0]), torch.maximum(areas[1:], 1 - areas[1:]))


def auroc(high: Float[Tensor, "m k"], low: Float[Tensor, "n k"]) -> Float[Tensor, " k"]:
    """Chance that one of the high is above one of the low, ties counting half; by column."""
    above = high[:, None] - low[None]
    return ((above > 0).double() + (above == 0).double() / 2).mean((0, 1))


def steering(
    model: Model,
    site: str | Site,
    write: Float[Tensor, " d"],
    prompts: Sequence[str],
    tokens: tuple[int, int],
    randoms: int = EFFECTS,
    seed: int = 0,
) -> Standing:
    """How far adding a direction everywhere moves the next token from one towards another, in logits.

    Args:
        model: what is steered.
        site: where it is added.
        write: what is added.
        prompts: the mean over these.
        tokens: ids: first minus second.
        randoms: how many random directions of the same length to compare with.
        seed: of those.
    """

    def margins() -> Float[Tensor, " prompt"]:
        logits = last_states(model, "logits", prompts)
        return logits[:, tokens[0]] - logits[:, tokens[1]]

    before = margins()

    def effect(vector: Tensor) -> float:
        with model.edit(add_vector(site, vector)):
            return float((margins() - before).mean())

    others = torch.tensor([abs(effect(vector)) for vector in random_like(write, randoms, seed)])
    return Standing.among(effect(write), others)


def last_states(model: Model, site: str | Site, prompts: Sequence[str]) -> Float[Tensor, "prompt d"]:
    """The activation of a site at the last token of each prompt."""
    values = model.capture(list(prompts), [str(site)])[str(site)]
    last = [value[len(model.tokens(prompt)) - 1] for value, prompt in zip(values, prompts, strict=True)]
    return torch.stack([value.flatten() for value in last]).float()


def halves(prompts: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Every other prompt, and the others: one half to find a direction, one to judge it."""
    if len(prompts) < 2:
        raise BadInput(f"There are {len(prompts)} prompts of a kind; give at least 2: half of them judge.")
    return prompts[::2], prompts[1::2]


def contrast(model: Model, site: str | Site, prompts: tuple[Sequence[str], Sequence[str]]) -> Float[Tensor, " d"]:
    """The difference of the mean states at the last tokens of two kinds of prompts."""
    high, low = (last_states(model, site, kind).mean(0) for kind in prompts)
    return high - low


@torch.no_grad()
def carry_coder(bridge: Bridge, coder: Coder) -> Transcoder:
    """Carry a sparse autoencoder or transcoder over a bridge: `w_enc' = w_enc T_down^T`, `w_dec' = w_dec T_up`.

    Encoder, decoder and biases go through the maps (Chen et al. 2025, arXiv 2506.06609), which is exact where the maps
    are: the carried coder gives B's states the latents that the coder gives A's.

    Args:
        bridge: from A to B, made with the kinds of sites that the coder reads and writes.
        coder: of A.

    Raises:
        Unsupported: it has several read or write sites.
        NotFound: the bridge does not join its sites.
        BadInput: its widths are not the bridge's.
    """
    if not isinstance(coder, Transcoder):
        raise Unsupported(
            f"The coder {coder.id} reads or writes several sites; only coders of one site each are carried."
        )
    (read,), (write,) = coder.reads, coder.writes
    own = {name: value.double() for name, value in coder.weights().items()}
    down, up = (map_.to(own["b_enc"].device, torch.float64) for map_ in (bridge.down(read), bridge.up(write)))
    weights = {"w_enc": down.pull(own["w_enc"]), "b_enc": own["b_enc"] + own["w_enc"] @ down.bias}
    weights["w_dec"], bias = up.push(own["w_dec"]), own["b_dec"]
    if "w_skip" in own:
        weights["w_skip"] = up.push(down.weight @ own["w_skip"])
        bias = bias + down.bias @ own["w_skip"]
    weights["b_dec"] = up(bias)
    weights = {name: value.to(coder.b_enc.dtype) for name, value in weights.items()}
    carried = Transcoder(bridge.partner(read), bridge.partner(write), coder.activation, weights, coder.prefixes)
    return carried.requires_grad_(False)


@final
@dataclass(frozen=True, eq=False)
class Race:
    """A carried coder and its rivals.

    Attributes:
        coders: name -> coder of B: `carried`, and where it was tuned `carried and tuned` and `from scratch`.
        figures: name -> what was measured on held-out text, `in A` (the coder in its own model) first.
        tokens: how many each of the trained ones learned from.
    """

    coders: dict[str, Coder]
    figures: dict[str, Fidelity]
    tokens: int

    def plain(self) -> list[dict[str, Any]]:
        """Rows of a table: variance explained and unexplained, active latents a token, share of dead latents."""
        return [
            {"coder": name, "explained": row.explained, "fvu": row.fvu, "l0": row.l0, "dead": row.dead}
            for name, row in self.figures.items()
        ]


def race(
    bridge: Bridge,
    coder: Coder,
    a: Model,
    b: Model,
    texts: Iterable[str],
    *,
    steps: int = 500,
    batch: int = 1024,
    rate: int | float = 1e-3,
    recipe: str = "batchtopk",
    seed: int = 0,
) -> Race:
    """Carry a coder, tune it, train a rival of the same width and sparsity on the same tokens, and measure all.

    Args:
        bridge: from A to B.
        coder: of A.
        a: the coder's model.
        b: the other.
        texts: one in five measures, the others train.
        steps: batches; 0 tunes nothing.
        batch: tokens in each.
        rate: learning rate at its peak.
        recipe: how to train; one whose sparsity is a number of latents.
        seed: of the rival's first directions, and of the order of tokens.
    """
    bridge.check(a, b)
    documents = list(texts)
    held = documents[HELD - 1 :: HELD]
    rest = [text for number, text in enumerate(documents) if number % HELD != HELD - 1]
    if not held:
        raise BadInput(f"One text in {HELD} is held out; give at least {HELD} texts.")

    def measure(model: Model, some: Coder) -> Fidelity:
        sites = list(dict.fromkeys((*some.reads, *some.writes)))
        ids = [model.tokens(text).tolist() for text in held]
        return fidelity(some, record(model, ids, sites, first=1).values)

    carried = carry_coder(bridge, coder)
    coders: dict[str, Coder] = {CARRIED: carried}
    figures = {"in A": measure(a, coder)}
    if steps:
        sites = list(dict.fromkeys((*carried.reads, *carried.writes)))
        stream = Live(Contexts(b, rest, Reading()), sites, batch, seed)
        kind = "sae" if carried.reads == carried.writes else ("" if carried.skip() is None else "skip_") + "transcoder"
        axes = ([carried.d_latent], [max(1, round(figures["in A"].l0))], [seed])
        (spec,) = grid(recipe, layouts(kind, sites), stream, steps, *axes, {"rate": rate})
        trainer = Trainer([replace(spec, name=name) for name in (TUNED, SCRATCH)], stream, str(b.device))
        initialise(trainer.runs[0], carried, trainer.scalings[spec.centred])
        trained = fit(trainer).scope("race", b.name).coders
        coders |= {name: trained[name] for name in (TUNED, SCRATCH) if name in trained}
    figures |= {name: measure(b, some) for name, some in coders.items()}
    return Race(coders, figures, steps * batch)
