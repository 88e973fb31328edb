"""The replaced model: perfect stand-ins recover all, means recover nothing, and positions are respected."""

import json

import pytest
import torch
import transformers

from glassworks.coders import Coder, Crosscoder, CrossLayer, JumpReLU, Scope, Transcoder
from glassworks.errors import BadInput
from glassworks.experiments import (
    Case,
    Coders,
    Constant,
    Experiment,
    Table,
    evaluate,
    kl,
    loss,
    replacement_sets,
    replacing,
)
from glassworks.harvest import pad
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


def lost(model: Model, coders: list[Transcoder], first: int = 0, answers: bool = False) -> Table:
    """Losses with coders in place, with their means and with zeros; coders act from a position on."""
    kept = [[position >= first for position in range(len(ids))] for ids in DOCUMENTS]
    rows = {coder.writes[0]: torch.cat([model.capture(ids, [coder.writes[0]])[str(coder.writes[0])][first:]
                                        for ids in DOCUMENTS]).mean(0) for coder in coders}  # fmt: skip
    arms = [Coders("replaced", coders), Constant("ablated", rows)]

    def last(batch):
        return (batch.place == batch.lengths[:, None] - 1).double()

    metrics = [loss(marks=last if answers else None), kl()]
    return Experiment(model, [Case(ids, kept=marks) for ids, marks in zip(DOCUMENTS, kept, strict=True)], arms,
                      metrics).run()  # fmt: skip


def means(model: Model, coders: list[Transcoder], first: int) -> list[Transcoder]:
    silent = []
    for coder in coders:
        site = coder.writes[0]
        rows = torch.cat([model.capture(ids, [site])[str(site)][first:] for ids in DOCUMENTS])
        weights = coder.weights() | {"b_dec": rows.mean(0)}
        gate = JumpReLU(torch.full((coder.d_latent,), 1e9))
        silent.append(Transcoder(coder.reads[0], site, gate, weights).requires_grad_(False))
    return silent


@pytest.mark.parametrize("first", [0, 1])
def test_exact_coders_recover_all_and_means_nothing(model: Model, first: int):
    coders = [exact(model, layer) for layer in range(2)]
    best = lost(model, coders, first)
    assert best.value("loss", "replaced") == pytest.approx(best.value("loss"), abs=1e-5)
    assert best.recovered("loss", "replaced", "ablated").value == pytest.approx(1.0, abs=1e-3)
    worst = lost(model, means(model, coders, first), first)
    assert worst.value("loss", "replaced") == pytest.approx(worst.value("loss", "ablated"), abs=1e-6)
    assert worst.recovered("loss", "replaced", "ablated").value == pytest.approx(0.0, abs=1e-4)


def test_the_true_loss_is_that_of_transformers(model: Model):
    total, count = 0.0, 0
    for each in DOCUMENTS:
        ids = torch.tensor([each])
        total += float(model.hf(ids, labels=ids).loss.double()) * (len(each) - 1)
        count += len(each) - 1
    assert lost(model, [exact(model, 0)]).value("loss") == pytest.approx(total / count, rel=1e-5)


def test_answers_are_counted_alone(model: Model):
    losses = []
    for each in DOCUMENTS:
        logits = model.hf(torch.tensor([each])).logits[0, -2].double()
        losses.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor(each[-1]))))
    measured = lost(model, [exact(model, 0)], answers=True)
    assert measured.value("loss") == pytest.approx(sum(losses) / len(losses), rel=1e-5)


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
    found = evaluate(model, scope, DOCUMENTS, [[True] * len(each) for each in DOCUMENTS])
    assert found["recovered"] == pytest.approx(1.0, abs=1e-3)
    assert found["recovered_answers"] == pytest.approx(found["recovered"])
    assert set(found["coders"]) == {"mlp_in.0", "mlp_in.1"}
    assert found["coders"]["mlp_in.0"]["fvu"] < 1e-9
    assert found["coders"]["mlp_in.0"]["tokens"] == sum(len(each) - 1 for each in DOCUMENTS)


def both(*maps: torch.Tensor) -> torch.Tensor:
    """The decoder of positive and negative parts of an input, for one linear map or several side by side."""
    return torch.cat([torch.cat(maps, 1), -torch.cat(maps, 1)])


def two_sided(reads: list[Site], writes: dict[Site, torch.Tensor], biases: dict[Site, torch.Tensor]) -> Crosscoder:
    """A crosscoder that is exactly linear: two latents for each input."""
    width = WIDTH * len(reads)
    weights = {"w_enc": torch.cat([torch.eye(width), -torch.eye(width)]), "b_enc": torch.zeros(2 * width)}
    weights |= {f"w_dec.{site}": both(each) for site, each in writes.items()}
    weights |= {f"b_dec.{site}": each for site, each in biases.items()}
    gate = JumpReLU(torch.zeros(2 * width))
    return Crosscoder(reads, list(writes), gate, weights).requires_grad_(False)


def linear(model: Model, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    mlp = model.hf.transformer.h[layer].mlp
    return mlp.c_fc.weight @ mlp.c_proj.weight, mlp.c_fc.bias @ mlp.c_proj.weight + mlp.c_proj.bias


def exact_joint(model: Model) -> dict[str, Coder]:
    """A coder of every kind that loses nothing."""
    ins, outs, stream = ([Site(kind, n) for n in range(2)] for kind in ("mlp_in", "mlp_out", "resid_post"))
    (through0, bias0), (through1, bias1) = linear(model, 0), linear(model, 1)
    zero, eye, none = torch.zeros(WIDTH, WIDTH), torch.eye(WIDTH), torch.zeros(WIDTH)
    clt = [
        two_sided(ins[:1], {outs[0]: through0, outs[1]: zero}, {outs[0]: bias0}),
        two_sided(ins[1:], {outs[1]: through1}, {outs[1]: bias1}),
    ]
    split = {stream[n]: torch.cat([eye if n == m else zero for m in range(2)]) for n in range(2)}
    sae = {"w_enc": both(eye), "b_enc": torch.zeros(2 * WIDTH), "w_dec": both(eye), "b_dec": none}
    gate = JumpReLU(torch.zeros(2 * WIDTH))
    skip = {"w_enc": eye, "b_enc": none - 9e9, "w_dec": eye, "b_dec": bias1, "w_skip": through1}
    return {
        "clt": CrossLayer(clt),
        "crosscoder": two_sided(stream, split, {}),
        "sae": Transcoder(stream[0], stream[0], gate, sae).requires_grad_(False),
        "skip": Transcoder(ins[1], outs[1], JumpReLU(torch.zeros(WIDTH)), skip).requires_grad_(False),
    }


def test_every_kind_replaces_activations(model: Model):
    coders = exact_joint(model)
    scope = Scope("s", "linear", coders, ["clt"])
    found = evaluate(model, scope, DOCUMENTS)
    for name in coders:
        each = found["coders"][name]
        assert each["fvu"] < 1e-9
        assert each["loss"]["kl"] < 1e-9
        assert each["loss"]["recovered"] == pytest.approx(1.0, abs=1e-3)
        assert each["loss"]["replaced"] == pytest.approx(each["loss"]["true"], abs=1e-5)
        assert each["loss"]["kl_ablated"] > 0.001
    assert found["recovered"] == pytest.approx(found["coders"]["clt"]["loss"]["recovered"])
    assert set(found["sets"]) == {"replacement"}
    json.dumps(found)


def test_later_layers_read_the_replaced_model(model: Model):
    """With layer 0 zeroed, an exact coder of layer 1 gives what the model itself gives then."""
    silent = exact(model, 0)
    silent.activation = JumpReLU(torch.full((silent.d_latent,), 1e9))
    silent.b_dec.zero_()
    zero = Constant("zero", {Site("mlp_out", 0): torch.zeros(WIDTH)})
    arms = [zero, Coders("both", [silent, exact(model, 1)])]
    measured = Experiment(model, [Case(ids) for ids in DOCUMENTS], arms, [kl("token"), loss("token")]).run()
    losses = [measured.where(metric="loss token", intervention=name)["value"] for name in ("zero", "both")]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert measured.where(metric="kl token", intervention="zero")["value"].max() > 1e-3


def test_what_lies_ahead_is_read_from_the_unchanged_model(model: Model):
    coder = exact_joint(model)["crosscoder"]
    first, last = coder.writes
    assert Coders("both", [coder]).reads == [last]
    assert not Coders("last", [coder], [last]).reads
    ids, real = pad(DOCUMENTS[:4])
    seen = {}
    clean, look = {last: torch.full((int(real.sum()), WIDTH), 7.0)}, {first: lambda value: seen.update(value=value)}
    with replacing(model, {(last, first): lambda x, y: x}, real, clean), model.tapped(look):
        model.hf(ids)
    assert (seen["value"][real] == 7.0).all()


def test_losses_are_their_formulas(model: Model):
    site = Site("mlp_out", 1)
    arms = [Constant("zero", {site: torch.zeros(WIDTH)})]
    measured = Experiment(model, [Case(ids) for ids in DOCUMENTS], arms, [loss(), kl()]).run()
    losses, divergences = [], []
    for each in DOCUMENTS:
        ids = torch.tensor([each])
        p = model.hf(ids).logits[0, :-1].double().log_softmax(-1)
        with model.tapped({site: lambda value: value * 0}):
            q = model.hf(ids).logits[0, :-1].double().log_softmax(-1)
        losses += (-q[torch.arange(len(each) - 1), ids[0, 1:]]).tolist()
        divergences += (p.exp() * (p - q)).sum(1).tolist()
    assert int(measured.where(metric="loss", intervention="zero")["weight"].sum()) == len(losses)
    assert measured.value("loss", "zero") == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    assert measured.value("kl", "zero") == pytest.approx(sum(divergences) / len(losses), rel=1e-5)
    assert measured.value("kl") == pytest.approx(0.0, abs=1e-12)


def test_figures_have_intervals_and_strata(model: Model):
    coder = exact(model, 0)
    coder.b_dec.add_(0.3)
    scope = Scope("s", "linear", {coder.id: coder}, [])
    found = evaluate(model, scope, DOCUMENTS)["coders"][coder.id]["loss"]
    for name, value in (("share", found["recovered"]), ("kl", found["kl"]), ("replaced", found["replaced"])):
        low, high = found["intervals"][name]
        assert low < value < high
    for name in ("position", "frequency"):
        strata = found["strata"][name].values()
        assert sum(stratum["tokens"] for stratum in strata) == found["tokens"]
        for figure in ("kl", "true", "replaced"):
            mean = sum(stratum["tokens"] * stratum[figure] for stratum in strata) / found["tokens"]
            assert mean == pytest.approx(found[figure])


def test_sets_are_alike_in_all_but_their_layer(model: Model):
    joint = exact_joint(model)
    alike = {f"mlp_in.{layer}": exact(model, layer) for layer in range(2)}
    scope = Scope("s", "linear", {**alike, "sae": joint["sae"], "clt": joint["clt"]}, [])
    assert replacement_sets(scope, list(scope)) == {"transcoder mlp_in mlp_out 32": ["mlp_in.0", "mlp_in.1"]}
    scope.replacement = ["mlp_in.0", "mlp_in.1"]
    assert replacement_sets(scope, list(scope)) == {"replacement": scope.replacement}
    assert replacement_sets(scope, ["mlp_in.0"]) == {}


def test_two_coders_cannot_replace_one_site(model: Model):
    with pytest.raises(BadInput, match=r"Several coders write at mlp_out\.0; only one"):
        Coders("two", [exact(model, 0), exact_joint(model)["clt"]])
