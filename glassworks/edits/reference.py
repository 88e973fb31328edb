"""References: what is usual at a site on some texts, from which means, drawn values and the unit `norm` are measured.

This module must not know what the numbers are for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.coders import Coder
from glassworks.edits.parts import parts_of
from glassworks.edits.targets import Direction, Features, Target
from glassworks.errors import BadInput, Unsupported
from glassworks.models import Model, Prompt
from glassworks.sites import Site

STREAM = {"attn_out": "resid_mid", "mlp_out": "resid_post"}
"""What is added to the residual stream -> the stream that it is added to, whose norm counts."""


@final
@dataclass(frozen=True, eq=False)
class Reference:
    """Texts on which a model is measured; the first token of each, whose norm is its own, does not count.

    Attributes:
        model: the model, as it is without edits.
        prompts: texts, or token ids.
    """

    model: Model
    prompts: Sequence[Prompt]

    def __post_init__(self) -> None:
        """Raise BadInput where there is no text."""
        if isinstance(self.prompts, str) or not len(self.prompts):
            raise BadInput("A reference is measured on several texts; give a list with at least one.")

    def values(self, site: Site) -> Float[Tensor, "token width"]:
        """The values of a site at all tokens that count."""
        rows = []
        with self.model.taps.exactly(()):
            for prompt in self.prompts:
                value = self.model.capture(self.model.tokens(prompt).tolist(), [site])[site.name].float().flatten(1)
                rows.append(value[1:] if len(value) > 1 else value)
        return torch.cat(rows)

    def norm(self, site: Site) -> float:
        """The mean norm of the residual stream where a site writes, or of the site's own values elsewhere."""
        kind = STREAM.get(site.kind, site.kind)
        kind = "resid_post" if kind == "resid_mid" and self.model.parallel else kind
        return float(self.values(Site(kind, site.layer)).norm(dim=-1).mean())

    def coordinates(self, target: Target, coders: Mapping[str, Coder]) -> Float[Tensor, "token k"]:
        """A target's coordinates at all tokens that count."""
        parts = parts_of(target, self.model, coders)
        if any(not part.count for part in parts):
            raise Unsupported(f"The values of {target} have as many numbers as a text has tokens; they have no mean.")
        pieces = [(part.columns, part.read(self.values(part.site))) for part in parts]
        joint = pieces[0][1].new_zeros(len(pieces[0][1]), sum(part.count for part in parts))
        for columns, read in pieces:
            joint[:, slice(None) if columns is None else columns] = read
        return joint

    def sizes(self, target: Target, coders: Mapping[str, Coder]) -> tuple[float, ...]:
        """For each coordinate, the amount of it that is as long as the stream's mean norm where it writes."""
        if isinstance(target, Direction):
            if not target.norm:
                raise BadInput(f"The vector for {target.site} is zero; no amount of it has a norm.")
            return (self.norm(target.site) / target.norm,)
        assert isinstance(target, Features)
        norms = {name: self.norm(coders[name].writes[0]) for name in {ref.coder_id for ref in target.refs}}
        rows = [coders[ref.coder_id].decoder_rows(torch.tensor([ref.index])).norm() for ref in target.refs]
        return tuple(norms[ref.coder_id] / float(row) for ref, row in zip(target.refs, rows, strict=True))
