"""The command line: reads the arguments, calls the verbs, prints, exits.

Exit codes, the same for every command: 0 all agrees, 1 something differs, 2 usage or input error, 3 undecided.
"""

import sys
from typing import Annotated

import typer

from gradexplain.cli import comparisons, gradients, guides, pictures, playing, teaching, training
from gradexplain.cli.groups import Command
from gradexplain.locale.spelling import as_typed, options_spelled
from gradexplain.versions.releases import version_line

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def version(asked: bool = True) -> None:
    """Says which gradexplain, torch and Python these are."""
    if asked:
        sys.stdout.write(version_line() + "\n")
        raise typer.Exit


@app.callback()
def gradexplain(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", "-V", callback=version, is_eager=True, help="Say the versions and exit.")
    ] = False,
) -> None:
    """Explains and verifies PyTorch gradients: where every number comes from, and whether it is right.

    Exit codes: 0 all agrees, 1 something differs, 2 usage or input error, 3 could not be decided.
    """
    context.with_resource(options_spelled(as_typed))


def help_page(context: typer.Context, command: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Shows the help of a command."""
    app([*(command or []), "--help"], prog_name=context.find_root().info_name)


for verb in (gradients.explain, gradients.verify, comparisons.compare, pictures.graph):
    app.command(cls=Command)(verb)
app.command(cls=training.RunCommand)(training.run)
app.add_typer(pictures.figures, name="figure", help="Draws a figure of gradients, computed by torch.")
app.add_typer(teaching.lessons, name="lesson")
app.command(cls=Command)(playing.play)
app.command()(gradients.functions)
app.command()(guides.guide)
app.command("help", hidden=True)(help_page)
app.command("version", hidden=True)(lambda: version())
