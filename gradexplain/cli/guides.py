"""`guide`."""

import difflib
import sys
from pathlib import Path
from typing import Annotated

import typer

from gradexplain.cli.checks import UsageError
from gradexplain.cli.output import faults_said

_FOLDER = Path(__file__).parent.parent / "guides"


def guide(name: Annotated[str | None, typer.Argument(help="Which guide; without it, all are listed.")] = None) -> None:
    """Shows a guide: Markdown, as it stands in the package.

    \b
    Examples:
      gradexplain guide
      gradexplain guide verify
    """
    with faults_said("en"):
        guides = {file.stem: file for file in _FOLDER.glob("*.md")}
        if name is None:
            width = max(map(len, guides)) + 2
            for known in sorted(guides):
                title = guides[known].read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
                sys.stdout.write(f"{known:{width}}{title}\n")
            return
        if name not in guides:
            close = difflib.get_close_matches(name, guides, n=1, cutoff=0)[0]
            raise UsageError("unknown_name", name=name, close=close, names=", ".join(sorted(guides)))
        text = guides[name].read_text(encoding="utf-8")
        if not sys.stdout.isatty():
            sys.stdout.write(text)
            return
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(text))
