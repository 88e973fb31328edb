"""EleutherAI sparsify's own Trainer.fit, fed by a module that gives the batch in memory as its activations.

python run_sparsify.py KIND D LATENTS THREADS    (KIND: topk)
"""

import tempfile

import datasets
import torch
from feed import BATCH, Feed, K, asked
from sparsify import SaeConfig, TrainConfig, Trainer

kind, d, latents, threads = asked()
ROWS = 512


class Identity(torch.nn.Module):
    def forward(self, x):
        return x


class Model(torch.nn.Module):
    """As much of a language model as the trainer asks for."""

    device = torch.device("cpu")
    dummy_inputs = {"input_ids": torch.zeros(1, 4, dtype=torch.long)}  # noqa: RUF012
    base_model = property(lambda self: self)

    def __init__(self):
        super().__init__()
        self.act, self.live = Identity(), False

    def forward(self, input_ids):
        if not self.live:
            return self.act(torch.zeros(*input_ids.shape, d))
        return self.act(next(feed).view(BATCH // ROWS, ROWS, d))


feed, model = Feed(d, threads), Model()
tokens = {"input_ids": [[1] * ROWS] * (len(feed) * BATCH // ROWS)}
with tempfile.TemporaryDirectory() as folder:
    plan = TrainConfig(
        SaeConfig(num_latents=latents, k=K), batch_size=BATCH // ROWS, hookpoints=["act"], optimizer="adam",
        log_to_wandb=False, save_dir=folder, save_every=10**9, lr_warmup_steps=1,
    )  # fmt: skip
    trainer = Trainer(plan, datasets.Dataset.from_dict(tokens).with_format("torch"), model)
    trainer.save = lambda: None
    model.live = True
    trainer.fit()
feed.mark()
feed.report()
