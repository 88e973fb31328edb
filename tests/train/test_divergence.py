"""The loss of the replaced model, against a plain computation."""

import pytest
import torch

from glassworks.harvest import Rows, record
from glassworks.models import Model
from glassworks.sites import Site
from glassworks.train import (
    Adam,
    Divergence,
    Ramp,
    Rate,
    Reconstruction,
    Rectifier,
    Spec,
    Trainer,
    fit,
    layouts,
)

SITES = [Site(kind, layer) for kind in ("mlp_in", "mlp_out") for layer in (0, 1)]
DOCUMENTS = [[2, *torch.randint(3, 31, (5 + number % 3,)).tolist()] for number in range(40)]


def trainer(model: Model, kind: str, weight: float = 1.0, steps: int = 60) -> Trainer:
    terms = ((Ramp(weight), Reconstruction()),)
    adam = Adam(Rate(5e-3, 5, steps // 3))
    specs = [Spec(layout.name, layout, 48, Rectifier(), terms, adam, steps) for layout in layouts(kind, SITES)]
    return Trainer(specs, Rows(record(model, DOCUMENTS, SITES, 1), 64, 0.0, 0))


@pytest.mark.parametrize("kind", ["transcoder", "skip_transcoder", "clt"])
def test_the_divergence_is_that_of_a_model_with_coders_by_hand(tiny: Model, kind):
    made = trainer(tiny, kind)
    with torch.no_grad():
        for run in made.runs:
            for part in run.parts:
                if part.w_skip is not None:
                    part.w_skip.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    loss = Divergence(tiny, DOCUMENTS[:1], 9, first=1).loss(made, DOCUMENTS[:1], 0)
    coders = made.scope("a", "tiny")
    ids, kept, hooks = torch.tensor(DOCUMENTS[:1]), {}, []
    true = tiny.hf(ids).logits[0].log_softmax(-1)

    def write(layer: int):
        def hook(module, args, out):
            total = 0.0
            for coder in coders.coders.values():
                for part in coder.parts:
                    if Site("mlp_out", layer) in part.writes:
                        x, site = kept[part.reads[0].layer], Site("mlp_out", layer)
                        found, skip = part.decode(part.encode(x), site), part.skip(site)
                        total = total + found + (0.0 if skip is None else x @ skip)
            return torch.cat([out[:, :1], total[:, 1:]], 1)

        return hook

    for layer, block in enumerate(tiny.hf.model.layers):
        keep = lambda module, args, out, layer=layer: kept.update({layer: out})  # noqa: E731
        hooks.append(block.pre_feedforward_layernorm.register_forward_hook(keep))
        hooks.append(block.post_feedforward_layernorm.register_forward_hook(write(layer)))
    replaced = tiny.hf(ids).logits[0].log_softmax(-1)
    for hook in hooks:
        hook.remove()
    by_hand = (true.exp() * (true - replaced)).sum(-1).mean()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-3)


@pytest.mark.parametrize("kind", ["transcoder", "clt"])
@pytest.mark.slow
def test_training_on_it_lowers_the_divergence(tiny: Model, kind):
    made, joint = trainer(tiny, kind, 0.0), Divergence(tiny, DOCUMENTS, 200, first=1)
    before = float(joint.loss(made, DOCUMENTS, 0).detach())
    fit(made, auxiliary=joint)
    assert float(joint.loss(made, DOCUMENTS, 0).detach()) < 0.5 * before
    assert made.auxiliary["divergence"] > 0
    assert all(parameter.grad is None for parameter in tiny.hf.parameters())


def test_texts_are_of_similar_length_and_all_come(tiny: Model):
    documents = [[number] * (1 + number % 9) for number in range(200)]
    ours, again = Divergence(tiny, documents, 40, 0), Divergence(tiny, documents, 40, 1)
    drawn = set()
    for _ in range(300):
        batch = ours.draw()
        lengths = [len(text) for text in batch]
        assert max(lengths) - min(lengths) <= 8
        drawn |= {text[0] for text in batch}
    assert drawn == set(range(200))
    again.restore(ours.state())
    assert again.draw() == ours.draw()
    assert Divergence(tiny, [[1, 2]], 100).draw() == [[1, 2]]
