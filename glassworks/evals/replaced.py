"""The replaced model: functions stand in for activations while the model runs, coders above all.

What stands in reads the replaced model's own activations, so that errors compound over the layers as they would in
use. Only what comes later than the site that is written (an acausal crosscoder's later layers) is taken from the
unchanged model.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

from jaxtyping import Bool, Float
from torch import Tensor

from glassworks.coders import Coder
from glassworks.errors import BadInput
from glassworks.evals.rebuild import Rebuilder, writers
from glassworks.models import Model
from glassworks.sites import KINDS, Site

Stand = Callable[..., Tensor]
"""Takes rows at the read sites and the true rows at the write site, gives the rows to write."""
Stands = Mapping[tuple[Site, ...], Stand]
"""(read sites..., write site) -> what stands in at the write site."""


@final
@dataclass(frozen=True)
class Replacement:
    """What stands in while a model runs.

    Attributes:
        stands: by the sites that it reads and the one that it writes, which comes last.
        clean: those of the read sites whose rows are the unchanged model's.
    """

    stands: Stands
    clean: frozenset[Site] = frozenset()


@contextmanager
def replacing(
    model: Model, stands: Stands, real: Bool[Tensor, "document token"], clean: Mapping[Site, Tensor] | None = None
) -> Iterator[None]:
    """Let functions stand in at sites, while the block runs.

    Args:
        model: the model.
        stands: (read sites..., write site) -> function of the rows at all of them; a site may be read and written.
        real: which positions are replaced; the others keep what the model gives.
        clean: rows at read sites that are not taken from the run itself.
    """
    rows, real = dict(clean or {}), real.to(model.device)
    reads = {site for sites in stands for site in sites[:-1]} - set(rows)
    written = {sites[-1]: (sites, stand) for sites, stand in stands.items()}

    def tap(site: Site) -> Callable[[Tensor], Tensor | None]:
        def run(value: Tensor) -> Tensor | None:
            here = value[real]
            if site in reads:
                rows[site] = here
            if site not in written:
                return None
            sites, stand = written[site]
            return value.masked_scatter(real[..., None], stand(*(rows[each] for each in sites[:-1]), here).to(here))

        return run

    with model.tapped({site: tap(site) for site in reads | set(written)}):
        yield


def coded(coders: Sequence[Coder], writes: Sequence[Site] | None = None) -> Replacement:
    """Let coders stand in at the sites that they write, all at once.

    Args:
        coders: of any kind.
        writes: only at these sites.

    Raises:
        BadInput: two of them write at the same site.
    """
    chosen = [(each, site) for each in coders for site in each.writes if writes is None or site in writes]
    twice = {site.name for _, site in chosen if [other for _, other in chosen].count(site) > 1}
    if twice:
        raise BadInput(f"Several coders write at {', '.join(sorted(twice))}; only one can stand in there.")
    stands: dict[tuple[Site, ...], Stand] = {}
    rebuilders = {coder: Rebuilder(coder) for coder in coders}
    for coder, write in chosen:
        reads = tuple(site for part in writers(coder, write) for site in part.reads)
        stands[(*reads, write)] = _stand(rebuilders[coder], reads, write)
    late = {site for *reads, write in stands for site in reads if _order(site) > _order(write)}
    return Replacement(stands, frozenset(late))


def constant(values: Mapping[Site, Float[Tensor, " d"]]) -> Replacement:
    """Let the same row stand in everywhere at each site: its mean, or zeros."""

    def stand(row: Tensor) -> Stand:
        return lambda y: row.to(y).expand_as(y)

    return Replacement({(site,): stand(row) for site, row in values.items()})


def separable(coder: Coder) -> list[tuple[Site, ...]]:
    """The write sites of a coder, in the groups in which it can stand in at once.

    All together, unless it reads what lies after a site that it writes: then what it writes further up would undo
    what it did below, and every site is measured alone.
    """
    late = coded([coder]).clean
    return [(site,) for site in coder.writes] if late else [tuple(coder.writes)]


def _stand(rebuild: Rebuilder, reads: tuple[Site, ...], write: Site) -> Stand:
    names = [site.name for site in reads]
    return lambda *rows: rebuild(dict(zip(names, rows[:-1], strict=True)), write)


def _order(site: Site) -> tuple[float, int]:
    """The place of a site in a forward run."""
    whole = float("inf") if site.kind in ("final_norm_scale", "logits") else -1.0
    return whole if site.layer is None else float(site.layer), list(KINDS).index(site.kind)
