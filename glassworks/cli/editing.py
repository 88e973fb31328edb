"""What the commands that edit share: their options, what a user picks, and where results go."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, final

import typer

from glassworks.cli.options import lines_of, write_page
from glassworks.errors import BadInput, NotFound

if TYPE_CHECKING:
    from glassworks.coders import Scope
    from glassworks.edits import Edit, FeatureRef, Outcome
    from glassworks.models import Model

TEXTS, SEED = 24, 1001

Scoped = Annotated[str | None, typer.Option("--scope", "-s", help="The scope; the embedded model's own if unset.")]
Feature = Annotated[list[str] | None, typer.Option("--feature", "-f", help="CODER/INDEX, as mlp_in.2/17; repeatable.")]
Find = Annotated[str | None, typer.Option(help="Features whose label holds this text, the most active ones first.")]
Like = Annotated[list[str] | None, typer.Option(help="Prompts whose features are wanted; repeatable.")]
Unlike = Annotated[list[str] | None, typer.Option(help="Prompts to compare those with; the prompt itself if unset.")]
Most = Annotated[int, typer.Option(help="Features: of --find in all; of --like per coder and token.", min=1)]
Last = Annotated[int | None, typer.Option(help="Of --like, how many of the last tokens; all if equally many.", min=1)]
Layers = Annotated[list[int] | None, typer.Option("--layer", help="Only coders of these layers; repeatable.")]
Along = Annotated[str | None, typer.Option("--direction", help="FILE:SITE, a vector in .npy or .safetensors.")]
Where = Annotated[str, typer.Option(help="all, prompt, generated, last, 3,-1 (positions), or text:PART of the prompt.")]
Effect = Annotated[str, typer.Option(help="What stays frozen: total, attention, attention+norms, direct.")]
Reference = Annotated[Path | None, typer.Option(help="Text file, one text a line, to measure side effects on.")]
Chat = Annotated[bool, typer.Option("--chat", help="The prompts are a user's messages to a chat model.")]
Stored = Annotated[Path | None, typer.Option("--edits", help="A file of edits that act first, as --save writes it.")]
Save = Annotated[Path | None, typer.Option(help="Write the edits to this JSON file.")]
Page = Annotated[Path | None, typer.Option(help="Write an HTML page.")]
Tokens = Annotated[int, typer.Option(help="How far to continue the prompt.", min=0)]


@final
@dataclass(frozen=True)
class Setting:
    """What is edited: the model, its scope or None, the prompt as the model reads it, and other text."""

    model: "Model"
    scope: "Scope | None"
    prompt: str
    texts: list[str]

    @classmethod
    def of(cls, model: str, scope: str | None, prompt: str, chat: bool, reference: Path | None) -> "Setting":
        """Open what was named."""
        from glassworks import hub
        from glassworks.coders import load_scope
        from glassworks.models import load_model

        name = scope or (model if model in (*hub.ALIASES, *hub.embedded("scope")) else None)
        texts = None if reference is None else [line for line in lines_of(reference) if line.strip()]
        loaded = load_model(model)
        found = None if name in (None, "none") else load_scope(str(name))
        return cls(loaded, found, worded(loaded, prompt, chat), _world(loaded) if texts is None else texts)

    @property
    def coders(self) -> "Scope":
        """The scope; NotFound where there is none."""
        if self.scope is None:
            raise NotFound(f"The model {self.model.name} brings no scope; give --scope with a folder or owner/name.")
        return self.scope

    @property
    def reference(self) -> Any:
        """The other text, for units and means; None where there is none."""
        from glassworks.edits import Reference as Measured

        return Measured(self.model, self.texts) if self.texts else None

    def where(self, text: str) -> Any:
        """Read a place as a user writes it."""
        from glassworks.edits import Span

        if text.startswith("text:"):
            return Span.of(self.prompt, text.removeprefix("text:"))
        numbers = text.split(",")
        if all(each.strip().removeprefix("-").isdecimal() for each in numbers):
            return [int(each) for each in numbers]
        return text

    def names(self, layers: Sequence[int] | None) -> list[str]:
        """The coders that stand in for the MLPs, of some layers or all."""
        scope = self.coders
        chosen = [name for name in scope.replacement if not layers or scope[name].reads[0].layer in layers]
        if not chosen:
            raise NotFound(f"The scope {scope.name} has no coders in place of MLPs in the layers {layers}.")
        return chosen


@final
@dataclass(frozen=True)
class Picks:
    """What a user picked to be changed.

    Attributes:
        feature: features as text.
        find: a part of labels.
        like: prompts whose features are wanted.
        unlike: prompts to compare those with.
        most: how many features.
        last: how many of the last tokens prompts are compared at.
        layers: whose coders.
        along: file and site of a direction.
        where: at which tokens.
        chat: whether prompts are messages.
    """

    feature: list[str] | None
    find: str | None
    like: list[str] | None
    unlike: list[str] | None
    most: int
    last: int | None
    layers: list[int] | None
    along: str | None
    where: str
    chat: bool

    def features(self, setting: Setting) -> "list[FeatureRef]":
        """Those that were named, and those whose label holds the text."""
        from glassworks.edits import FeatureRef

        named = [FeatureRef.parse(each) for each in self.feature or ()]
        return list(dict.fromkeys([*named, *(self._found(setting, self.find) if self.find else ())]))

    def contrast(self, setting: Setting) -> Any:
        """What sets the prompts that are wanted apart; None where none was given."""
        from glassworks.edits import contrast

        if not self.like:
            if self.unlike:
                raise BadInput("--unlike compares with the prompts of --like; give those too.")
            return None
        like, unlike = (
            [worded(setting.model, each, self.chat) for each in kind or ()] for kind in (self.like, self.unlike)
        )
        names = setting.names(self.layers)
        many = {"most": self.most, "last": self.last, "coders": names}
        return contrast(setting.model, setting.coders, like, unlike or [setting.prompt], **many)

    def direction(self) -> Any:
        """Site and vector; None where no direction was given."""
        from glassworks.circuits import read_direction

        if not self.along:
            return None
        file, colon, site = self.along.rpartition(":")
        if not colon:
            raise BadInput(f"A direction is written FILE:SITE, probe.npy:resid_post.2; got {self.along!r}.")
        return site, read_direction(file)

    def _found(self, setting: Setting, text: str) -> "list[FeatureRef]":
        from glassworks.edits import FeatureRef

        scope, hits = setting.coders, []
        for name in setting.names(self.layers):
            labels = scope.labels.get(name, [])
            mine = [index for index, label in enumerate(labels) if text.casefold() in label.casefold()]
            coder = scope[name]
            site = coder.reads[0]
            seen = coder.encode(setting.model.capture(setting.prompt, [site])[site.name]).dense().detach().amax(0)
            hits += [(float(seen[index]), FeatureRef(name, None, index)) for index in mine]
        if not hits:
            raise NotFound(f"No label of the scope {scope.name} holds the text {text!r}.")
        return [ref for _, ref in sorted(hits, key=lambda hit: -hit[0])[: self.most]]


def worded(model: "Model", text: str, chat: bool) -> str:
    """A prompt as the model reads it; a chat model's template is put around a message."""
    if not chat:
        return text
    if not getattr(model.tokenizer, "chat_template", None):
        raise BadInput(f"The model {model.name} has no chat template; leave --chat out.")
    message = [{"role": "user", "content": text}]
    whole = model.tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    return whole.removeprefix(model.tokenizer.bos_token or "")


def stored_first(file: Path | None, setting: Setting, edits: "Sequence[Edit]") -> "list[Edit]":
    """The edits of a file, and then these; BadInput where there are none at all."""
    from glassworks.edits import load_edits

    together = [*(load_edits(file, setting.model, setting.scope) if file else ()), *edits]
    if not together:
        raise BadInput("Nothing is to be changed; pick with --feature, --find, --like, --direction or --edits.")
    return together


def written(
    setting: Setting, edits: "Sequence[Edit]", save: Path | None, page: Path | None, html: str
) -> dict[str, str]:
    """Write what was asked for; name -> file."""
    from glassworks.edits import save_edits

    if save is not None:
        save_edits(save, edits, setting.model, setting.scope)
    if page is not None:
        write_page(page, html)
    return {name: str(file) for name, file in (("saved", save), ("page", page)) if file is not None}


def tell(found: "Outcome", files: dict[str, str], as_json: bool) -> None:
    """Print an outcome."""
    from glassworks.cli.options import show

    if as_json:
        print(json.dumps(found.plain() | {"files": files}, ensure_ascii=False))
        return
    rows = [
        {"token": repr(each.token), "clean": each.clean, "edited": each.edited, "logit change": each.logit}
        for each in found.choices
    ]
    facts: dict[str, Any] = {"edits": "; ".join(found.edits), "next token": rows, "KL": found.kl[-1]}
    if found.clean_text or found.edited_text:
        facts |= {"clean": found.clean_text, "edited": found.edited_text}
    other = found.off_target
    if other is not None:
        facts["other text"] = f"KL {other.kl:.3g} when every token is edited, loss {other.clean_loss:.3g}"
        facts["other text"] += f" -> {other.edited_loss:.3g}"
    show(facts | files, as_json)


def _world(model: "Model") -> list[str]:
    """Held-out text of the small world, for the models that learned it; of other models nothing is known."""
    from glassworks import hub, smallworld

    if model.name not in (*hub.ALIASES, *hub.embedded()):
        return []
    stream = smallworld.stream(SEED, 0, "held_out")
    return [next(stream).text for _ in range(TEXTS)]
