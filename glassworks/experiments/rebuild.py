"""Rebuilding: what coders of every kind write, from activations at the sites that they read, by site."""

from collections.abc import Mapping, Sequence
from typing import Any, final

from jaxtyping import Float
from torch import Tensor

from glassworks.coders import Coder, Latents
from glassworks.errors import BadInput
from glassworks.sites import Site

Rows = Mapping[str, Tensor]
"""Activations, (token, d), by the name of their site, in the same order of tokens."""


@final
class Rebuilder:
    """Gives a coder's latents and what it writes at one site; no part is encoded twice on the same activations.

    Args:
        coder: of any kind.
    """

    def __init__(self, coder: Coder) -> None:
        self.coder = coder
        self._kept: dict[str, tuple[list[Tensor], Latents]] = {}

    def latents(self, values: Rows) -> Latents:
        """The latents of all parts, side by side."""
        return Latents.side_by_side([self._encoded(part, values) for part in self.coder.parts])

    def __call__(self, values: Rows, write: Site) -> Float[Tensor, "token d_out"]:
        """What the coder writes at a site: decoded latents and skips of all parts that write there.

        Args:
            values: activations at the read sites; of a cross-layer coder those of the parts that write there.
            write: one of its write sites.
        """
        written = [
            part.reconstruct(self._encoded(part, values), _inputs(part, values), write)
            for part in writers(self.coder, write)
        ]
        return sum(written[1:], start=written[0])

    def _encoded(self, part: Coder, values: Rows) -> Latents:
        rows = rows_at(values, part.reads)
        before, latents = self._kept.get(part.id, ([], None))
        if latents is None or any(a is not b for a, b in zip(before, rows, strict=True)):
            latents = part.encode(_inputs(part, values))
            self._kept[part.id] = rows, latents
        return latents


def _inputs(part: Coder, values: Rows) -> Any:
    """What a part reads, by name where it reads several sites."""
    rows = rows_at(values, part.reads)
    return rows[0] if len(rows) == 1 else {site.name: each for site, each in zip(part.reads, rows, strict=True)}


def writers(coder: Coder, write: Site) -> list[Coder]:
    """The parts of a coder that write at a site."""
    return [part for part in coder.parts if write in part.writes]


def rows_at(values: Rows, sites: Sequence[Site]) -> list[Tensor]:
    """The activations at sites; BadInput where some are not there."""
    missing = [site.name for site in sites if site.name not in values]
    if missing:
        raise BadInput(f"The activations at {', '.join(missing)} are missing; there are {', '.join(values) or 'none'}.")
    return [values[site.name] for site in sites]
