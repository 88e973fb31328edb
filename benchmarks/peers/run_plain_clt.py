"""A cross-layer transcoder by dense products: the plain loop that one would write first.

python run_plain_clt.py clt LAYERS LATENTS THREADS
"""

import torch
from feed import BATCH, RATE, Feed, K, asked
from torch.nn import functional

D = 256


def main() -> None:
    _, layers, latents, threads = asked()
    feed, batch = Feed(D, threads), BATCH // 2
    w_enc = [torch.randn(D, latents) * D**-0.5 for _ in range(layers)]
    w_dec = [torch.randn(latents, (layers - layer) * D) * 0.01 for layer in range(layers)]
    b_enc, b_dec = [torch.zeros(latents) for _ in range(layers)], torch.zeros(layers * D)
    parameters = [each.requires_grad_() for each in (*w_enc, *w_dec, *b_enc, b_dec)]
    optimiser = torch.optim.Adam(parameters, lr=RATE)
    for rows in feed:
        x = rows[:batch]
        written = b_dec
        for layer in range(layers):
            top = (x @ w_enc[layer] + b_enc[layer]).topk(K // 2, sorted=False)
            values = torch.zeros(batch, latents).scatter(-1, top.indices, top.values.relu())
            written = written + functional.pad(values @ w_dec[layer], (layer * D, 0))
        loss = (written - x.repeat(1, layers)).square().sum(-1).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
    feed.report()


main()
