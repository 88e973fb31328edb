"""The replaced model: perfect stand-ins recover all, means recover nothing, and positions are respected."""

import pytest
import torch
import transformers

from glassworks.coders import JumpReLU, Scope, Transcoder
from glassworks.evals import measure, recovered, replacing
from glassworks.harvest import pad, record
from glassworks.models import Model
from glassworks.sites import Site

DOCUMENTS = [
    [2, *torch.randint(3, 31, (6 + n % 4,), generator=torch.Generator().manual_seed(n)).tolist()] for n in range(30)
]
WIDTH = 16


@pytest.fixture(scope="module")
def model() -> Model:
    """A model whose MLPs are one linear map each, so that a coder can be exact."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=31, n_embd=WIDTH, n_layer=2, n_head=2, n_positions=32, activation_function="linear"
    )
    hf = transformers.GPT2LMHeadModel(config).requires_grad_(False)
    for parameter in hf.parameters():
        parameter.copy_(parameter + 0.2 * torch.randn_like(parameter))
    return Model(hf, name="linear")


def exact(model: Model, layer: int) -> Transcoder:
    """Two latents for each input, its positive and its negative part: the linear map without loss."""
    mlp = model.hf.transformer.h[layer].mlp
    through = mlp.c_fc.weight @ mlp.c_proj.weight
    eye = torch.eye(WIDTH)
    weights = {
        "w_enc": torch.cat([eye, -eye]),
        "b_enc": torch.zeros(2 * WIDTH),
        "w_dec": torch.cat([through, -through]),
        "b_dec": mlp.c_fc.bias @ mlp.c_proj.weight + mlp.c_proj.bias,
    }
    gate = JumpReLU(torch.zeros(2 * WIDTH))
    return Transcoder(Site("mlp_in", layer), Site("mlp_out", layer), gate, weights).requires_grad_(False)


def sites(coders):
    return [site for coder in coders for site in (coder.reads[0], coder.writes[0])]


def means(coders, recording):
    silent = []
    for coder in coders:
        weights = coder.weights() | {"b_dec": recording.values[coder.writes[0].name].mean(0)}
        gate = JumpReLU(torch.full((coder.d_latent,), 1e9))
        silent.append(Transcoder(coder.reads[0], coder.writes[0], gate, weights).requires_grad_(False))
    return silent


@pytest.mark.parametrize("first", [0, 1])
def test_exact_coders_recover_all_and_means_nothing(model: Model, first: int):
    coders = [exact(model, layer) for layer in range(2)]
    recording = record(model, DOCUMENTS, sites(coders), first)
    best = recovered(model, coders, DOCUMENTS, recording, None, first)
    assert best.replaced == pytest.approx(best.true, abs=1e-5)
    assert best.share == pytest.approx(1.0, abs=1e-3)
    worst = recovered(model, means(coders, recording), DOCUMENTS, recording, None, first)
    assert worst.replaced == pytest.approx(worst.ablated, abs=1e-6)
    assert worst.share == pytest.approx(0.0, abs=1e-4)


def test_the_true_loss_is_that_of_transformers(model: Model):
    coders = [exact(model, 0)]
    recording = record(model, DOCUMENTS, sites(coders))
    total, count = 0.0, 0
    for each in DOCUMENTS:
        ids = torch.tensor([each])
        total += float(model.hf(ids, labels=ids).loss.double()) * (len(each) - 1)
        count += len(each) - 1
    assert recovered(model, coders, DOCUMENTS, recording).true == pytest.approx(total / count, rel=1e-5)


def test_answers_are_counted_alone(model: Model):
    coders = [exact(model, 0)]
    recording = record(model, DOCUMENTS, sites(coders))
    last = [[False] * (len(each) - 1) + [True] for each in DOCUMENTS]
    losses = []
    for each in DOCUMENTS:
        logits = model.hf(torch.tensor([each])).logits[0, -2].double()
        losses.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor(each[-1]))))
    measured = recovered(model, coders, DOCUMENTS, recording, last).true
    assert measured == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_positions_that_are_not_real_keep_their_own(model: Model):
    ids, real = pad(DOCUMENTS[:3])
    real[:, 0] = False
    seen = {}
    read, write = Site("mlp_in", 0), Site("mlp_out", 0)
    after = {Site("resid_post", 0): lambda value: seen.update(after=value), write: lambda value: seen.update(out=value)}
    with replacing(model, {(read, write): lambda x, y: torch.zeros_like(y)}, real), model.tapped(after):
        model.hf(ids)
    assert (seen["out"][real] == 0).all()
    assert (seen["out"][~real] != 0).any(-1).all()


def test_measure_gives_plain_values(model: Model):
    coders = [exact(model, layer) for layer in range(2)]
    scope = Scope("s", "linear", {each.id: each for each in coders}, [each.id for each in coders], untrained=("bos",))
    found = measure(model, scope, DOCUMENTS, [[True] * len(each) for each in DOCUMENTS])
    assert found["recovered"] == pytest.approx(1.0, abs=1e-3)
    assert found["recovered_answers"] == pytest.approx(found["recovered"])
    assert set(found["coders"]) == {"mlp_in.0", "mlp_in.1"}
    assert found["coders"]["mlp_in.0"]["fvu"] < 1e-9
    assert found["coders"]["mlp_in.0"]["tokens"] == sum(len(each) - 1 for each in DOCUMENTS)
