"""`compare`."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradexplain.cli.checks import UsageError, at_least, one_of, page_format
from gradexplain.cli.options import AsIf, Dtype, Format, Inputs, Language, Output, Seed, Width, Wrt
from gradexplain.cli.output import EXIT_CODES, as_guest, deliver, faults_said, page_width, progress
from gradexplain.cli.request import read_request
from gradexplain.errors import InputError
from gradexplain.locale.catalogue import say

if TYPE_CHECKING:
    from gradexplain.targets.request import Request

# The ways to run a target once more; torch, which they need, is loaded later.
DIVIDED = ("0", "1", "2", "none")
AGAINST = ("float64", "float32", "eager", "batch", "math", "single")


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="The reference: a target as explain takes it.")],
    b: Annotated[str | None, typer.Argument(metavar="B", help="What is held against it.")] = None,
    inputs: Inputs = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(AGAINST), help="Hold A against itself, run in this way.", callback=one_of(AGAINST)
        ),
    ] = None,
    parts: Annotated[int, typer.Option(metavar="K", help="Parts of the batch.", callback=at_least(2))] = 2,
    backend: Annotated[str | None, typer.Option(metavar="NAME", help="Backend of torch.compile.")] = None,
    model: Annotated[
        str | None, typer.Option(metavar="FILE:NAME", help="Makes the model of a step, for --against single.")
    ] = None,
    wrap: Annotated[
        str | None, typer.Option(metavar="FILE:NAME", help="Wraps it on every rank; DistributedDataParallel without.")
    ] = None,
    divide: Annotated[
        str,
        typer.Option(
            metavar="0|1|2|none", help="Dimension along which ranks divide the inputs.", callback=one_of(DIVIDED)
        ),
    ] = "0",
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write what A gives into a file, to be compared with later.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option("--with", metavar="FILE", help="Hold A against a file that --save wrote.")
    ] = None,
    patience: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long a rank waits for the others.", min=1)
    ] = 120.0,
    as_if: AsIf = None,
    wrt: Wrt = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(metavar="OLD=NEW", help="What a parameter, module or input of A is called in B; repeatable."),
    ] = None,
    second: Annotated[bool, typer.Option("--second", help="Compare the second derivatives as well.")] = False,
    dtype: Dtype = None,
    seed: Seed = 0,
    language: Language = "en",
    format: Format = None,
    output: Output = None,
    width: Width = None,
) -> None:
    """Says whether A and B are two ways to one gradient, and if not, what the difference is and where it begins.

    There is no tolerance to choose. The rounding of both is measured, each in its own types, and both are held against
    a third run: A in float64. Said are how many times the rounding the difference is, what it looks like (a factor and
    what that is, a sign, a row, a shift), the first step at which the two part, and which of them is nearer to float64.

    \b
    Exit codes: 0 the same, 1 they differ, 2 usage, 3 cannot say.

    \b
    Examples:
      gradexplain compare "mean(x**2)" "sum(x * x) / 9" "x=randn(9):float32"
      gradexplain compare losses.py:old losses.py:new x=randn(8,3) t=0,1,2,0,1,2,0,1:int64
      gradexplain compare model.py:reference model.py:fused x=randn(2,16) --rename encoder=enc --second
      gradexplain compare "log(sum(exp(x)))" "logsumexp(x, 0)" "x=randn(50):bfloat16" --format json
      gradexplain compare model.py:loss "x=randn(8,16):bfloat16" --against float64
      gradexplain compare model.py:loss "x=randn(10,16)" t=0,1,2,0,1,2,0,1,2,0:int64 --against batch --parts 4
      gradexplain compare model.py:loss "x=randn(8,16)" --against eager --backend aot_eager
      gradexplain compare attention.py:layer "x=randn(2,6,16)" --against math
      gradexplain compare model.py:rounded "x=randn(8,16)" --as-if model.py:identity
      gradexplain compare model.py:loss "x=randn(8,16)" --save reference.safetensors
      gradexplain compare model.py:loss "x=randn(8,16)" --with reference.safetensors
      torchrun --nproc-per-node 2 -m gradexplain compare train.py:step "x=randn(8,4)" --against single \\
        --model train.py:make --wrap train.py:wrap
    """
    with faults_said(language):
        chosen = page_format(format, output)
        given = list(inputs or ())
        alone = any(x is not None for x in (against, save, reference, as_if))
        if b is not None and re.match(r"\w+\s*=(?!=)", b):  # an input where B was left out
            given, b = [b, *given], None
        if b is not None and alone:
            raise UsageError("compare_alone", a=a, b=b)
        if as_if is not None and (against or save or reference):
            raise InputError("as_if_alone")
        if sum(x is not None for x in (against, save, reference)) > 1 or (second and (save or reference)):
            raise InputError("reference_alone")
        if b is None and not alone:
            raise UsageError("compare_target", name=a)
        request = read_request(a, given, dtype=dtype, seed=seed, wrt=wrt)
        names = _renames(rename or ())
        if against == "single":
            raise typer.Exit(_single(request, model, wrap, divide, patience, (chosen, language, output, width)))
        if save is not None:
            raise typer.Exit(_saved(request, save, language))
        with progress(language), as_guest(a):
            import gradexplain.api as api

            options = {"against": against, "parts": parts, "backend": backend, "rename": names, "second": second}
            comparison = api.compared(request, b, reference=reference, as_if=as_if, **options)
        deliver(comparison.render(chosen, language=language, width=width or page_width()), output, language)
    raise typer.Exit(EXIT_CODES[comparison.verdict])


def _single(
    request: "Request",
    model: str | None,
    wrap: str | None,
    divide: str,
    patience: float,
    page: tuple[str, str, Path | None, int | None],
) -> int:
    """Holds all ranks against one process; the first rank says what came of it, and all end with the same code."""
    if model is None:
        raise UsageError("ranks_model")
    import gradexplain.api as api

    chosen, language, output, width = page
    dim = None if divide == "none" else int(divide)
    try:
        with as_guest(request.target):
            comparison, verdict = api.compared_single(request, model, wrap, dim, patience)
    except InputError as fault:
        if fault.key != "ranks_lost":
            raise
        sys.stderr.write(f"gradexplain: {fault.sentence(language)}\n")
        return EXIT_CODES["cannot say"]
    if comparison is not None:
        deliver(comparison.render(chosen, language=language, width=width or page_width()), output, language)
    return EXIT_CODES[verdict]


def _saved(request: "Request", path: Path, language: str) -> int:
    """Writes what A gives, and says where."""
    with progress(language), as_guest(request.target):
        import gradexplain.api as api

        api.saved(request, path)
    sys.stdout.write(say("explanation.complete", language, path=path) + "\n")
    return 0


def _renames(given: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in given:
        old, equals, new = (part.strip() for part in text.partition("="))
        if not (old and equals and new):
            raise UsageError("bad_rename", text=text)
        found[old] = new
    return found
