"""Coders that train from one live stream of a random GPT-2: one coder for each layer that is named.

python run_live_glassworks.py LAYERS D LATENTS THREADS WARM STEPS    (LAYERS: 5, or 0,1,2,3,4,5)
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from feed import BATCH, CONTEXT, HEADS, STEPS, VOCABULARY, WARM, Clock, K, asked
from transformers import GPT2Config, GPT2LMHeadModel

from glassworks.harvest import Contexts, Live, Reading
from glassworks.models import Model
from glassworks.sites import Site
from glassworks.train import Trainer, grid, layouts


def main() -> None:
    layers, d, latents, threads = asked()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    shape = GPT2Config(n_layer=6, n_embd=d, n_head=HEADS, n_positions=CONTEXT, vocab_size=VOCABULARY)
    model = Model(GPT2LMHeadModel(shape).requires_grad_(False))
    documents = torch.randint(VOCABULARY, (256, CONTEXT)).tolist()
    sites = [Site("resid_post", int(each)) for each in layers.split(",")]
    reading = Reading(context=CONTEXT, untrained=())
    stream = Live(Contexts(model, documents, reading), sites, BATCH, buffer=2 * BATCH, tokens=BATCH)
    trainer = Trainer(grid("topk", layouts("sae", sites), stream, 1000, [latents], [K]), stream)
    clock = Clock()
    for step in range(WARM + STEPS):
        clock.mark()
        trainer.step(stream.draw(), step)
    clock.mark()
    clock.report()


main()
