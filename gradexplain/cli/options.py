"""The options that several commands share, each with its help text."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from gradexplain.cli.checks import FORMATS

TargetText = Annotated[str, Argument(help="An expression, package.module:function, or path/file.py:function.")]
Inputs = Annotated[list[str] | None, Argument(metavar="[NAME=VALUE]...", help="The inputs.")]
Wrt = Annotated[list[str] | None, Option(metavar="NAME", help="Differentiate by this input alone.")]
ByHand = Annotated[list[str] | None, Option(metavar="NAME=FORMULA", help="Hold your own formula against the gradient.")]
Dtype = Annotated[str | None, Option(metavar="TYPE", help="Type of the floating inputs.")]
Effort = Annotated[float, Option(metavar="SECONDS", help="Time a check may take in running the function again.")]
Seed = Annotated[int, Option(metavar="N", help="Seed of randn, rand, randint and of the run.")]
Language = Annotated[str, Option(metavar="en|zh", help="Language.")]
Format = Annotated[str | None, Option(metavar="|".join(FORMATS), help="Format.")]
Output = Annotated[Path | None, Option(metavar="FILE", help="Write to a file; its suffix tells.")]
Width = Annotated[int | None, Option(metavar="N", help="Width in columns.")]
