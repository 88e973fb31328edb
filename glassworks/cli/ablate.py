"""`glassworks ablate`: take features, heads, a direction or a whole site away, and show what the model says then."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from glassworks.cli import editing
from glassworks.cli.editing import Picks, Setting
from glassworks.cli.options import Json, Model
from glassworks.errors import BadInput

if TYPE_CHECKING:
    from glassworks.edits import Edit


def ablate(
    prompt: Annotated[str, typer.Argument(help="The prompt.")],
    feature: editing.Feature = None,
    find: editing.Find = None,
    like: editing.Like = None,
    unlike: editing.Unlike = None,
    head: Annotated[list[str] | None, typer.Option(help="LAYER.HEAD, as 2.3; repeatable.")] = None,
    site: Annotated[list[str] | None, typer.Option(help="A whole site, as mlp_out.2; repeatable.")] = None,
    direction: editing.Along = None,
    to: Annotated[str, typer.Option(help="zero, mean (of other text), or resample (from other text).")] = "zero",
    error: Annotated[str, typer.Option(help="keep or drop what the coders do not explain.")] = "keep",
    where: editing.Where = "all",
    most: editing.Most = 8,
    last: editing.Last = None,
    layer: editing.Layers = None,
    model: Model = "smallworld",
    effect: editing.Effect = "total",
    scope: editing.Scoped = None,
    reference: editing.Reference = None,
    chat: editing.Chat = False,
    edits: editing.Stored = None,
    tokens: editing.Tokens = 20,
    save: editing.Save = None,
    as_json: Json = False,
    page: editing.Page = None,
) -> None:
    """Silence features (what --like prompts have and --unlike ones lack), heads or sites; project out a direction."""
    from rich.console import Console

    with Console(stderr=True).status("Ablating ..."):
        from glassworks.edits import outcome, outcome_page

        setting = Setting.of(model, scope, prompt, chat, reference)
        picks = Picks(feature, find, like, unlike, most, last, layer, direction, where, chat)
        kept = {"where": setting.where(where), "effect": effect}
        made = _made(setting, picks, to, error, kept) + _parts(head or [], site or [], to, setting, kept)
        made = editing.stored_first(edits, setting, made)
        found = outcome(setting.model, setting.prompt, made, new_tokens=tokens, reference=setting.texts)
        files = editing.written(setting, made, save, page, outcome_page(found))
    editing.tell(found, files, as_json)


def _made(setting: Setting, picks: Picks, to: str, error: str, kept: dict[str, Any]) -> "list[Edit]":
    """Edits of the features and the direction that were picked."""
    from glassworks.edits import FeatureRef, project_out
    from glassworks.edits import ablate as silence

    contrast, along = picks.contrast(setting), picks.direction()
    rising = [] if contrast is None else [FeatureRef(ref.coder_id, None, ref.index) for ref in contrast.rising]
    refs = list(dict.fromkeys([*picks.features(setting), *rising]))
    found = []
    if refs:
        found.append(silence(refs, setting.coders, to, error=error, reference=setting.reference, **kept))
    if along:
        found.append(project_out(along[0], along[1], **kept))
    return found


def _parts(heads: list[str], sites: list[str], to: str, setting: Setting, kept: dict[str, Any]) -> "list[Edit]":
    """Edits of heads and whole sites."""
    from glassworks.edits import Heads, Whole
    from glassworks.edits import ablate as silence
    from glassworks.sites import Site

    targets: list[Any] = [Whole(Site.parse(each)) for each in sites]
    if heads:
        targets.append(Heads(tuple(_head(each) for each in heads)))
    return [silence(target, None, to, reference=setting.reference, **kept) for target in targets]


def _head(text: str) -> tuple[int, int]:
    layer, dot, head = text.partition(".")
    if not (dot and layer.isdecimal() and head.isdecimal()):
        raise BadInput(f"A head is written LAYER.HEAD, as 2.3; got {text!r}.")
    return int(layer), int(head)
