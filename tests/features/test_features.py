"""Evidence against brute force on a tiny model; labels word for word."""

import pytest
import torch

from glassworks.coders import Evidence, JumpReLU, Scope, Transcoder
from glassworks.features import collect, describe, labels
from glassworks.features.collect import AFTER, BEFORE, EXAMPLES, LOGITS
from glassworks.features.tokens import DOUBT, LIFT, TELLING
from glassworks.models import Model
from glassworks.sites import Site
from tests.tiny import tiny_gemma3

READ, WRITE = Site("mlp_in", 1), Site("mlp_out", 1)
DOCUMENTS = [
    [2, *torch.randint(3, 12, (3 + n % 5,), generator=torch.Generator().manual_seed(n)).tolist()] for n in range(60)
]


@pytest.fixture(scope="module")
def model() -> Model:
    hf = tiny_gemma3(40)
    hf.model.norm.weight.copy_(0.5 * torch.randn(16))
    return Model(hf, name="tiny")


@pytest.fixture(scope="module")
def scope() -> Scope:
    torch.manual_seed(1)
    weights = {
        "w_enc": torch.randn(20, 16),
        "b_enc": torch.zeros(20),
        "w_dec": torch.randn(20, 16),
        "b_dec": torch.zeros(16),
    }
    weights["b_enc"][19] = -1e6  # never active
    coder = Transcoder(READ, WRITE, JumpReLU(torch.full((20,), 4.0)), weights).requires_grad_(False)
    return Scope("s", "tiny", {coder.id: coder}, [coder.id], untrained=("bos",))


@pytest.fixture(scope="module")
def dense(model: Model, scope: Scope) -> list[torch.Tensor]:
    """Activations of each document without its first token, one document at a time."""
    coder = scope["mlp_in.1"]
    return [coder.encode(model.capture(each, [READ])[READ.name][1:]).dense() for each in DOCUMENTS]


@pytest.fixture(scope="module")
def evidence(model: Model, scope: Scope) -> Evidence:
    return collect(model, scope, DOCUMENTS)["mlp_in.1"]


def test_density_and_maximum(evidence: Evidence, dense):
    rows = torch.cat(dense)
    assert torch.allclose(evidence.density, (rows > 0).float().mean(0))
    assert torch.allclose(evidence.max_activation, rows.max(0).values, atol=1e-4)
    assert evidence.density[19] == 0


def slow(dense, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean per occurrence and rank of each token for each latent, token by token."""
    sums, counts = torch.zeros(40, 20), torch.zeros(40)
    for each, acts in zip(DOCUMENTS, dense, strict=True):
        for place, token in enumerate(each[1:]):
            counts[token] += 1
            span = {"on": acts[place : place + 1], "since": acts[place:], "until": acts[:place]}[kind]
            sums[token] += span.max(0).values if len(span) else 0.0
    means, share = sums / (counts + DOUBT)[:, None], sums / sums.sum(0).clamp_min(1e-9)
    lift = (share / (sums.sum(1, keepdim=True) / sums.sum()).clamp_min(1e-9)).clamp_min(1e-9)
    present = sums / sums.max(0).values.clamp_min(1e-9)
    telling = (lift > TELLING[0]) & (present > TELLING[1])
    later = sums * lift.log() * (lift > LIFT)
    return means, {"on": means * sums, "since": present * lift.log() * (lift > LIFT) + 1e3 * telling, "until": later}[
        kind
    ]


@pytest.mark.parametrize(
    ("kind", "name"), [("on", "top_token_ids"), ("since", "context_token_ids"), ("until", "following_token_ids")]
)
def test_tokens_that_go_with_a_latent(evidence: Evidence, dense, kind: str, name: str):
    means, rank = slow(dense, kind)
    for latent in range(19):
        ids = getattr(evidence, name)[latent]
        found = ids[ids >= 0]
        assert len(found) or kind != "on"
        assert torch.allclose(rank[found, latent], rank[:, latent].topk(len(found)).values, rtol=1e-3)
        if kind == "on":
            assert torch.allclose(evidence.top_token_weights[latent][: len(found)], means[found, latent], atol=1e-4)
    assert (getattr(evidence, name)[19] == -1).all()


def test_examples_are_true_windows_and_the_strongest_comes_first(evidence: Evidence, dense):
    for latent in range(19):
        peak = evidence.example_activations[latent, :, BEFORE]
        assert peak[0] == pytest.approx(float(evidence.max_activation[latent]), abs=1e-4)
        for tokens, values in zip(evidence.example_tokens[latent], evidence.example_activations[latent], strict=True):
            if tokens[BEFORE] < 0:
                continue
            inside = tokens >= 0
            documents = zip(DOCUMENTS, dense, strict=True)
            assert any(matches(each[1:], acts[:, latent], tokens, values, inside) for each, acts in documents)
    assert evidence.example_tokens.shape == (20, EXAMPLES, BEFORE + 1 + AFTER)
    assert (evidence.example_tokens[19] == -1).all()


def matches(document, acts, tokens, values, inside) -> bool:
    """Whether a window is what surrounds some place of a document."""
    for place in range(len(document)):
        low, high = max(0, place - BEFORE), min(len(document), place + AFTER + 1)
        same = document[low:high] == tokens[inside].tolist() and bool(inside[BEFORE - (place - low)])
        if same and torch.allclose(acts[low:high], values[inside], atol=1e-4):
            return True
    return False


def test_examples_of_a_latent_differ(evidence: Evidence):
    for latent in range(19):
        windows = [tuple(each[BEFORE - 3 : BEFORE + 1].tolist()) for each in evidence.example_tokens[latent]]
        there = [each for each in windows if each[-1] >= 0]
        assert len(set(there)) == len(there)


def test_logits_are_those_of_the_model_without_its_norm_scale(model: Model, scope: Scope, evidence: Evidence):
    norm = model.hf.model.norm
    for latent in (0, 7):
        row = scope["mlp_in.1"].decoder_rows(torch.tensor([latent]))[0]
        logits = model.hf.lm_head(row * (1.0 + norm.weight))
        assert torch.allclose(evidence.top_logit_values[latent], logits.topk(LOGITS).values, atol=1e-4)
        assert torch.equal(evidence.top_logit_ids[latent], logits.topk(LOGITS).indices)
        assert torch.equal(evidence.bottom_logit_ids[latent], (-logits).topk(LOGITS).indices)


def test_the_same_text_gives_the_same_evidence(model: Model, scope: Scope, evidence: Evidence):
    again = collect(model, scope, DOCUMENTS)["mlp_in.1"]
    assert all(torch.equal(value, again.tensors()[name]) for name, value in evidence.tensors().items())


def word(token: int) -> str:
    return "ABCDEFGHIJKLMNO "[token]


def one(**changes) -> Evidence:
    row = {
        "density": torch.tensor([0.1]),
        "max_activation": torch.tensor([4.0]),
        "example_tokens": torch.zeros(1, 1, 1, dtype=torch.long),
        "example_activations": torch.zeros(1, 1, 1),
        "top_token_ids": torch.tensor([[0, 1, 2, 3]]),
        "top_token_weights": torch.tensor([[3.0, 2.0, 1.0, 1.0]]),
        "context_token_ids": torch.tensor([[4, 5, -1, -1]]),
        "following_token_ids": torch.tensor([[6, 7, 8, -1]]),
        "top_logit_ids": torch.tensor([[9, 10, 11]]),
        "top_logit_values": torch.tensor([[5.0, 1.1, 1.0]]),
        "bottom_logit_ids": torch.tensor([[12, 13, 14]]),
        "bottom_logit_values": torch.tensor([[-1.4, -1.2, -1.0]]),
    }
    return Evidence(**(row | changes))


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({}, "A, B, C -> J"),
        ({"top_logit_values": torch.tensor([[5.0, 4.0, 1.0]])}, "A, B, C -> J, K"),
        ({"top_logit_values": torch.tensor([[1.2, 1.1, 1.0]])}, "A, B, C ~> G, H, I"),
        ({"top_token_weights": torch.tensor([[0.5, 0.4, 0.3, 0.2]])}, "E, F .. A -> J"),
        ({"top_token_ids": torch.full((1, 4), -1), "top_token_weights": torch.zeros(1, 4)}, "E, F -> J"),
        ({"context_token_ids": torch.full((1, 4), -1), "top_token_weights": torch.zeros(1, 4)}, "A, B, C -> J"),
        ({"top_token_ids": torch.tensor([[15, 1, -1, -1]])}, "' ', B -> J"),
        ({"density": torch.tensor([0.0])}, ""),
    ],
)
def test_labels(changes, label: str):
    assert labels(word, one(**changes)) == [label]


def test_describe_fills_the_scope(model: Model, scope: Scope):
    assert describe(model, scope, DOCUMENTS) is scope
    assert len(scope.labels["mlp_in.1"]) == 20
    assert scope.labels["mlp_in.1"][19] == ""
    assert all(scope.labels["mlp_in.1"][:19])
    assert scope.evidence("mlp_in.1") is not None
