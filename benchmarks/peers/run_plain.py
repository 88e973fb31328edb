"""The plain dense loop that one would write first: every product and every gradient dense.

python run_plain.py KIND D LATENTS THREADS    (KIND: topk, batchtopk, jumprelu)
"""

import torch
from feed import BATCH, RATE, Feed, K, asked
from torch.nn import functional

WIDTH = 0.05


class Jump(torch.autograd.Function):
    """JumpReLU with its threshold's straight-through gradient, and the step that counts L0."""

    @staticmethod
    def forward(ctx, pre, threshold):
        ctx.save_for_backward(pre, threshold)
        on = (pre > threshold).to(pre.dtype)
        return pre * on, on

    @staticmethod
    def backward(ctx, of_values, of_on):
        pre, threshold = ctx.saved_tensors
        near = ((pre - threshold).abs() < WIDTH / 2).to(pre.dtype) / WIDTH
        return of_values * (pre > threshold), -(near * (threshold * of_values + of_on)).sum(0)


def main() -> None:
    kind, d, latents, threads = asked()
    feed = Feed(d, threads)
    w_dec = functional.normalize(torch.randn(latents, d)) * 0.1
    weights = [w_dec.T.contiguous(), w_dec, torch.zeros(latents), torch.zeros(d), torch.full((latents,), 0.01)]
    w_enc, w_dec, b_enc, b_dec, threshold = (each.requires_grad_() for each in weights)
    parameters = [w_enc, w_dec, b_enc, b_dec] + [threshold] * (kind == "jumprelu")
    optimiser = torch.optim.Adam(parameters, lr=RATE)
    for x in feed:
        pre, penalty = (x - b_dec) @ w_enc + b_enc, 0.0
        if kind == "jumprelu":
            values, on = Jump.apply(pre, threshold)
            penalty = on.sum(-1).mean()
        else:
            flat = pre.relu() if kind == "topk" else pre.relu().flatten()
            top = flat.topk(K if kind == "topk" else K * BATCH, sorted=False)
            values = torch.zeros_like(flat).scatter(-1, top.indices, top.values).view_as(pre)
        loss = (values @ w_dec + b_dec - x).square().sum(-1).mean() + penalty
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
    feed.report()


main()
