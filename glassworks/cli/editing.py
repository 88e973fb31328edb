"""`glassworks steer`, `sweep` and `ablate`: change features, directions, heads or sites, and show what comes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, final

import typer

from glassworks.cli.options import (
    Json,
    Model,
    Page,
    Scope,
    held_out_texts,
    lines_of,
    scope_of,
    show,
    spread,
    status,
    write_page,
)
from glassworks.errors import BadInput, NotFound

if TYPE_CHECKING:
    from glassworks.edits import Contrast, Edit, FeatureRef
    from glassworks.models import Model as LoadedModel

TEXTS = 24
Chat = Annotated[bool, typer.Option("--chat", help="The prompts are a user's messages to a chat model.")]
Unit = Annotated[
    str, typer.Option(help="Of the amount: absolute, max (the feature's on its corpus), norm (the stream's).")
]
SetTo = Annotated[bool, typer.Option("--set", help="Set activations to the amount, not add it.")]
Stored = Annotated[Path | None, typer.Option("--edits", help="A file of edits that act first, as --save writes it.")]
Save = Annotated[Path | None, typer.Option(help="Write the edits to this JSON file.")]
Tokens = Annotated[int, typer.Option(help="How far to continue the prompt.", min=0)]


@final
@dataclass(frozen=True)
class Options:
    """The options of all three commands, and what they name, opened when it is first needed."""

    prompt: Annotated[str, typer.Argument(help="The prompt.")]
    feature: Annotated[
        list[str] | None, typer.Option("--feature", "-f", help="CODER/INDEX, as mlp_in.2/17; repeatable.")
    ] = None
    find: Annotated[
        str | None, typer.Option(help="Features whose label holds this text, the most active ones first.")
    ] = None
    like: Annotated[list[str] | None, typer.Option(help="Prompts whose features are wanted; repeatable.")] = None
    unlike: Annotated[
        list[str] | None, typer.Option(help="Prompts to compare those with; the prompt itself if unset.")
    ] = None
    most: Annotated[int, typer.Option(help="Features: of --find in all; of --like per coder and token.", min=1)] = 8
    last: Annotated[
        int | None, typer.Option(help="Of --like, how many of the last tokens; all if equally many.", min=1)
    ] = None
    layer: Annotated[list[int] | None, typer.Option("--layer", help="Only coders of these layers; repeatable.")] = None
    direction: Annotated[str | None, typer.Option(help="FILE:SITE, a vector in .npy or .safetensors.")] = None
    where: Annotated[
        str, typer.Option(help="all, prompt, generated, last, 3,-1 (positions), or text:PART of the prompt.")
    ] = "all"
    effect: Annotated[str, typer.Option(help="What stays frozen: total, attention, attention+norms, direct.")] = "total"
    model: Model = "smallworld"
    scope: Scope = None
    chat: Chat = False
    reference: Annotated[Path | None, typer.Option(help="Text file, one text a line, to measure side effects on.")] = (
        None
    )
    page: Page = None
    as_json: Json = False

    @cached_property
    def loaded(self) -> "LoadedModel":
        """The model."""
        from glassworks.models import load_model

        return load_model(self.model)

    @cached_property
    def coders(self) -> Any:
        """The scope; None where there is none."""
        from glassworks import hub

        own = self.model if self.model in (*hub.ALIASES, *hub.embedded("scope")) else "none"
        return scope_of(self.scope or own, self.model)

    @property
    def needed_coders(self) -> Any:
        """The scope; NotFound where there is none."""
        if self.coders is None:
            raise NotFound(f"The model {self.loaded.name} brings no scope; give --scope with a folder or owner/name.")
        return self.coders

    @property
    def text(self) -> str:
        """The prompt as the model reads it."""
        return chat_prompt(self.loaded, self.prompt, self.chat)

    @cached_property
    def texts(self) -> list[str]:
        """Other text: the reference's, or held-out text of the small world for the models that learned it."""
        if self.reference is None:
            return list(islice(held_out_texts(self.loaded), TEXTS))
        return lines_of(self.reference)

    @cached_property
    def shared(self) -> dict[str, Any]:
        """Arguments of every function that makes an edit."""
        from glassworks.edits import Reference, Span

        where: Any = self.where
        if where.startswith("text:"):
            where = Span.of(self.text, where.removeprefix("text:"))
        elif all(number.strip().removeprefix("-").isdecimal() for number in where.split(",")):
            where = [int(number) for number in where.split(",")]
        reference = Reference(self.loaded, self.texts) if self.texts else None
        return {"where": where, "effect": self.effect, "reference": reference}

    def coder_names(self) -> list[str]:
        """The coders that replace the MLPs, of some layers or all."""
        scope = self.needed_coders
        names = [name for name in scope.replacement if not self.layer or scope[name].reads[0].layer in self.layer]
        if not names:
            raise NotFound(f"The scope {scope.name} has no coders that replace MLPs in the layers {self.layer}.")
        return names

    def features(self) -> "list[FeatureRef]":
        """The features that were named, and those whose label holds the text of --find."""
        from glassworks.edits import FeatureRef

        refs = [FeatureRef.parse(text) for text in self.feature or ()]
        if self.find:
            scope, hits = self.needed_coders, []
            for name in self.coder_names():
                coder, site = scope[name], scope[name].reads[0]
                active = coder.encode(self.loaded.capture(self.text, [site])[site.name]).dense().detach().amax(0)
                for index, label in enumerate(scope.labels.get(name, [])):
                    if self.find.casefold() in label.casefold():
                        hits.append((float(active[index]), FeatureRef(name, None, index)))
            if not hits:
                raise NotFound(f"No label of the scope {scope.name} holds the text {self.find!r}.")
            refs += [ref for _, ref in sorted(hits, key=lambda hit: -hit[0])[: self.most]]
        return list(dict.fromkeys(refs))

    def contrast(self) -> "Contrast | None":
        """What sets the prompts of --like apart; None where there are none."""
        from glassworks.edits import contrast

        if not self.like:
            if self.unlike:
                raise BadInput("--unlike compares with the prompts of --like; give those too.")
            return None
        like, unlike = (
            [chat_prompt(self.loaded, prompt, self.chat) for prompt in kind or ()] for kind in (self.like, self.unlike)
        )
        options = {"most": self.most, "last": self.last, "coders": self.coder_names()}
        return contrast(self.loaded, self.needed_coders, like, unlike or [self.text], **options)

    def vector(self) -> "tuple[str, Any] | None":
        """Site and vector of --direction; None where none was given."""
        from glassworks.circuits import read_direction

        if not self.direction:
            return None
        file, colon, site = self.direction.rpartition(":")
        if not colon:
            raise BadInput(f"A direction is written FILE:SITE, probe.npy:resid_post.2; got {self.direction!r}.")
        return site, read_direction(file)

    def maker(self, unit: str, to: bool) -> "Callable[[float], list[Edit]]":
        """A function that makes the edits of an amount."""
        from glassworks.edits import add_features, add_vector, set_features

        shared, refs, contrast, vector = self.shared, self.features(), self.contrast(), self.vector()
        if to and (contrast or vector):
            raise BadInput("--set is for --feature and --find; --like and --direction are added.")
        if contrast and (unit, self.where) != ("absolute", "all"):
            raise BadInput("--like says itself how much and where; leave --unit and --where out.")

        def make(amount: float) -> "list[Edit]":
            edits = []
            if refs:
                change = set_features if to else add_features
                edits.append(change(refs, amount, self.needed_coders, unit=unit, **shared))
            if contrast:
                moved = [amount * change for change in contrast.change]
                edits.append(add_features(list(contrast.refs), moved, self.needed_coders, effect=self.effect))
            if vector:
                edits.append(add_vector(*vector, by=amount, unit=unit, **shared))
            return edits

        return make

    def apply(
        self, doing: str, make: "Callable[[], list[Edit]]", stored: Path | None, tokens: int, save: Path | None
    ) -> None:
        """Show and write the outcome of the edits of a file and of those that are made here."""
        from glassworks.edits import load_edits, outcome, outcome_page, save_edits

        with status(doing):
            made = make()
            edits = _some([*(load_edits(stored, self.loaded, self.coders) if stored else ()), *made])
            result = outcome(self.loaded, self.text, edits, reference=self.texts, new_tokens=tokens)
            if save is not None:
                save_edits(save, edits, self.loaded, self.coders)
            if self.page is not None:
                write_page(self.page, outcome_page(result))
        files = {name: str(file) for name, file in (("saved", save), ("page", self.page)) if file is not None}
        show(result.plain() | {"files": files}, self.as_json, result, files)


@spread
def steer(
    options: Options,
    by: Annotated[float, typer.Option(help="How much is added; of --like, how far to go there.")] = 1.0,
    unit: Unit = "absolute",
    to: SetTo = False,
    tokens: Tokens = 20,
    edits: Stored = None,
    save: Save = None,
) -> None:
    """Add to features, or along a direction, and show what the model says then."""
    options.apply("Steering ...", lambda: options.maker(unit, to)(by), edits, tokens, save)


@spread
def sweep(
    options: Options,
    amounts: Annotated[str, typer.Option(help="The doses, separated by commas.")] = "-2,-1,0,1,2,4",
    watch: Annotated[list[str] | None, typer.Option(help="A token whose probability is shown; repeatable.")] = None,
    unit: Unit = "absolute",
    to: SetTo = False,
    tokens: Tokens = 12,
) -> None:
    """Steer in several amounts: how the answer follows the dose, and what each dose does to other text."""
    with status("Steering ..."):
        from glassworks.edits import doses, doses_page

        make, model, prompt = options.maker(unit, to), options.loaded, options.text
        try:
            numbers = [float(number) for number in amounts.split(",")]
        except ValueError as error:
            raise BadInput(f"The amounts {amounts!r} are not numbers separated by commas, as in 0,1,2.") from error
        words = "; ".join(map(str, _some(make(numbers[-1]))))
        result = doses(model, prompt, make, numbers, watch=watch or (), reference=options.texts, new_tokens=tokens)
        if options.page is not None:
            write_page(options.page, doses_page(prompt, words, result))
    facts = {"model": model.name, "prompt": prompt, "edits": words}
    written = {"page": str(options.page)} if options.page else {}
    values = facts | {"doses": [dose.plain() for dose in result]} | written
    show(values, options.as_json, values | {"doses": [dose.row() for dose in result]})


@spread
def ablate(
    options: Options,
    head: Annotated[list[str] | None, typer.Option(help="LAYER.HEAD, as 2.3; repeatable.")] = None,
    site: Annotated[list[str] | None, typer.Option(help="A whole site, as mlp_out.2; repeatable.")] = None,
    to: Annotated[str, typer.Option(help="zero, mean (of other text), or resample (from other text).")] = "zero",
    error: Annotated[str, typer.Option(help="keep or drop what the coders do not explain.")] = "keep",
    tokens: Tokens = 20,
    edits: Stored = None,
    save: Save = None,
) -> None:
    """Silence features (what --like prompts have and --unlike ones lack), heads or sites; project out a direction."""

    def make() -> "list[Edit]":
        from glassworks.edits import FeatureRef, Heads, Whole, project_out
        from glassworks.edits import ablate as ablation
        from glassworks.sites import Site

        shared, made, contrast = options.shared, [], options.contrast()
        rising = [] if contrast is None else [FeatureRef(ref.coder_id, None, ref.index) for ref in contrast.rising]
        refs = list(dict.fromkeys([*options.features(), *rising]))
        if refs:
            made.append(ablation(refs, options.needed_coders, to, error=error, **shared))
        if vector := options.vector():
            made.append(project_out(*vector, shared["where"], effect=options.effect))
        targets: list[Any] = [Whole(Site.parse(name)) for name in site or ()]
        heads = [text.split(".") for text in head or ()]
        for text, numbers in zip(head or (), heads, strict=True):
            if len(numbers) != 2 or not all(map(str.isdecimal, numbers)):
                raise BadInput(f"A head is written LAYER.HEAD, as 2.3; got {text!r}.")
        targets += [Heads(tuple((int(layer), int(number)) for layer, number in heads))] if heads else []
        return made + [ablation(target, None, to, **shared) for target in targets]

    options.apply("Ablating ...", make, edits, tokens, save)


def chat_prompt(model: "LoadedModel", text: str, chat: bool) -> str:
    """A prompt as the model reads it; a chat model's template is put around a message."""
    if not chat:
        return text
    if not getattr(model.tokenizer, "chat_template", None):
        raise BadInput(f"The model {model.name} has no chat template; leave --chat out.")
    message = [{"role": "user", "content": text}]
    whole = model.tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    return whole.removeprefix(model.tokenizer.bos_token or "")


def _some(edits: "list[Edit]") -> "list[Edit]":
    """The edits; BadInput where there are none."""
    if not edits:
        raise BadInput("Nothing is to be changed; pick with --feature, --find, --like, --direction or --edits.")
    return edits
