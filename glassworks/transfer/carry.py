"""Carrying: a coder of A becomes one of B, and is compared with one that was trained in B from nothing.

Encoder, decoder and biases go through the maps of a bridge (Chen et al. 2025, arXiv 2506.06609); what remains to learn
is learned by a short training. The report sets both beside training from scratch on the same tokens.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch

from glassworks.coders import Coder, Transcoder
from glassworks.errors import BadInput, Unsupported
from glassworks.evals import Fidelity, fidelity
from glassworks.harvest import Contexts, Live, Reading, record
from glassworks.models import Model
from glassworks.sites import Site
from glassworks.train import Axes, Fleet, fit, layouts, table, take_up
from glassworks.transfer.align import HELD
from glassworks.transfer.bridge import Bridge
from glassworks.transfer.maps import Map

CARRIED, SCRATCH = "carried and tuned", "from scratch"


@final
@dataclass(frozen=True)
class Training:
    """How a carried coder is tuned, and its rival trained.

    Attributes:
        steps: batches; 0 tunes nothing.
        batch: tokens in each.
        rate: learning rate at its peak.
        recipe: how; one whose sparsity is a number of latents.
        seed: of the rival's first directions, and of the order of tokens.
    """

    steps: int = 500
    batch: int = 1024
    rate: int | float = 1e-3
    recipe: str = "batchtopk"
    seed: int = 0


@final
@dataclass(frozen=True, eq=False)
class Race:
    """A carried coder and its rivals.

    Attributes:
        coders: name -> coder of B: `carried`, and where it was tuned `carried and tuned` and `from scratch`.
        figures: name -> what was measured on held-out text, `in A` (the coder at home) first.
        tokens: how many each of the trained ones learned from.
    """

    coders: dict[str, Coder]
    figures: dict[str, Fidelity]
    tokens: int

    def plain(self) -> list[dict[str, Any]]:
        """Rows of a table: variance explained and unexplained, active latents a token, share of dead latents."""
        return [
            {"coder": name, "explained": each.explained, "fvu": each.fvu, "l0": each.l0, "dead": each.dead}
            for name, each in self.figures.items()
        ]


@torch.no_grad()
def carry_coder(bridge: Bridge, coder: Coder) -> Transcoder:
    """Carry a sparse autoencoder or transcoder over a bridge: `w_enc' = w_enc T_down^T`, `w_dec' = w_dec T_up`.

    Exact where the maps are: the carried coder gives B's states the latents that the coder gives A's.

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
    weights = {name: value.double() for name, value in coder.weights().items()}
    down, up = (each.to(weights["b_enc"].device, torch.float64) for each in (bridge.down(read), bridge.up(write)))
    dtype = coder.b_enc.dtype
    carried = {name: value.to(dtype) for name, value in _carried(weights, down, up).items()}
    made = Transcoder(bridge.partner(read), bridge.partner(write), coder.activation, carried, coder.prefixes)
    return made.requires_grad_(False)


def _carried(old: dict[str, torch.Tensor], down: Map, up: Map) -> dict[str, torch.Tensor]:
    """The weights of a carried coder."""
    bias = old["b_dec"]
    found = {
        "w_enc": down.pull(old["w_enc"]),
        "b_enc": old["b_enc"] + old["w_enc"] @ down.bias,
        "w_dec": up.push(old["w_dec"]),
    }
    if "w_skip" in old:
        found["w_skip"] = up.push(down.weight @ old["w_skip"])
        bias = bias + down.bias @ old["w_skip"]
    return found | {"b_dec": up(bias)}


def race(
    bridge: Bridge, coder: Coder, a: Model, b: Model, texts: Iterable[str], training: Training | None = None
) -> Race:
    """Carry a coder, tune it, train a rival of the same width and sparsity on the same tokens, and measure all.

    Args:
        bridge: from A to B.
        coder: of A.
        a: the coder's model.
        b: the other.
        texts: one in five measures, the others train.
        training: how; see its defaults.
    """
    bridge.check(a, b)
    documents, training = list(texts), training or Training()
    held = documents[HELD - 1 :: HELD]
    rest = [each for number, each in enumerate(documents) if number % HELD != HELD - 1]
    if not held:
        raise BadInput(f"One text in {HELD} is held out; give at least {HELD} texts.")
    carried = carry_coder(bridge, coder)
    coders: dict[str, Coder] = {"carried": carried}
    figures = {"in A": _measured(a, coder, held)}
    if training.steps:
        coders |= _trained(carried, b, rest, training, figures["in A"].l0)
    figures |= {name: _measured(b, each, held) for name, each in coders.items()}
    return Race(coders, figures, training.steps * training.batch)


def _trained(carried: Transcoder, b: Model, texts: Sequence[str], training: Training, l0: float) -> dict[str, Coder]:
    """The carried coder after tuning, and its rival, from the same batches."""
    sites = list(dict.fromkeys((*carried.reads, *carried.writes)))
    stream = Live(Contexts(b, list(texts), Reading()), sites, training.batch, training.seed)
    kind = "sae" if carried.reads == carried.writes else ("" if carried.skip() is None else "skip_") + "transcoder"
    axes = Axes([carried.d_latent], [max(1, round(l0))], [training.seed])
    (member,) = table(training.recipe, layouts(kind, sites), axes, stream, training.steps, {"rate": training.rate})
    fleet = Fleet([replace(member, name=name) for name in (CARRIED, SCRATCH)], stream, str(b.device))
    learner = fleet.trainees[0].learner
    take_up(learner, carried, fleet.scalings[member.objective.centred])
    found = fit(fleet).scope("race", b.name).coders
    return {name: found[name] for name in (CARRIED, SCRATCH) if name in found}


def _measured(model: Model, coder: Coder, texts: Sequence[str]) -> Fidelity:
    sites = list(dict.fromkeys(Site.parse(each) for each in (*coder.reads, *coder.writes)))
    documents = [model.tokens(each).tolist() for each in texts]
    return fidelity(coder, record(model, documents, sites, first=1).values)
