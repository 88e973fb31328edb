"""Loss terms: each equals its formula, written out densely, and so do its gradients."""

from dataclasses import replace

import pytest
import torch

from glassworks.train import (
    L0,
    L1,
    AuxK,
    Dead,
    Frequency,
    Gated,
    GateL1,
    GateReconstruction,
    JumpReLU,
    QuadraticL0,
    Ramp,
    Reconstruction,
    Rectifier,
    Silence,
    Start,
    Tanh,
    TrainingRun,
)
from glassworks.train.gates import Jump

THRESHOLD, WIDTH = 0.4, 0.3


def dense(run: TrainingRun, batch, term):
    """The loss of a coder with one part, all of it dense and in plain formulas."""
    (part,) = run.parts
    x = part.joined(batch)
    y = torch.cat([batch[site.name] for site in run.writes], 1)
    pre = (x if run.centre is None else x - run.b_dec) @ part.w_enc.T + part.b_enc
    if isinstance(run.spec.gate, JumpReLU):
        t = part.learned["log_threshold"].exp()[None]
        f, on = Jump.apply(pre, t, WIDTH, False)
    elif isinstance(run.spec.gate, Gated):
        scale, bias = part.learned["r_mag"].exp(), part.learned["b_mag"]
        f = (scale * (pre - part.b_enc) + bias).relu() * (pre > 0)
        on = (f > 0).float()
    else:
        f, on, t = pre.relu(), (pre > 0).float(), torch.zeros(1)
    written, lengths = f @ part.w_dec + run.b_dec, part.w_dec.norm(dim=1)
    sites = len(run.writes)
    n = len(x)
    dead = part.dead.nonzero()[:, 0]
    match term:
        case Reconstruction():
            widths = run.spec.prefixes or (part.w_dec.shape[0],)
            return sum(((f[:, :w] @ part.w_dec[:w] + run.b_dec - y) ** 2).sum() / n / sites for w in widths) / len(
                widths
            )
        case L1(lengths=times):
            return (f * (lengths if times else 1)).sum() / n
        case L0():
            return on.sum() / n
        case QuadraticL0():
            return sum((row.sum() - 5.0) ** 2 / (2 * 5.0) for row in on) / n
        case Tanh(scale=c):
            return torch.tanh(c * f * lengths).sum() / n
        case Frequency(often=often):
            return ((on.sum(0) / n) ** 2).sum() / often
        case Silence():
            return ((t - pre).relu() * lengths).sum() / n
        case GateL1():
            return pre.relu().sum() / n
        case GateReconstruction():
            return ((pre.relu() @ part.w_dec.detach() + run.b_dec.detach() - y) ** 2).sum() / n / sites
        case AuxK(most=most):
            top = pre[:, dead].topk(min(most, len(dead)))
            straight = top.values + (top.values.relu() - top.values).detach()
            rows = (straight[..., None] * part.w_dec[dead][top.indices]).sum(1)
            return ((y - written).detach() - rows).pow(2).sum() / n / sites


CASES = [
    (Reconstruction(), {}),
    (Reconstruction(), {"prefixes": (5, 17, 60)}),
    (Reconstruction(), {"start": Start(pre_bias=True), "gate": JumpReLU(THRESHOLD, WIDTH)}),
    (L1(), {"gate": Rectifier()}),
    (L1(lengths=False), {"gate": Rectifier()}),
    (L0(), {}),
    (QuadraticL0(Ramp(5.0)), {}),
    (Tanh(2.0), {}),
    (Frequency(0.2), {}),
    (Silence(), {}),
    (GateL1(), {"gate": Gated()}),
    (GateReconstruction(), {"gate": Gated()}),
    (Reconstruction(), {"gate": Gated()}),
    (AuxK(3), {}),
]


@pytest.mark.parametrize("kind", ["sae", "crosscoder"])
@pytest.mark.parametrize("fires", [4.0, 25.0], ids=["sparse", "dense"])
@pytest.mark.parametrize(("term", "changes"), CASES, ids=lambda case: type(case).__name__)
def test_a_term_is_its_formula(spec, stream, kind, fires, term, changes):
    made = spec(kind=kind, **{"gate": JumpReLU(THRESHOLD, WIDTH)} | changes)
    start = replace(made.start, fires=fires)
    batch = stream(32).draw()
    batch = {name: (rows - rows.mean(0)) / rows.var(0).sum().sqrt() for name, rows in batch.items()}
    run = TrainingRun(replace(made, terms=((Ramp(1.0), term),), start=start, dead=Dead(10)), batch)
    run.parts[0].silent[:7] = 11
    with torch.no_grad():
        run.b_dec += torch.linspace(-0.1, 0.1, len(run.b_dec))
    found = term(run(batch, 0))
    wanted = dense(run, batch, term)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5, abs=1e-7)
    grads = torch.autograd.grad(found, run.parameters(), allow_unused=True, retain_graph=True)
    right = torch.autograd.grad(wanted, run.parameters(), allow_unused=True, retain_graph=True)
    for (name, parameter), mine, its in zip(run.named_parameters(), grads, right, strict=True):
        mine, its = (torch.zeros_like(parameter) if each is None else each for each in (mine, its))
        assert torch.allclose(mine, its, rtol=1e-4, atol=1e-5 * max(1.0, float(its.abs().max()))), name


def test_the_quadratic_penalty_equals_the_linear_one_at_twice_the_target():
    counts = torch.tensor([10.0], requires_grad=True)
    ((counts - 5.0) ** 2 / (2 * 5.0)).sum().backward()
    assert counts.grad.item() == 1.0
