"""What commands share: options that are declared once, opening what was named, and how results are printed."""

import functools
import inspect
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from glassworks.errors import BadInput, NotFound

Model = Annotated[str, typer.Option("--model", "-m", help="A folder, an embedded name, or owner/name on the hub.")]
Scope = Annotated[
    str | None, typer.Option("--scope", "-s", help="The scope, or 'none'; the embedded model's own if unset.")
]
Saved = Annotated[Path, typer.Argument(help="A graph's folder, as `trace` writes it, or a file of another program.")]
OtherModel = Annotated[str | None, typer.Option("--model", "-m", help="The model, if not the graph's.")]
OtherScope = Annotated[str | None, typer.Option("--scope", "-s", help="The scope, if not the graph's.")]
Seed = Annotated[int, typer.Option("--seed", help="Of what is drawn.")]
Device = Annotated[str, typer.Option(help="Where to compute.")]
Page = Annotated[Path | None, typer.Option(help="Write tables and pictures to this HTML file.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else there.")]

WIDE = 200
"""Columns of a table that goes to a file or another program, where nothing needs to be cut."""


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field of its first parameter, a dataclass of options."""
    first, *own = inspect.signature(command, eval_str=True).parameters.values()
    kind, hints = first.annotation, get_type_hints(first.annotation, include_extras=True)
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(kind)
    ]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        command(kind(**{one.name: given.pop(one.name) for one in shared}), **given)

    parameters = [*shared, *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own)]
    run.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def opened(place: Path, scope: Any = None) -> Any:
    """Open a graph: its folder, a folder that `trace` wrote, or a file of another program."""
    from glassworks.circuits import load_graph

    return load_graph(place / "graph" if (place / "graph").is_dir() else place, scope)


def scope_of(reference: str | None, model: str) -> Any:
    """The named scope, or the one that the embedded model has; None for `none`, NotFound where there is none."""
    from glassworks import hub
    from glassworks.coders import load_scope

    if reference == "none":
        return None
    if reference is None and model not in (*hub.ALIASES, *hub.embedded("scope")):
        raise NotFound(
            f"The model {model!r} brings no transcoders of its own; give --scope with a folder or owner/name, "
            "or --scope none to explain with attention and error nodes only."
        )
    return load_scope(reference or model)


def lines_of(file: Path) -> list[str]:
    """The lines of a text file that are not blank; NotFound where it cannot be read."""
    try:
        return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise NotFound(f"The file {file} cannot be read as text ({error}).") from error


def held_out_texts(model: Any) -> Iterator[str]:
    """Held-out documents of the small world, for the models that learned it; none for other models."""
    from glassworks import hub, smallworld

    if model.name in (*hub.ALIASES, *hub.embedded()):
        for document in smallworld.stream(1001, 0, "held_out"):
            yield document.text


def status(text: str) -> Any:
    """Say on stderr what is being done, within a block."""
    from rich.console import Console

    return Console(stderr=True).status(text)


@contextmanager
def counting(name: str) -> Iterator[Callable[[int, int], None]]:
    """Show tokens, rows and tokens per second on stderr.

    Yields:
        What has to be called with the tokens and rows that were added since the last call.
    """
    from glassworks.pages import progress_line

    began, tokens, rows = time.monotonic(), 0, 0
    with progress_line(name) as update:

        def report(more_tokens: int, more_rows: int) -> None:
            nonlocal tokens, rows
            tokens, rows = tokens + more_tokens, rows + more_rows
            speed = tokens / max(time.monotonic() - began, 1e-9)
            update(f"{name}: {tokens:,} tokens, {rows:,} rows, {speed:,.0f} tokens/s")

        yield report


def show(result: Any, as_json: bool, *printed: Any) -> None:
    """Print a result on stdout.

    Args:
        result: named values, or an object with `plain()`, its JSON values, and `__rich__`, how it prints.
        as_json: print one JSON object instead of text.
        printed: what to print as text in the place of the result: named values, text, or what prints itself.
    """
    if as_json:
        print(json.dumps(result if isinstance(result, Mapping) else result.plain(), ensure_ascii=False))
        return
    from rich.console import Console
    from rich.text import Text

    from glassworks.pages import facts

    console = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else WIDE)
    for part in printed or (result,):
        if not isinstance(part, Mapping):
            console.print(Text(part) if isinstance(part, str) else part)
        elif part:
            console.print(facts(part))


def write_page(page: Path, html: str) -> None:
    """Write a page, whole or not at all; BadInput where the place cannot be written."""
    from glassworks.artefacts import replace_text

    try:
        replace_text(page, html)
    except OSError as error:
        raise BadInput(f"The page {page} cannot be written ({error.strerror}); choose another place.") from error
