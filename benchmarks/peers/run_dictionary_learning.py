"""The trainers of dictionary_learning on activations in memory.

python run_dictionary_learning.py KIND D LATENTS THREADS    (KIND: topk, batchtopk, jumprelu)
"""

from importlib import import_module

from dictionary_learning.training import trainSAE
from feed import Feed, K, asked

trainers = {
    "topk": ("top_k", "TopKTrainer", {"k": K}),
    "batchtopk": ("batch_top_k", "BatchTopKTrainer", {"k": K}),
    "jumprelu": ("jumprelu", "JumpReluTrainer", {"sparsity_warmup_steps": None}),
}
kind, d, latents, threads = asked()
module, name, more = trainers[kind]
feed = Feed(d, threads)
common = {"steps": len(feed) + 10, "activation_dim": d, "dict_size": latents, "layer": 0, "lm_name": "none"}
trainer = getattr(import_module(f"dictionary_learning.trainers.{module}"), name)
config = {"trainer": trainer, "device": "cpu", "warmup_steps": 1, **common, **more}
trainSAE(feed, [config], steps=len(feed), device="cpu")
feed.mark()
feed.report()
