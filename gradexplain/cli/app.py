"""The command line: reads the arguments, calls the verbs, prints, exits.

Exit codes, the same for every command: 0 all agrees, 1 something differs, 2 usage or input error, 3 undecided.
"""

from typer import Typer

from gradexplain.cli import gradients, guides, pictures, teaching

app = Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def gradexplain() -> None:
    """Explains and verifies PyTorch gradients: where every number comes from, and whether it is right.

    Exit codes: 0 all agrees, 1 something differs, 2 usage or input error, 3 could not be decided.
    """


for verb in (gradients.explain, gradients.verify, pictures.graph):
    app.command()(verb)
app.add_typer(pictures.figures, name="figure", help="Draws a figure of gradients, computed by torch.")
app.add_typer(teaching.lessons, name="lesson")
app.command()(gradients.functions)
app.command()(guides.guide)
