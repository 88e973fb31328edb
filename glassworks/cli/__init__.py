"""The command line: one thin command per verb, everything heavy imported when a command runs.

Results go to stdout, progress and errors to stderr. A mistake of the user is one line and exit code 2.
"""

import sys
from typing import Annotated

import typer

from glassworks import __version__
from glassworks.cli.attention import attention
from glassworks.cli.coders import evaluate, scope
from glassworks.cli.compare import compare
from glassworks.cli.editing import ablate, steer, sweep
from glassworks.cli.graphs import batch, check, diff, export, summary, weights
from glassworks.cli.harvest import harvest
from glassworks.cli.info import check_world, info, models, serve
from glassworks.cli.patch import patch
from glassworks.cli.trace import trace
from glassworks.cli.train import train
from glassworks.cli.transfer import app as transfer
from glassworks.errors import GlassworksError

app = typer.Typer(
    name="glassworks",
    help="Open a language model: find its features, trace its circuits, change them.",
    epilog='Start with:  glassworks trace "The capital of France is" --open',
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
smallworld = typer.Typer(help="The embedded default models: measure them.", no_args_is_help=True)

for verb in (trace, attention, serve, models, info, scope, harvest, train, evaluate, check, summary, export, batch):
    app.command()(verb)
for verb in (diff, weights, compare, steer, ablate, patch, sweep):
    app.command()(verb)
smallworld.command("check")(check_world)
app.add_typer(smallworld, name="smallworld")
app.add_typer(transfer, name="transfer")


def main() -> None:
    """Run the command line; a mistake of the user ends it with one line and exit code 2."""
    try:
        app()
    except GlassworksError as error:
        print(f"glassworks: {error}", file=sys.stderr)
        sys.exit(2)


def _version(wanted: bool) -> bool:
    if wanted:
        print(f"glassworks {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass
