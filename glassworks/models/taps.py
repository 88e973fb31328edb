"""Taps: the one mechanism that reads and changes activations while a model runs.

A tap is a function on the value at a site. Taps are stacked in mappings; those entered later see what earlier
ones wrote. They are PyTorch hooks on the Hugging Face module itself, there only while they are needed. This
module must not know why a value is read or changed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import wraps
from threading import RLock, get_ident
from typing import Any, final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import Cache

from glassworks.errors import BadInput, Unsupported
from glassworks.models.architectures import Anatomy
from glassworks.models.attention import LISTENERS, Inside
from glassworks.models.places import SIDES, Place, locate
from glassworks.models.run import Prompts, Run, forward_arguments, generation_prompts, next_run
from glassworks.models.weights import norm_epsilon, read_norm
from glassworks.sites import KINDS, Site

Tap = Callable[[Tensor], Tensor | None]
"""Gets the value (batch, token, width...), returns None or a replacement of the same shape. A value may be kept,
and must not be written to."""

LOGITS = Site("logits")
ORDER = {kind: rank for rank, kind in enumerate(KINDS)}
GENERATING: WeakKeyDictionary[nn.Module, list["Taps"]] = WeakKeyDictionary()
"""Modules on which taps act -> those that must know the prompts of transformers' own `generate`."""


@final
@dataclass(frozen=True, eq=False)
class TapSet:
    """Taps that act together.

    Attributes:
        taps: by site.
        stepwise: whether they do the same to a token that comes alone, after a key-value cache, as to one that comes
            with its whole text. Where they do not, a forward after a cache is refused; where that is not known
            (None), only `Model.generate` does without a cache.
    """

    taps: Mapping[Site, Tap]
    stepwise: bool | None = None


@final
class Taps:
    """The taps of one model, and the hooks that serve them.

    Attributes:
        anatomy: the parts of the model.
        stack: the taps that act, in the order in which they act.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self._hooks: list[RemovableHandle] = []
        self._listening: list[tuple[nn.Module, Inside]] = []
        self._prompts: Prompts | None = None
        self._following: list[RemovableHandle] = []
        self._outer: list[Run | None] = []
        self._lock, self._thread = RLock(), 0  # held while a forward or a generation runs; by whom last
        self._runs: WeakKeyDictionary[Cache, Run] = WeakKeyDictionary()
        self.stack: tuple[TapSet, ...] = ()
        self._run: Run | None = None

    @property
    def run(self) -> Run:
        """The forward that now runs; Unsupported where a part of the model runs alone."""
        if self._run is None:
            raise Unsupported("What acts here must know the whole text: call the language model, `model.hf(...)`.")
        return self._run

    @property
    def stepwise(self) -> bool:
        """Whether all that acts is right under a key-value cache."""
        return all(each.stepwise for each in self.stack)

    @contextmanager
    def added(self, taps: Mapping[Site, Tap], stepwise: bool | None = None) -> Iterator[None]:
        """Let more taps act within the block, after those that act already; see `TapSet`.

        Blocks may end in any order, as those of generators and tasks do: each takes its own taps away.
        """
        own = TapSet(taps, stepwise)
        self._set((*self.stack, own))
        try:
            yield
        finally:
            self._set(tuple(each for each in self.stack if each is not own))

    @contextmanager
    def reading(self, prompts: Prompts | Sequence[int] | None) -> Iterator[None]:
        """Say, within the block, what the rows of every forward begin with: prompts, or only their lengths."""
        if prompts is not None and not isinstance(prompts, Prompts):
            prompts = Prompts(tuple(prompts), (0,) * len(prompts))
        self._take()
        before, self._prompts = self._prompts, prompts
        try:
            yield
        finally:
            self._prompts = before
            self._lock.release()

    @contextmanager
    def exactly(self, stack: Sequence[TapSet]) -> Iterator[None]:
        """Let these taps act within the block, and no others."""
        before = self.stack
        self._set(tuple(stack))
        try:
            yield
        finally:
            self._set(before)

    def apply(self, site: Site, value: Tensor) -> Tensor:
        """Pass a value through the taps of its site; the very same tensor comes back where none replaced it."""
        for each in self.stack:
            tap = each.taps.get(site)
            replacement = None if tap is None else tap(value)
            if replacement is not None:
                _check_shape(site, value, replacement)
                value = replacement.to(value.dtype)
        return value

    def _set(self, stack: tuple[TapSet, ...]) -> None:
        places: dict[Place, list[Site]] = {}
        for site in sorted({site for each in stack for site in each.taps}, key=lambda site: ORDER[site.kind]):
            places.setdefault(locate(self.anatomy, site), []).append(site)
        self._clear()
        self.stack = stack
        self._follow(bool(stack))
        for place in sorted(places, key=lambda place: SIDES.index(place.side)):
            self._hook(place, places[place])

    def _follow(self, wanted: bool) -> None:
        """Keep `run` up to date. The hooks stay while taps change, as they do within a forward that is replayed."""
        hf: Any = self.anatomy.hf
        if wanted and not self._following:
            self._following = [
                hf.register_forward_pre_hook(self._begin, with_kwargs=True),
                hf.register_forward_hook(self._end, always_call=True),
            ]
            _follow_generate(hf, self)
        elif self._following and not wanted:
            for hook in self._following:
                hook.remove()
            self._following = []
            self._runs.clear()
            GENERATING[hf].remove(self)
            if not GENERATING[hf]:
                del GENERATING[hf]
                _unfollow_generate(hf)

    def _take(self) -> None:
        """Lock the model for this thread: what taps know of the running text is that of one forward at a time."""
        if not self._lock.acquire(blocking=False):
            raise Unsupported("Another thread runs the model, and taps act on one text at a time; take turns.")
        self._thread = get_ident()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Taps":
        if self.stack:
            raise Unsupported("A model on which taps act cannot be copied; copy it outside the block.")
        return Taps(deepcopy(self.anatomy, memo))

    def _begin(self, hf: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self._take()
        self._outer.append(self._run)
        arguments = forward_arguments(hf, args, kwargs)
        run = self._run = next_run(self._runs, arguments, self._prompts)
        if arguments["cache"] is not None:
            self._runs[arguments["cache"]] = run
        if run.cached and any(each.stepwise is False for each in self.stack):
            raise Unsupported("An edit that acts here needs the whole text in every forward; use Model.generate.")
        if isinstance(arguments.get("logits_to_keep"), Tensor) and any(LOGITS in each.taps for each in self.stack):
            raise Unsupported("Taps on logits need those of neighbouring tokens; give logits_to_keep as a number.")

    def _end(self, hf: nn.Module, args: tuple, output: Any) -> None:
        """Note the cache that a forward made, and go back to the forward within which it ran."""
        if self._thread != get_ident() or not self._outer:
            return  # a forward of another thread, which was refused
        values = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple) else ()
        for made in values:
            if isinstance(made, Cache) and self._run is not None:
                self._runs[made] = self._run
        self._run = self._outer.pop()
        self._lock.release()

    def _clear(self) -> None:
        for hook in self._hooks:
            hook.remove()
        for module, listener in self._listening:
            LISTENERS[module].remove(listener)
        self._hooks, self._listening = [], []

    def _hook(self, place: Place, sites: list[Site]) -> None:
        module, side = place.module, place.side
        if side == "inside":
            by_kind = {site.kind: site for site in sites}

            def listener(kind: str, value: Tensor) -> Tensor:
                return self.apply(by_kind[kind], value) if kind in by_kind else value

            LISTENERS.setdefault(module, []).append(listener)
            self._listening.append((module, listener))
        elif side in ("stream", "input"):
            hook = self._stream_hook(sites) if side == "stream" else self._input_hook(sites)
            self._hooks.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        else:
            makers = {"norm": self._norm_hook, "output": self._output_hook, "logits": self._logits_hook}
            # First of all hooks, so that the language model's own are done when `_end` closes the forward.
            self._hooks.append(module.register_forward_hook(makers[side](sites), prepend=side == "logits"))

    def _through(self, sites: list[Site], value: Tensor) -> Tensor:
        for site in sites:
            value = self.apply(site, value)
        return value

    def _input_hook(self, sites: list[Site]) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            if args:
                return (self._through(sites, args[0]), *args[1:]), kwargs
            return args, kwargs | {"hidden_states": self._through(sites, kwargs["hidden_states"])}

        return hook

    def _stream_hook(self, sites: list[Site]) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple, kwargs: dict) -> None:
            # The block adds this very tensor to its MLP's output: written in place, both readers see the change.
            # Taps get a copy, so that what one of them keeps does not change with it.
            value = args[0].clone()
            replaced = self._through(sites, value)
            if replaced is not value:
                args[0].copy_(replaced)

        return hook

    def _output_hook(self, sites: list[Site]) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple, output: Any) -> Any:
            if isinstance(output, tuple):
                return (self._through(sites, output[0]), *output[1:])
            return self._through(sites, output)

        return hook

    def _logits_hook(self, sites: list[Site]) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple, output: Any) -> Any:
            bare = isinstance(output, tuple)  # return_dict=False: logits come first, or after a loss
            at = int(bare and output[0].ndim == 0)
            value = output[at] if bare else output.logits
            replaced = self._through(sites, value)
            if replaced is not value and (at or (not bare and output.get("loss") is not None)):
                raise Unsupported("The model's own loss is of unedited logits; leave the labels out and compute it.")
            if bare:
                return (*output[:at], replaced, *output[at + 1 :])
            output.logits = replaced
            return output

        return hook

    def _norm_hook(self, sites: list[Site]) -> Callable[..., Any]:
        module = locate(self.anatomy, sites[0]).module
        norm, epsilon = read_norm(module, self.anatomy.row.gain_offset), norm_epsilon(module)
        assert norm is not None
        gain = 1.0 if norm.gain is None else norm.gain

        def hook(_: nn.Module, args: tuple, output: Tensor) -> Tensor:
            x = norm.centre(args[0].float())
            scale = live = torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)
            for site in sites:
                if site.kind.endswith("_scale"):
                    scale = self.apply(site, scale)
            normed = changed = x * scale
            for site in sites:
                if not site.kind.endswith("_scale"):
                    changed = self.apply(site, normed)
            if scale is live and changed is normed:
                return output
            # Only the difference is added, so that an unchanged value changes no bit of what the module computed.
            return (output + (changed - x * live) * gain).to(output.dtype)

        return hook


def _follow_generate(hf: Any, taps: Taps) -> None:
    """Let transformers' own `generate` tell taps its prompts: its later forwards do not show where these end."""
    if hf in GENERATING:
        GENERATING[hf].append(taps)
        return
    GENERATING[hf] = [taps]
    generate = hf.generate

    @wraps(generate)
    def known(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            if readers := tuple(GENERATING.get(hf, ())):
                prompts = generation_prompts(hf, args, kwargs)
                for reader in readers:
                    stack.enter_context(reader.reading(prompts))
            return generate(*args, **kwargs)

    hf.generate = known


def _unfollow_generate(hf: Any) -> None:
    before = hf.generate.__wrapped__
    if getattr(before, "__self__", None) is hf:
        del hf.generate
    else:
        hf.generate = before


def _check_shape(site: Site, value: Tensor, replacement: Tensor) -> None:
    if replacement.shape != value.shape:
        raise BadInput(
            f"A tap at {site} returned the shape {tuple(replacement.shape)}; it must be {tuple(value.shape)}."
        )
