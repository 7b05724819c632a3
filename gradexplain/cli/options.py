"""The options that several commands share, each with its help text and its check."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from gradexplain.cli.checks import check_dtype, check_effort, check_seed, check_width, one_of
from gradexplain.documents.formats import FORMATS
from gradexplain.locale.catalogue import LANGUAGES

TargetText = Annotated[str, Argument(help="An expression, package.module:function, or path/file.py:function.")]
Inputs = Annotated[list[str] | None, Argument(metavar="[NAME=VALUE]...", help="The inputs.")]
Wrt = Annotated[list[str] | None, Option(metavar="NAME", help="Differentiate by this input alone.")]
ByHand = Annotated[list[str] | None, Option(metavar="NAME=FORMULA", help="Hold your own formula against the gradient.")]
AsIf = Annotated[
    str | None, Option("--as-if", metavar="FUNCTION", help="Hold the gradient against that of this other function.")
]
Dtype = Annotated[str | None, Option(metavar="TYPE", help="Type of the floating inputs.", callback=check_dtype)]
Effort = Annotated[
    float,
    Option(metavar="SECONDS", help="Time a check may take in running the function again.", callback=check_effort),
]
Seed = Annotated[int, Option(metavar="N", help="Seed of randn, rand, randint and of the run.", callback=check_seed)]
Language = Annotated[str, Option(metavar="en|zh", help="Language.", callback=one_of(LANGUAGES))]
Format = Annotated[str | None, Option(metavar="|".join(FORMATS), help="Format.", callback=one_of(FORMATS))]
Output = Annotated[Path | None, Option(metavar="FILE", help="Write to a file; its suffix tells.")]
Width = Annotated[int | None, Option(metavar="N", help="Width in columns.", callback=check_width)]
