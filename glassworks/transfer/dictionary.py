"""Dictionaries: the features of a scope's coders as one table with consecutive numbers.

Matching searches among all features of a model, so coders are laid side by side. A dictionary also makes its own null:
a random twin, whose features are active as often.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassworks.coders import Coder, Crosscoder, JumpReLU, Latents, Scope
from glassworks.errors import BadInput, NotFound, nearest
from glassworks.sites import Site

SILENT = 3e38
"""Threshold of a latent that was never active."""


@final
@dataclass(frozen=True, eq=False)
class Dictionary:
    """Coders side by side.

    Attributes:
        coders: by name, in the order of their features.
        labels: name of a coder -> one label a latent, where there are any.
    """

    coders: Mapping[str, Coder]
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, scope: Scope, chosen: str = "") -> "Dictionary":
        """Take coders of a scope, joint ones in their parts.

        Args:
            scope: the coders.
            chosen: the name of a coder, or else a site, or a kind of site or coder: `mlp_in`, `resid_post.2`, `clt`;
                by default the scope's replacement, or all where it has none.

        Raises:
            NotFound: nothing fits.
        """

        def words_of(reads: Sequence[Site]) -> set[str]:
            return {word for site in reads for word in (site.name, site.kind)}

        words = {entry.name: {entry.name, entry.kind, *words_of(entry.reads)} for entry in scope.entries}
        fitting = [chosen] if chosen in words else [name for name, own in words.items() if chosen in own]
        names = fitting if chosen else scope.replacement or [*scope]
        if not names:
            known = sorted(set().union(*words.values()))
            raise NotFound(f"The scope {scope.name} has no coder {chosen!r}; {nearest(chosen, known)}.")
        coders: dict[str, Coder] = {}
        for name in names:
            parts = scope[name].parts
            some = [part for part in parts if chosen in words_of(part.reads)] or parts
            coders |= {name: scope[name]} if len(parts) == 1 else {part.id: part for part in some}
        return cls(coders, scope.labels)

    @property
    def names(self) -> tuple[str, ...]:
        """The coders' names."""
        return tuple(self.coders)

    @property
    def sites(self) -> list[Site]:
        """What they read, each site once."""
        return list(dict.fromkeys(site for coder in self.coders.values() for site in coder.reads))

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Number of each coder's first feature, and how many there are."""
        return tuple(accumulate((coder.d_latent for coder in self.coders.values()), initial=0))

    @property
    def width(self) -> int:
        """How many features there are."""
        return self.starts[-1]

    @cached_property
    def home(self) -> Int[Tensor, " feature"]:
        """Number of the coder of each feature."""
        widths = torch.tensor([coder.d_latent for coder in self.coders.values()])
        return torch.arange(len(widths)).repeat_interleave(widths)

    def place(self, feature: int) -> tuple[str, int]:
        """Coder and latent of a feature."""
        coder = int(self.home[feature])
        return self.names[coder], feature - self.starts[coder]

    def name(self, feature: int) -> str:
        """How a feature is written, `mlp_in.2/17`."""
        coder, latent = self.place(feature)
        return f"{coder}/{latent}"

    def label(self, feature: int) -> str:
        """A feature's label, "" where it has none."""
        coder, latent = self.place(feature)
        labels = self.labels.get(coder)
        return labels[latent] if labels else ""

    def encode(self, values: Mapping[str, Float[Tensor, "row _"]]) -> Latents:
        """Encode rows with every coder; the latents, which are few, come to the CPU, where they are summed.

        Args:
            values: site -> activations, all of the same tokens.
        """
        return on_cpu(Latents.side_by_side([encode(coder, values) for coder in self.coders.values()]))

    def twin(self, values: Mapping[str, Float[Tensor, "row _"]], seed: int = 0) -> "Dictionary":
        """A dictionary of random features, which shows what is matched by chance.

        Every latent reads a random direction that varies as the activations do (a Gaussian of their covariance) and is
        active as often as its original, above a threshold.

        Args:
            values: site -> activations that directions and thresholds are drawn from.
            seed: of the directions.
        """
        generator, coders = torch.Generator().manual_seed(seed), {}
        for name, coder in self.coders.items():
            x = torch.cat([values[site.name].float() for site in coder.reads], -1)
            if len(x) < 2:
                raise BadInput("Random features need two tokens at least to be drawn from; give more text.")
            counts, mean = torch.bincount(encode(coder, values).indices, minlength=coder.d_latent), x.mean(0)
            noise = torch.randn(coder.d_latent, len(x), generator=generator).to(x.device)
            rows = noise @ (x - mean) / len(x) ** 0.5
            # The threshold of a latent lies just below its `count` largest readings, and is not negative. Sorting
            # along memory is several times faster.
            ordered = ((x - mean) @ rows.T).T.contiguous().sort(1, descending=True).values
            below = torch.cat([ordered, ordered.new_full((len(ordered), 1), -SILENT)], 1)
            threshold = below.gather(1, counts[:, None])[:, 0].clamp(min=0.0)
            activation = JumpReLU(torch.where(counts > 0, threshold, SILENT))
            weights = {"w_enc": rows, "b_enc": -(rows @ mean)}
            weights[f"w_dec.{coder.writes[0]}"] = rows.new_zeros(coder.d_latent, 1)
            coders[name] = Crosscoder(coder.reads, [coder.writes[0]], activation, weights).requires_grad_(False)
        return Dictionary(coders)


def encode(coder: Coder, values: Mapping[str, Float[Tensor, "row _"]]) -> Latents:
    """Encode rows with a coder of one or several read sites."""
    if isinstance(coder, Crosscoder):
        return coder.encode({site.name: values[site.name].float() for site in coder.reads})
    return coder.encode(values[coder.reads[0].name].float())


def on_cpu(latents: Latents) -> Latents:
    """The same latents in the CPU's memory."""
    return Latents(latents.positions.cpu(), latents.indices.cpu(), latents.values.cpu(), latents.shape)
