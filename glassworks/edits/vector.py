"""Add a vector at a site: the plainest edit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from glassworks.edits.positions import resolved
from glassworks.errors import BadInput
from glassworks.models import Model, Tap
from glassworks.sites import Site


@final
@dataclass(frozen=True, eq=False)
class AddVector:
    """Adds a vector to the value of a site; made by `add_vector`.

    Attributes:
        site: where.
        vector: what, of the site's width.
        positions: at which tokens; None is all.
    """

    site: Site
    vector: Float[Tensor, "*width"]
    positions: tuple[int, ...] | None = None

    reads = ()

    def __str__(self) -> str:
        where = "all positions" if self.positions is None else f"positions {', '.join(map(str, self.positions))}"
        return f"add a vector of norm {self.vector.norm():.4g} to {self.site} at {where}"

    def taps(self, model: Model, clean: Mapping[Site, Tensor] | None) -> Mapping[Site, Tap]:
        """The tap that adds it; see `glassworks.models.Edit`."""
        return {self.site: self._added}

    def _added(self, value: Tensor) -> Tensor:
        if value.shape[2:] != self.vector.shape:
            raise BadInput(
                f"The vector for {self.site} has the shape {tuple(self.vector.shape)}; "
                f"it must be {tuple(value.shape[2:])}."
            )
        where = resolved(self.positions, value.shape[1])
        wide = value.to(torch.promote_types(value.dtype, torch.float32), copy=True)
        wide[:, where] += self.vector.to(wide)
        return wide


def add_vector(
    site: str | Site, vector: Float[Tensor, "*width"], positions: int | Sequence[int] | None = None
) -> AddVector:
    """Make an edit that adds a vector at a site.

    Args:
        site: where, `"resid_post.2"`.
        vector: of the site's width.
        positions: at which tokens, the same for every prompt of a batch; negative ones count from the end; None is
            all, also those that are generated.

    Raises:
        NotFound: there is no such kind of site.
        BadInput: a position is named twice; when it runs, the width is wrong or a position lies outside the text.
    """
    named = (positions,) if isinstance(positions, int) else None if positions is None else tuple(positions)
    if named is not None and len(set(named)) < len(named):
        raise BadInput(f"A position is named twice in {list(named)}; name each once.")
    return AddVector(Site.parse(site), vector.detach().clone(), named)
