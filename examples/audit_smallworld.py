"""Audit the coders of smallworld: how faithful are they, beside what costs as little and knows less?

    python examples/audit_smallworld.py

Every layer's transcoder replaces its MLP. So do, with as many active numbers a token: random directions and the
MLP's own neurons, both with the best decoder that least squares finds, and the principal components of the MLP's
output, which see the very thing that they reconstruct. Intervals resample documents.
"""

from itertools import islice

import torch

import glassworks as gw
from glassworks import smallworld
from glassworks.coders import Coder, ReLU, TopK, Transcoder
from glassworks.experiments import Case, Coders, Constant, Experiment, fvu, kl, l0, loss
from glassworks.harvest import record

FIT, TEST = 400, 120
RIDGE = 1e-3


def documents(model: gw.Model, count: int, split: str) -> list[list[int]]:
    """Documents of the small world, as ids."""
    texts = (document.text for document in smallworld.stream(1001, 0, split))
    return [model.tokens(text).tolist() for text in islice(texts, count)]


def fitted(read: gw.Site, write: gw.Site, encoder: torch.Tensor, k: int, rows: dict[str, torch.Tensor]) -> Coder:
    """A coder with a given encoder, k active latents a token, and the decoder that fits best."""
    x, y = rows[str(read)], rows[str(write)]
    bias = -(x.mean(0) @ encoder.T)
    zero = torch.zeros(len(encoder), y.shape[1])
    coder = Transcoder(read, write, TopK(k), {"w_enc": encoder, "b_enc": bias, "w_dec": zero, "b_dec": y.mean(0)})
    latents = torch.cat([coder.encode(x).dense(), torch.ones(len(x), 1)], 1).detach().double()
    gram = latents.T @ latents
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    decoder = torch.linalg.solve(gram + ridge, latents.T @ y.double()).float()
    weights = {"w_enc": encoder, "b_enc": bias, "w_dec": decoder[:-1], "b_dec": decoder[-1]}
    return Transcoder(read, write, TopK(k), weights).requires_grad_(False)


def components(write: gw.Site, k: int, rows: dict[str, torch.Tensor]) -> Coder:
    """The first k principal components at a site, each as a pair of latents: one for either sign."""
    y = rows[str(write)]
    axes = torch.linalg.svd(y - y.mean(0), full_matrices=False).Vh[:k]
    both = torch.cat([axes, -axes])
    weights = {"w_enc": both, "b_enc": -(both @ y.mean(0)), "w_dec": both, "b_dec": y.mean(0)}
    return Transcoder(write, write, ReLU(), weights).requires_grad_(False)


def main() -> None:
    """Print, of each kind of coder, what it leaves unexplained, and what the model's prediction loses."""
    model, scope = gw.load_model("smallworld"), gw.load_scope("smallworld")
    transcoders = [scope[name] for name in scope.replacement]
    neurons = [gw.Site("mlp_neurons", layer) for layer in range(model.n_layers)]
    sites = {site for coder in transcoders for site in (*coder.reads, *coder.writes)} | set(neurons)
    rows = record(model, documents(model, FIT, "train"), sorted(sites), first=1).values

    kinds: dict[str, list[Coder]] = {"transcoders": transcoders, "neurons": [], "random": [], "components": []}
    generator = torch.Generator().manual_seed(0)
    for coder, neuron in zip(transcoders, neurons, strict=True):
        read, write = coder.reads[0], coder.writes[0]
        k = round(float(coder.encode(rows[str(read)]).counts.float().mean()))
        directions = torch.randn(coder.d_latent, model.d_model, generator=generator)
        identity = torch.eye(rows[str(neuron)].shape[1])
        kinds["neurons"].append(fitted(neuron, write, torch.cat([identity, -identity]), k, rows))
        kinds["random"].append(fitted(read, write, directions / directions.norm(dim=1, keepdim=True), k, rows))
        kinds["components"].append(components(write, k, rows))

    means = {coder.writes[0]: rows[str(coder.writes[0])].mean(0) for coder in transcoders}
    test = documents(model, TEST, "held_out")
    cases = [Case(ids, kept=[False] + [True] * (len(ids) - 1)) for ids in test]  # coders never saw <bos>
    arms = [*(Coders(kind, coders) for kind, coders in kinds.items()), Constant("mean", means)]
    lost = Experiment(model, cases, arms, [loss(), kl()]).run()
    print(f"{'in the place of all MLPs':<26}{'loss':<26}{'KL, nats a token':<30}loss recovered")
    for kind in kinds:
        print(f"{kind:<26}{lost.mean('loss', kind)!s:<26}{lost.mean('kl', kind)!s:<30}"
              f"{lost.recovered('loss', kind, 'mean')}")  # fmt: skip

    metrics = [
        metric
        for kind, coders in kinds.items()
        for layer, coder in enumerate(coders)
        for metric in (
            fvu(coder, means[coder.writes[0]], name=f"FVU {kind} {layer}"),
            l0(coder, name=f"L0 {kind} {layer}"),
        )
    ]
    table = Experiment(model, cases, [], metrics).run()
    print("\nvariance unexplained, and active latents a token, by layer")
    for kind, coders in kinds.items():
        for layer in range(len(coders)):
            print(
                f"  {f'{kind} {layer}':<24}{table.mean(f'FVU {kind} {layer}')!s:<32}{table.mean(f'L0 {kind} {layer}')}"
            )


if __name__ == "__main__":
    main()
