"""`glassworks steer` and `glassworks sweep`: push the model along features or a direction, by one amount or several."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glassworks.cli import editing
from glassworks.cli.editing import Picks, Setting
from glassworks.cli.options import Json, Model, show, write_page
from glassworks.errors import BadInput

if TYPE_CHECKING:
    from glassworks.edits import Edit

Prompt = Annotated[str, typer.Argument(help="The prompt.")]
Unit = Annotated[
    str, typer.Option(help="Of the amount: absolute, max (the feature's on its corpus), norm (the stream's).")
]
SetTo = Annotated[bool, typer.Option("--set", help="Set activations to the amount, not add it.")]


def steer(
    prompt: Prompt,
    by: Annotated[float, typer.Option(help="How much is added; of --like, how far to go there.")] = 1.0,
    unit: Unit = "absolute",
    to: SetTo = False,
    feature: editing.Feature = None,
    find: editing.Find = None,
    like: editing.Like = None,
    unlike: editing.Unlike = None,
    direction: editing.Along = None,
    most: editing.Most = 8,
    last: editing.Last = None,
    layer: editing.Layers = None,
    where: editing.Where = "all",
    effect: editing.Effect = "total",
    model: Model = "smallworld",
    scope: editing.Scoped = None,
    chat: editing.Chat = False,
    reference: editing.Reference = None,
    tokens: editing.Tokens = 20,
    edits: editing.Stored = None,
    save: editing.Save = None,
    page: editing.Page = None,
    as_json: Json = False,
) -> None:
    """Add to features, or along a direction, and show what the model says then."""
    from rich.console import Console

    with Console(stderr=True).status("Steering ..."):
        from glassworks.edits import outcome, outcome_page

        setting = Setting.of(model, scope, prompt, chat, reference)
        picks = Picks(feature, find, like, unlike, most, last, layer, direction, where, chat)
        made = editing.stored_first(edits, setting, _maker(setting, picks, unit, effect, to)(by))
        found = outcome(setting.model, setting.prompt, made, reference=setting.texts, new_tokens=tokens)
        files = editing.written(setting, made, save, page, outcome_page(found))
    editing.tell(found, files, as_json)


def sweep(
    prompt: Prompt,
    amounts: Annotated[str, typer.Option(help="The doses, separated by commas.")] = "-2,-1,0,1,2,4",
    watch: Annotated[list[str] | None, typer.Option(help="A token whose probability is told; repeatable.")] = None,
    unit: Unit = "absolute",
    feature: editing.Feature = None,
    find: editing.Find = None,
    like: editing.Like = None,
    to: SetTo = False,
    unlike: editing.Unlike = None,
    most: editing.Most = 8,
    last: editing.Last = None,
    layer: editing.Layers = None,
    direction: editing.Along = None,
    where: editing.Where = "all",
    model: Model = "smallworld",
    scope: editing.Scoped = None,
    effect: editing.Effect = "total",
    chat: editing.Chat = False,
    reference: editing.Reference = None,
    tokens: editing.Tokens = 12,
    page: editing.Page = None,
    as_json: Json = False,
) -> None:
    """Steer in several amounts: how the answer follows the dose, and what each dose does to other text."""
    from rich.console import Console

    with Console(stderr=True).status("Steering ..."):
        from glassworks.edits import doses, doses_page

        setting = Setting.of(model, scope, prompt, chat, reference)
        picks = Picks(feature, find, like, unlike, most, last, layer, direction, where, chat)
        make, many = _maker(setting, picks, unit, effect, to), _numbers(amounts)
        words = "; ".join(map(str, editing.stored_first(None, setting, make(many[-1]))))
        found = doses(
            setting.model,
            setting.prompt,
            make,
            many,
            watch=watch or (),
            reference=setting.texts,
            new_tokens=tokens,
        )
        if page is not None:
            write_page(page, doses_page(setting.prompt, words, found))
    plain = [each.plain() for each in found]
    result = {"model": setting.model.name, "prompt": setting.prompt, "edits": words, "doses": plain}
    result |= {"page": str(page)} if page else {}
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        show(result | {"doses": [_row(each) for each in plain]}, as_json)


def _maker(setting: Setting, picks: Picks, unit: str, effect: str, to: bool) -> "Callable[[float], list[Edit]]":
    """Gives the edits of an amount; what was picked is found once."""
    from glassworks.edits import add_features, add_vector, set_features

    where, reference = setting.where(picks.where), setting.reference
    refs, contrast, along = picks.features(setting), picks.contrast(setting), picks.direction()
    change = set_features if to else add_features
    if to and (contrast or along):
        raise BadInput("--set is for --feature and --find; --like and --direction are added.")
    if contrast and (unit, where) != ("absolute", "all"):
        raise BadInput("--like says itself how much and where; leave --unit and --where out.")

    def made(amount: float) -> "list[Edit]":
        found = []
        if refs:
            found.append(
                change(refs, amount, setting.coders, where=where, unit=unit, effect=effect, reference=reference)
            )
        if contrast:
            moved = [amount * each for each in contrast.change]
            found.append(add_features(list(contrast.refs), moved, setting.coders, effect=effect))
        if along:
            site, vector = along
            found.append(add_vector(site, vector, where, by=amount, unit=unit, effect=effect, reference=reference))
        return found

    return made


def _numbers(text: str) -> list[float]:
    try:
        return [float(each) for each in text.split(",")]
    except ValueError as error:
        raise BadInput(f"The amounts {text!r} are not numbers separated by commas, as in 0,1,2.") from error


def _row(dose: dict[str, Any]) -> dict[str, Any]:
    """One line of the table."""
    chances = {f"p({token})": each for token, each in dose["probabilities"].items()}
    return {
        "amount": dose["amount"],
        "next": dose["top"],
        **chances,
        "KL": dose["kl"],
        "KL elsewhere": dose["off_target"],
    }
