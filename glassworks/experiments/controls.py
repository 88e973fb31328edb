"""Controls: what an intervention would do by chance.

A control is derived from an intervention: operations, amounts and places stay, only the targets change. Each draw has
its own generator, so that it depends on no batch and no order.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import log
from random import Random
from typing import Any, final

import torch

from glassworks.coders import Scope
from glassworks.edits import Direction, FeatureRef, Features, Supernode, Target
from glassworks.errors import BadInput
from glassworks.experiments.cases import Case
from glassworks.experiments.interventions import Intervention
from glassworks.models import Model, Prompt

NEAREST = 10
Pool = Callable[[Case], Mapping[FeatureRef, float]]
"""Features that could be drawn on a case, with their activations."""


@final
@dataclass(frozen=True, eq=False)
class Control:
    """The same intervention on other targets.

    Attributes:
        name: of the control in the table.
        pick: (targets, case, random) -> as many others. All targets of an intervention come at once, so that draws
            for one do not repeat those for another.
        draws: how many times.
        scope: gives the coders of features that the intervention itself does not name.
    """

    name: str
    pick: Callable[[Sequence[Target], Case, Random], Sequence[Target]]
    draws: int = 10
    scope: Any = None

    def of(self, intervention: Intervention) -> list[Intervention]:
        """The draws of an intervention, as arms of the same name."""

        def draw(seed: int) -> Intervention:
            other = intervention.retarget(lambda targets, case: self.pick(targets, case, Random(seed)), self.scope)
            return replace(other, control=self.name, seed=seed)

        return [draw(seed) for seed in range(self.draws)]


def matched_features(pool: Pool, draws: int = 10, nearest: int = NEAREST) -> Control:
    """Other features, as many, of the same coder (layer and site) and of like activation.

    Args:
        pool: the features that could be drawn on a case, with their activations: `active_features(...)`.
        draws: how many times.
        nearest: each is drawn from so many that come closest in log activation.
    """

    def pick(targets: Sequence[Target], case: Case, random: Random) -> list[Target]:
        activations = {ref: log(value) for ref, value in pool(case).items() if value > 0}
        named = {ref for target in targets for ref in _features(target).refs}
        free, picked = [ref for ref in activations if ref not in named], []
        for target in targets:
            refs = []
            for ref in _features(target).refs:
                size = activations.get(ref, min(activations.values(), default=0.0))
                like = [other for other in free if other.coder_id == ref.coder_id and _placed(other) == _placed(ref)]
                if not like:
                    raise BadInput(f"{ref.coder_id} has too few other active features to match; give more texts.")
                like.sort(key=lambda other: abs(activations[other] - size))
                refs.append(random.choice(like[:nearest]))
                free.remove(refs[-1])
            picked.append(Features(tuple(refs)))
        return picked

    return Control("matched features", pick, draws)


def active_features(model: Model, scope: Scope, texts: Sequence[Prompt] | None = None, first: int = 1) -> Pool:
    """A pool for `matched_features`.

    Args:
        model: the model.
        scope: its coders.
        texts: with them, features are pooled without positions, with their mean activation on these texts; without,
            those that are active on the case's own prompt, at their positions.
        first: the first token that counts.
    """

    @cache
    def activations(prompts: tuple[Any, ...], coder_id: str) -> tuple[torch.Tensor, ...]:
        coder = scope[coder_id]
        rows = []
        for prompt in prompts:
            values = model.capture(prompt, coder.reads)
            rows.append(coder.encode(values[coder.reads[0].name]).dense().detach().float().cpu())
        return tuple(rows)

    @cache
    def pooled(prompts: tuple[Any, ...], placed: bool) -> dict[FeatureRef, float]:
        pool: dict[FeatureRef, float] = {}
        for name in (entry.name for entry in scope.entries if len(entry.reads) == 1):
            rows = activations(prompts, name)
            if placed:
                places = (rows[0][first:] > 0).nonzero().tolist()
                pool |= {FeatureRef(name, first + at, n): float(rows[0][first + at, n]) for at, n in places}
            else:
                mean = torch.cat([row[first:] for row in rows]).mean(0)
                pool |= {FeatureRef(name, None, n): float(mean[n]) for n in mean.nonzero()[:, 0].tolist()}
        return pool

    def frozen(prompt: Prompt) -> Any:
        return prompt if isinstance(prompt, str) else tuple(int(token) for token in prompt)

    if texts is not None:
        prompts = tuple(map(frozen, texts))
        return lambda case: pooled(prompts, False)
    return lambda case: pooled((frozen(case.prompt),), True)


def random_directions(draws: int = 10) -> Control:
    """Directions of equal norm at the same sites, drawn evenly from all (the same for all cases)."""

    def pick(targets: Sequence[Target], case: Case, random: Random) -> list[Target]:
        picked: list[Target] = []
        for target in targets:
            if not isinstance(target, Direction):
                raise BadInput(f"Random directions are a control for directions; the target is {target}.")
            vector = [random.gauss(0, 1) for _ in target.vector]
            scale = target.norm / sum(number * number for number in vector) ** 0.5
            picked.append(Direction(target.site, tuple(scale * number for number in vector)))
        return picked

    return Control("random directions", pick, draws)


def shuffled_labels(
    make: Callable[[Sequence[Any]], Sequence[Target]], labels: Sequence[Any], draws: int = 10
) -> Control:
    """Targets that were made in the same way from shuffled labels: what the making finds where nothing is.

    Args:
        make: gives the targets from labels, the very way in which the intervention's own were made.
        labels: in their true order.
        draws: how many times.
    """
    made: dict[tuple, Sequence[Target]] = {}

    def pick(targets: Sequence[Target], case: Case, random: Random) -> Sequence[Target]:
        order = tuple(random.sample(range(len(labels)), len(labels)))
        if order not in made:
            made[order] = make([labels[number] for number in order])
        return made[order]

    return Control("shuffled labels", pick, draws)


def other_features(concept: Supernode | Sequence[FeatureRef], scope: Any = None, draws: int = 1) -> Control:
    """Features of another concept, as many: does it need these features, or any that mean something?

    Args:
        concept: at least as many features as the intervention has; drawn from, where there are more.
        scope: gives their coders; by default the concept's own.
        draws: how many times.
    """
    scope = getattr(concept, "scope", None) if scope is None else scope
    listed = concept.features if isinstance(concept, Supernode) else concept
    refs = [FeatureRef(ref.coder_id, ref.position, int(ref.index)) for ref in listed]

    def pick(targets: Sequence[Target], case: Case, random: Random) -> list[Target]:
        counts = [len(_features(target).refs) for target in targets]
        if sum(counts) > len(refs):
            raise BadInput(f"The other concept has {len(refs)} features; the intervention has {sum(counts)}.")
        drawn = iter(random.sample(refs, sum(counts)))
        return [Features(tuple(next(drawn) for _ in range(count))) for count in counts]

    return Control("another concept", pick, draws, scope)


def _features(target: Target) -> Features:
    if not isinstance(target, Features):
        raise BadInput(f"This control is for features; the target is {target}. Take random_directions for directions.")
    return target


def _placed(ref: FeatureRef) -> bool:
    return ref.position is not None
