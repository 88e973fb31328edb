"""Live skips: with MLP outputs frozen, a skip-transcoder's linear path still passes changes on.

Freezing replays the whole MLP output, its skip part included; an attribution graph keeps that part live
(Ameisen et al. 2025: only what is nonlinear is frozen). This edit puts the difference back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from glassworks.coders import Coder
from glassworks.models import Model, Tap
from glassworks.sites import Site


@final
@dataclass(frozen=True, eq=False)
class LiveSkips:
    """Lets changes pass through skips where MLPs are frozen; made by `live_skips`.

    Attributes:
        coders: those that have a skip path.
        first: the first token whose MLPs the coders stand in for.
    """

    coders: tuple[Coder, ...]
    first: int

    frozen = ()
    stepwise = False

    def __str__(self) -> str:
        return f"keep {len(self.coders)} skips live"

    @property
    def reads(self) -> Sequence[Site]:
        """The sites that the coders read."""
        return [coder.reads[0] for coder in self.coders]

    def taps(self, model: Model, clean: Mapping[Site, Tensor] | None) -> Mapping[Site, Tap]:
        """The taps that do it, none where MLPs are live anyway; see `glassworks.models.Edit`."""
        if clean is None:
            return {}
        change: dict[Site, Tensor] = {}
        writes = dict.fromkeys(site for coder in self.coders for site in coder.writes)
        taps = {coder.reads[0]: self._reader(coder.reads[0], clean, change) for coder in self.coders}
        return taps | {write: self._writer(write, change) for write in writes}

    def _reader(self, site: Site, clean: Mapping[Site, Tensor], change: dict[Site, Tensor]) -> Tap:
        def read(value: Tensor) -> None:
            change[site] = value - clean[site]
            change[site][:, : self.first] = 0

        return read

    def _writer(self, write: Site, change: dict[Site, Tensor]) -> Tap:
        def add(value: Tensor) -> Tensor:
            for coder in self.coders:
                skip = coder.skip(write) if write in coder.writes else None
                if skip is not None:
                    value = value + (change[coder.reads[0]].to(skip) @ skip).to(value)
            return value

        return add


def live_skips(scope: Any, first: int | None = None) -> LiveSkips:
    """Make an edit that keeps a scope's skips live under `frozen=("mlps",)`, as an attribution graph does.

    Args:
        scope: the coders that stand in for the MLPs.
        first: the first token whose MLPs they stand in for, `scope.masked(texts)`; by default 1 where they were not
            trained on BOS, else 0.
    """
    coders = [part for name in scope.replacement for part in scope[name].parts]
    kept = tuple(coder for coder in coders if any(coder.skip(write) is not None for write in coder.writes))
    return LiveSkips(kept, int("bos" in scope.untrained) if first is None else first)
