"""Interventions: named changes of the running model, as values that an experiment enters around a forward.

Clean         none                                  Patch         activations of the case's source prompt
Edits         what `model.edit` takes               SourcePrompt  that prompt itself: the ceiling of patches
Coders        coders in the place of activations    Logits        any function that gives the logits
Constant      a fixed row there: mean, zero
"""

from abc import ABC
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import KW_ONLY, dataclass, fields, is_dataclass, replace
from functools import partial
from hashlib import sha256
from math import inf, nan
from typing import Any, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from glassworks.coders import Coder
from glassworks.edits import Edit, Features, Target
from glassworks.errors import BadInput, Unsupported
from glassworks.experiments.cases import Batch, Case
from glassworks.experiments.rebuild import Rebuilder, writers
from glassworks.harvest import pad
from glassworks.models import Model, Tap, starting
from glassworks.sites import KINDS, Site

Change = Callable[[Sequence[Target], Case], Sequence[Target]]
"""Gives other targets for those of an intervention, on a case."""


@dataclass(frozen=True, eq=False)
class Intervention(ABC):
    """A named change of the running model.

    Attributes:
        name: of its arm in the table.
        amount: its dose, where it is one point of a curve.
        control: the name of the control that it is a draw of, where it is one.
        seed: the number of that draw.
    """

    name: str
    _: KW_ONLY
    amount: float | int = nan
    control: str = ""
    seed: int = 0

    @property
    def reads(self) -> Sequence[Site]:
        """Sites whose values it needs of the clean run."""
        return ()

    @property
    def carries(self) -> Sequence[Site]:
        """Sites whose values it needs of the source prompt's run."""
        return ()

    def key(self, case: Case) -> Hashable:
        """Rows whose keys are equal may share a forward; by default those of this intervention."""
        return id(self)

    def apply(self, batch: Batch) -> AbstractContextManager[Any]:
        """Act on the forward that runs within the block; `batch.interventions` has each row's own."""
        return nullcontext()

    def logits(self, batch: Batch) -> Tensor | None:
        """The logits, where it is no change of the running model; by default None."""
        return None

    def generate(self, batch: Batch, row: int, new_tokens: int) -> str:
        """The continuation of a row's prompt; Unsupported where it acts on one forward only."""
        raise Unsupported(f"The intervention {self.name!r} cannot generate; judge answers with exact_match instead.")

    def retarget(self, change: Change, scope: Any = None) -> "Intervention":
        """The same on other targets, for controls.

        Args:
            change: gives the targets.
            scope: gives the coders of features that the intervention does not have already.
        """
        raise BadInput(f"The intervention {self.name!r} has no targets to change, so this control does not apply.")


@final
@dataclass(frozen=True, eq=False)
class Clean(Intervention):
    """The model by itself: the first arm of every experiment."""

    name: str = "clean"

    def generate(self, batch: Batch, row: int, new_tokens: int) -> str:
        """Continue the prompt."""
        return batch.model.generate(batch.ids[row, : batch.ends[row]], new_tokens)


@final
@dataclass(frozen=True, eq=False)
class Edits(Intervention):
    """Edits as `model.edit` takes them.

    Attributes:
        edits: the same for all cases, or a function that makes them for each. Cases whose edits are equal share a
            forward; where each case has its own, each runs alone, and so slowly.
        frozen: what of the model keeps its clean values, `("patterns", "norms")`.
    """

    edits: Sequence[Edit] | Callable[[Case], Sequence[Edit]]
    frozen: Sequence[str] = ()

    def of(self, case: Case) -> Sequence[Edit]:
        """The edits of a case."""
        return self.edits(case) if callable(self.edits) else self.edits

    def key(self, case: Case) -> Hashable:
        """The edits themselves, with their coders."""
        edits = tuple(self.of(case))
        return edits, tuple(id(coder) for edit in edits for coder in edit.coders.values()), tuple(self.frozen)

    def apply(self, batch: Batch) -> AbstractContextManager[Any]:
        """Edit the model."""
        return batch.model.edit(*self.of(batch.cases[0]), frozen=tuple(self.frozen))

    def generate(self, batch: Batch, row: int, new_tokens: int) -> str:
        """Continue the prompt with the edits acting on every token."""
        with self.apply(batch):
            return batch.model.generate(batch.ids[row, : batch.ends[row]], new_tokens)

    def retarget(self, change: Change, scope: Any = None) -> "Edits":
        """The same operations, amounts and places on other targets."""

        def retargeted(case: Case) -> list[Edit]:
            edits = self.of(case)
            targets = change([edit.target for edit in edits], case)
            return [_retarget(edit, target, scope) for edit, target in zip(edits, targets, strict=True)]

        return replace(self, edits=retargeted)


def _retarget(edit: Edit, target: Target, scope: Any) -> Edit:
    coders = dict(edit.coders)
    if isinstance(target, Features):
        missing = {ref.coder_id for ref in target.refs} - set(coders)
        if missing and scope is None:
            raise BadInput(f"The control needs the coder {min(missing)}; pass its scope to the control.")
        coders |= {name: scope[name] for name in missing}
    return replace(edit, target=target, coders=coders)


def doses(
    name: str, make: Callable[[float], Sequence[Edit]], amounts: Sequence[float | int], frozen: Sequence[str] = ()
) -> list[Edits]:
    """One intervention in several amounts: a dose curve.

    Args:
        name: of all of them.
        make: gives the edits of an amount.
        amounts: the doses.
        frozen: see `Edits`.
    """
    return [Edits(name, list(make(float(amount))), frozen, amount=float(amount)) for amount in amounts]


@final
@dataclass(frozen=True, eq=False)
class Coders(Intervention):
    """Coders in the place of the activations that they reconstruct, all at once.

    They read the changed run, so that errors compound over the layers as in use; only what comes after the site that
    is written (the later layers of an acausal crosscoder) is read from the clean run.

    Attributes:
        coders: of any kind.
        writes: only at these sites; by default wherever they write.
    """

    coders: Sequence[Coder]
    writes: Sequence[Site] | None = None

    def __post_init__(self) -> None:
        """Raise BadInput where two of them write at the same site."""
        sites = [site for _, site in self.written]
        twice = sorted({site.name for site in sites if sites.count(site) > 1})
        if twice:
            raise BadInput(f"Several coders write at {', '.join(twice)}; only one can replace the activations there.")

    @property
    def written(self) -> list[tuple[Coder, Site]]:
        """Coders and the sites where they replace activations."""
        pairs = [(coder, site) for coder in self.coders for site in coder.writes]
        return [pair for pair in pairs if self.writes is None or pair[1] in self.writes]

    @property
    def reads(self) -> Sequence[Site]:
        """What they read of the clean run: sites that come after the one they write."""
        pairs = [(read, write) for coder, write in self.written for part in writers(coder, write)
                 for read in part.reads]  # fmt: skip
        return sorted({read for read, write in pairs if _order(read) > _order(write)})

    def apply(self, batch: Batch) -> AbstractContextManager[Any]:
        """Replace activations at the tokens that the cases keep."""
        late, rebuild = set(self.reads), {coder: Rebuilder(coder) for coder in self.coders}
        functions: dict[tuple[Site, ...], Callable[..., Tensor]] = {}
        for coder, write in self.written:
            sites = [site for part in writers(coder, write) for site in part.reads]
            names = [site.name for site in sites]

            def written(*rows: Tensor, coder: Coder = coder, write: Site = write, names: list[str] = names) -> Tensor:
                return rebuild[coder](dict(zip(names, rows[:-1], strict=True)), write)

            functions[(*sites, write)] = written
        clean = {site: batch.clean.values[site][batch.mask] for site in late} if batch.clean else {}
        return replacing(batch.model, functions, batch.mask, clean)


@final
@dataclass(frozen=True, eq=False)
class Constant(Intervention):
    """The same row at every token of a site: mean ablation, zero ablation.

    Attributes:
        values: a row for each site.
    """

    values: Mapping[Site, Float[Tensor, " d"]]

    def apply(self, batch: Batch) -> AbstractContextManager[Any]:
        """Replace activations at the tokens that the cases keep."""

        def put(row: Tensor, value: Tensor) -> Tensor:
            return torch.where(batch.mask[..., None], row.to(value), value)

        return batch.model.tapped({site: partial(put, row) for site, row in self.values.items()})


@final
@dataclass(frozen=True, eq=False)
class Patch(Intervention):
    """Activation patching: the source prompt's values at sites, at one position and head or at all of them.

    Rows share a forward whatever case, layer, position and head they patch; it begins at the lowest layer among them.

    Attributes:
        sites: which.
        position: which token; None for all.
        head: which head of sites that have several; None for all.
    """

    sites: Sequence[Site]
    position: int | None = None
    head: int | None = None

    @property
    def reads(self) -> Sequence[Site]:
        """The clean residual stream below all of the patches, from which the run can begin."""
        below = min((site.layer or 0) - (site.kind != "resid_post") for site in self.sites)
        return [Site("resid_post", below)] if below >= 0 else []

    @property
    def carries(self) -> Sequence[Site]:
        """The sites."""
        return self.sites

    def key(self, case: Case) -> Hashable:
        """The kinds of its sites."""
        return "patch", *sorted({site.kind for site in self.sites}), self.head is None

    @contextmanager
    def apply(self, batch: Batch) -> Iterator[None]:
        """Patch each row as its own intervention says."""
        assert batch.source is not None
        assert batch.clean is not None
        heads = 1 if self.head is None else batch.model.n_heads
        masks: dict[Site, Tensor] = {}
        for row, patch in enumerate(batch.interventions):
            assert isinstance(patch, Patch)
            for site in patch.sites:
                shape = (*batch.ids.shape, heads, 1)
                mask = masks.setdefault(site, torch.zeros(shape, dtype=torch.bool, device=batch.ids.device))
                mask[row, _some(patch.position), _some(patch.head)] = True

        def tap(site: Site, value: Tensor) -> Tensor:
            assert batch.source is not None
            new, old = (each.unflatten(2, (heads, -1)) for each in (batch.source.values[site], value))
            return torch.where(masks[site], new, old).flatten(2, 3)

        lowest = min(each.reads[0].layer if each.reads else -1 for each in batch.interventions)  # pyright: ignore
        with ExitStack() as stack:
            if lowest >= 0 and not batch.model.taps.stack:  # layers below give what they give in the clean run
                stream = batch.clean.values[Site("resid_post", lowest)]
                stack.enter_context(starting(batch.model.taps, lowest + 1, stream))
            stack.enter_context(batch.model.tapped({site: partial(tap, site) for site in masks}))
            yield


@final
@dataclass(frozen=True, eq=False)
class SourcePrompt(Intervention):
    """The source prompt in the place of the prompt: what a patch of everything would reach."""

    name: str = "source"

    def logits(self, batch: Batch) -> Tensor:
        """The logits of the source prompts, with the answers behind them."""
        rows = [
            [*batch.model.tokens(case.source).tolist(), *case.label(batch.model)[:-1]]
            for case in batch.cases
            if case.source is not None
        ]
        if [len(row) for row in rows] != batch.lengths.tolist():
            raise BadInput("A case that is patched needs a source prompt of as many tokens as its prompt.")
        return batch.model.hf(input_ids=pad(rows)[0].to(batch.ids.device), use_cache=False).logits


@final
@dataclass(frozen=True, eq=False)
class Logits(Intervention):
    """Any function that gives the logits: another model's, or several models' together.

    Attributes:
        function: of the ids (row, token), gives the logits (row, token, vocabulary).
    """

    function: Callable[[Tensor], Tensor]

    def logits(self, batch: Batch) -> Tensor:
        """The logits of the rows."""
        return self.function(batch.ids)


@contextmanager
def replacing(
    model: Model,
    functions: Mapping[tuple[Site, ...], Callable[..., Tensor]],
    mask: Bool[Tensor, "document token"],
    clean: Mapping[Site, Tensor] | None = None,
) -> Iterator[None]:
    """Replace activations by functions of activations, while the block runs.

    Args:
        model: the model.
        functions: (read sites..., write site) -> function of the rows at all of them; a site may be read and written.
        mask: which positions are replaced; the others keep what the model gives.
        clean: rows at read sites that are not taken from the run itself.
    """
    rows, mask = dict(clean or {}), mask.to(model.device)
    reads = {site for sites in functions for site in sites[:-1]} - set(rows)
    written = {sites[-1]: (sites, function) for sites, function in functions.items()}

    def tap(site: Site, value: Tensor) -> Tensor | None:
        here = value[mask]
        if site in reads:
            rows[site] = here
        if site not in written:
            return None
        sites, function = written[site]
        return value.masked_scatter(mask[..., None], function(*(rows[each] for each in sites[:-1]), here).to(here))

    taps: dict[Site, Tap] = {site: partial(tap, site) for site in reads | set(written)}
    with model.tapped(taps):
        yield


def fingerprint(value: Any) -> Any:
    """All that a value consists of, as nested tuples and text: equal for equal experiments, also in another process."""
    if isinstance(value, Tensor):
        return sha256(value.detach().cpu().contiguous().double().numpy().tobytes()).hexdigest()
    if isinstance(value, nn.Module):
        sums = [(name, float(weight.double().sum())) for name, weight in value.named_parameters()]
        return type(value).__name__, getattr(value, "id", ""), sums
    if is_dataclass(value) and not isinstance(value, type):
        kept = [(each.name, fingerprint(getattr(value, each.name))) for each in fields(value)]
        return type(value).__name__, *kept
    if isinstance(value, Mapping):
        return [(str(name), fingerprint(each)) for name, each in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return [fingerprint(each) for each in value]
    if callable(value):
        return getattr(value, "__qualname__", type(value).__name__)
    return repr(value)


def _some(index: int | None) -> int | slice:
    return slice(None) if index is None else index


def _order(site: Site) -> tuple[float, int]:
    """The place of a site in a forward run."""
    whole = inf if site.kind in ("final_norm_scale", "logits") else -1.0
    return whole if site.layer is None else float(site.layer), list(KINDS).index(site.kind)
