"""The objective on the replaced model, against a plain computation."""

import pytest
import torch

from glassworks.harvest import record
from glassworks.models import Model
from glassworks.sites import Site
from glassworks.train import Joint, Learner, Plan, Rate, Replaced, Sparsity, Stream, fit

READS, WRITES = [Site("mlp_in", 0), Site("mlp_in", 1)], [Site("mlp_out", 0), Site("mlp_out", 1)]
DOCUMENTS = [[2, *torch.randint(3, 31, (5 + number % 3,)).tolist()] for number in range(40)]


def learners(model: Model) -> list[Learner]:
    rows = record(model, DOCUMENTS, READS + WRITES, 1).values
    generator = torch.Generator().manual_seed(0)
    return [
        Learner(read, write, rows[read.name], rows[write.name], 48, generator)
        for read, write in zip(READS, WRITES, strict=True)
    ]


def test_the_divergence_is_that_of_a_model_with_coders_by_hand(tiny: Model):
    made = learners(tiny)
    for learner in made:  # keep everything that is positive, so that the choice depends on no batch
        learner.coder.requires_grad_(False)
    loss = Replaced(tiny, made, Sparsity(48), first=1).losses(DOCUMENTS[:1], 0.0)["divergence"]
    ids = torch.tensor(DOCUMENTS[:1])
    true = tiny.hf(ids).logits[0].log_softmax(-1)

    def stand(learner: Learner):
        def hook(module, args, out):
            coder, x = learner.coder, learner.read(kept[learner.coder.id])
            latents = torch.relu(coder.preactivations(x))
            written = learner.write.undo(latents @ coder.w_dec + coder.b_dec)
            return torch.cat([out[:, :1], written[:, 1:]], 1)

        return hook

    kept, hooks = {}, []
    for layer, learner in zip(tiny.hf.model.layers, made, strict=True):
        keep = lambda module, args, out, name=learner.coder.id: kept.update({name: out})  # noqa: E731
        hooks.append(layer.pre_feedforward_layernorm.register_forward_hook(keep))
        hooks.append(layer.post_feedforward_layernorm.register_forward_hook(stand(learner)))
    replaced = tiny.hf(ids).logits[0].log_softmax(-1)
    for hook in hooks:
        hook.remove()
    by_hand = (true.exp() * (true - replaced)).sum(-1).mean()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-4)


def test_training_on_it_lowers_the_divergence(tiny: Model):
    made = learners(tiny)
    objective = Joint([Replaced(tiny, made, Sparsity(8), first=1)])
    before = sum(each.item() for each in objective.losses([DOCUMENTS], 0.0).values())

    class Only(Stream):
        def draw(self):
            return [DOCUMENTS]

        def generators(self):
            return []

    fit(objective, Only(), Plan(40, Rate(5e-3, warmup=5)))
    after = sum(each.item() for each in objective.losses([DOCUMENTS], 0.0).values())
    assert after < 0.5 * before
    assert all(parameter.grad is None for parameter in tiny.hf.parameters())
