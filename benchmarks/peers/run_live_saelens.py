"""SAELens' trainer of many SAEs from one stream of a random GPT-2: one SAE for each layer that is named.

python run_live_saelens.py LAYERS D LATENTS THREADS WARM STEPS    (LAYERS: 5, or 0,1,2,3,4,5)

Its buffer holds two batches, so that every step needs one forward pass, as ours does.
"""

import datasets
import torch
from feed import BATCH, CONTEXT, HEADS, RATE, STEPS, VOCABULARY, WARM, Clock, K, asked
from sae_lens import TopKTrainingSAEConfig
from sae_lens.config import LoggingConfig
from sae_lens.multi_sae_training_runner import MultiSAETrainingRunner, MultiSAETrainingRunnerConfig
from transformer_lens import HookedTransformer, HookedTransformerConfig


class Timed:
    """A data loader whose requests are noted."""

    def __init__(self, loader, clock):
        self.loader, self.clock = loader, clock

    def __iter__(self):
        return self

    def __next__(self):
        self.clock.mark()
        return next(self.loader)


layers, d, latents, threads = asked()
torch.set_num_threads(threads)
torch.manual_seed(0)
shape = HookedTransformerConfig(
    n_layers=6, d_model=d, d_head=d // HEADS, n_heads=HEADS, d_mlp=4 * d, n_ctx=CONTEXT, d_vocab=VOCABULARY,
    act_fn="gelu_new", normalization_type="LN", device="cpu", seed=0,
)  # fmt: skip
tokens = {"tokens": torch.randint(VOCABULARY, (max(256, (WARM + STEPS + 4) * BATCH // CONTEXT), CONTEXT)).tolist()}
names = {f"layer{each}": f"blocks.{each}.hook_resid_post" for each in layers.split(",")}
plan = MultiSAETrainingRunnerConfig(
    saes={name: TopKTrainingSAEConfig(d_in=d, d_sae=latents, k=K, dtype="float32", device="cpu") for name in names},
    hook_names=names, context_size=CONTEXT, streaming=False, prepend_bos=False, device="cpu", lr=RATE,
    training_tokens=(WARM + STEPS) * BATCH, train_batch_size_tokens=BATCH, store_batch_size_prompts=BATCH // CONTEXT,
    n_batches_in_buffer=2 * BATCH // CONTEXT, logger=LoggingConfig(log_to_wandb=False),
    checkpoint_path=None, output_path=None,
)  # fmt: skip
runner = MultiSAETrainingRunner(plan, datasets.Dataset.from_dict(tokens), HookedTransformer(shape))
clock, load = Clock(), runner.activations_store.get_multi_hook_data_loader
runner.activations_store.get_multi_hook_data_loader = lambda: Timed(load(), clock)
runner.run()
clock.mark()
clock.report()
