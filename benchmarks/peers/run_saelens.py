"""SAELens' own trainer on activations in memory.

python run_saelens.py KIND D LATENTS THREADS    (KIND: topk, batchtopk, jumprelu)
"""

from feed import BATCH, RATE, Feed, K, asked
from sae_lens import (
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer

kind, d, latents, threads = asked()
sae_class, config, more = {
    "topk": (TopKTrainingSAE, TopKTrainingSAEConfig, {"k": K}),
    "batchtopk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, {"k": K}),
    "jumprelu": (JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig, {}),
}[kind]
feed = Feed(d, threads)
sae = sae_class(config(d_in=d, d_sae=latents, dtype="float32", device="cpu", **more))
plan = SAETrainerConfig(
    lr=RATE, lr_end=RATE / 10, total_training_samples=len(feed) * BATCH, train_batch_size_samples=BATCH,
    device="cpu", logger=LoggingConfig(log_to_wandb=False),
)  # fmt: skip
SAETrainer(cfg=plan, sae=sae, data_provider=feed).fit()
feed.mark()
feed.report()
