"""`explain`, `verify` and `functions`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradexplain.cli.checks import UsageError, page_format
from gradexplain.cli.options import (
    AsIf,
    ByHand,
    Dtype,
    Effort,
    Format,
    Inputs,
    Language,
    Output,
    Seed,
    TargetText,
    Width,
    Wrt,
)
from gradexplain.cli.output import EXIT_CODES, as_guest, deliver, faults_said, page_width, progress
from gradexplain.cli.request import read_request
from gradexplain.errors import InputError
from gradexplain.locale.catalogue import say

if TYPE_CHECKING:
    from gradexplain.receipts.report import ReceiptReport


def explain(
    target: TargetText,
    inputs: Inputs = None,
    wrt: Wrt = None,
    order: Annotated[int, typer.Option(metavar="N", help="Second and higher derivatives as well.")] = 1,
    cotangent: Annotated[
        str | None, typer.Option(metavar="VALUE", help="Weights of an output that is not one number.")
    ] = None,
    by_hand: ByHand = None,
    dtype: Dtype = None,
    element: Annotated[str | None, typer.Option(metavar='"x[1]"', help="Follow one element alone.")] = None,
    module: Annotated[str | None, typer.Option(metavar="NAME", help="Open one module of a network.")] = None,
    effort: Effort = 2.0,
    seed: Seed = 0,
    language: Language = "en",
    format: Format = None,
    full: Annotated[bool, typer.Option("--full", help="Whole tensors in JSON, however large.")] = False,
    output: Output = None,
    width: Width = None,
) -> None:
    """Shows where every number of a gradient comes from, and checks it.

    \b
    VALUE is 3 or 1,2,3 or "[[1,2],[3,4]]" or randn(3,2), ones(5), arange(1,6), linspace(-2,2,9), @file.npy, @file.pt,
    each with an optional type: 1,2,3:float64.

    \b
    Examples:
      gradexplain explain "sum(x**2)" x=1,2,3
      gradexplain explain "x**2 + 2*x" x=3 --by-hand "x=2*x + 2"
      gradexplain explain "sum(A @ B)" "A=[[1,2],[3,4]]" "B=[[2,1],[0,3]]" --language zh
      gradexplain explain "h = tanh(x @ W + b); cross_entropy(h, t)" "x=randn(2,3)" "W=randn(3,4)" b=0,0,0,0 t=1,3:int64
      gradexplain explain "x**3" x=3 --order 2
      gradexplain explain my_module:loss x=randn(5) --element "x[1]" --output explanation.md
    """
    with faults_said(language):
        chosen = page_format(format, output)
        asked = {"wrt": wrt, "order": order, "cotangent": cotangent, "element": element, "module": module}
        request = read_request(target, inputs, by_hand, dtype=dtype, seed=seed, **asked)
        with progress(language), as_guest(target):
            import gradexplain.api as api

            explanation = api.explained(request, effort=effort)
        if chosen == "json":
            content = explanation.to_json(full=full) + "\n"
        else:
            content = explanation.render(chosen, language=language, width=width or page_width())
        deliver(content, output, language)
    stopped = explanation.verdict == "cannot say" and explanation.reason == "stopped"
    raise typer.Exit(EXIT_CODES["agrees" if stopped else explanation.verdict])


def verify(
    target: Annotated[str, typer.Argument(help="As for explain; or a saved RECEIPT.json, to be asked again.")],
    inputs: Inputs = None,
    wrt: Wrt = None,
    by_hand: ByHand = None,
    each_operation: Annotated[
        bool, typer.Option("--each-operation", help="Check every operation of the graph alone, wrong or not.")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="Compare every element of the Jacobian.")] = False,
    second: Annotated[bool, typer.Option("--second", help="Verify the second derivatives as well.")] = False,
    batched: Annotated[bool, typer.Option("--batched", help="Compare gradients computed at once (vmap).")] = False,
    exact: Annotated[bool, typer.Option("--exact", help="Ask sympy for the derivative with 50 digits.")] = False,
    stops: Annotated[
        list[str] | None,
        typer.Option(help="A place where a slope is meant to end, FILE:LINE, or intended for all; repeatable."),
    ] = None,
    allow_unseen: Annotated[
        bool, typer.Option("--allow-unseen", help="Let elements pass that are too small for any method to see.")
    ] = False,
    as_if: AsIf = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the program that a receipt names, without asking first.")
    ] = False,
    dtype: Dtype = None,
    effort: Effort = 2.0,
    seed: Seed = 0,
    language: Language = "en",
    format: Format = None,
    output: Output = None,
    width: Width = None,
) -> None:
    """Says whether a gradient is right, by means that share nothing with torch's backward, and names what is wrong.

    There is no tolerance to choose: every difference is held against the error bounds of the methods that differ. Where
    the whole does not agree, each operation is checked alone, and the wrong one is named with its line, input, elements
    and what the error looks like.

    \b
    Examples:
      gradexplain verify my_module:loss x=randn(5,3) t=0,1,2,0,1:int64
      gradexplain verify losses.py:focal "x=randn(8):float32" --each-operation
      gradexplain verify "sum(relu(x) * x)" x=0,1,-1
      gradexplain verify "sum(x**2)" x=1,2,3 --by-hand "x=3*x"
      gradexplain verify "log_softmax(x, 0)" "x=randn(4)" --full --second --batched --exact
      gradexplain verify "mean((x - detach(x) / 2)**2)" x=1,2,3 --stops intended
      gradexplain verify my_module:rounded "x=randn(5)" --as-if my_module:identity
      gradexplain verify my_module:loss "x=randn(5)" --output receipt.json
      gradexplain verify receipt.json --trust

    A receipt is an explanation or a verification saved as JSON. Its question is asked again of its target, and must
    give the same record: exit code 1 if the receipt is refused or its gradient is wrong. A program that it names is
    imported and run only with --trust, or if you say so at the terminal; an expression runs nobody's code.
    """
    with faults_said(language):
        chosen = page_format(format, output)
        if target.endswith(".json"):
            checked = _checked(Path(target), inputs or [], language, trust=trust)
            deliver(checked.render(chosen, language=language, width=width or page_width()), output, language)
            raise typer.Exit(EXIT_CODES[checked.verdict])
        request = read_request(target, inputs, by_hand, dtype=dtype, seed=seed, wrt=wrt)
        with progress(language), as_guest(target):
            import gradexplain.api as api
            from gradexplain.verification.options import Options

            asked = Options(effort, each_operation, full, second, batched, exact, tuple(stops or ()), allow_unseen)
            report = api.verified(request, asked, as_if=as_if)
        deliver(report.render(chosen, language=language, width=width or page_width()), output, language)
    raise typer.Exit(EXIT_CODES[report.verdict])


def functions(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", show_default=False)] = None,
    operators: Annotated[bool, typer.Option("--operators", help="All operators that have a rule, in a table.")] = False,
    language: Language = "en",
    format: Format = None,
    output: Output = None,
    width: Width = None,
) -> None:
    """Lists what an expression may use; of a NAME, says what is known of its operators.

    That is the rule of each, its kinks, whether torch differentiates it twice, and how the rule is proved; or why there
    is none. Operators are named as torch names them.

    \b
    Examples:
      gradexplain functions
      gradexplain functions tanh grid_sampler_2d aten.div.Tensor_mode
      gradexplain functions --operators --format markdown
    """
    if names or operators:
        with faults_said(language):
            chosen = page_format(format, output)
            from gradexplain.narration import inventories  # noqa: F401  # registers how it is told
            from gradexplain.verification.inventory import inventory

            with progress(language):
                found = inventory(names or ())
            deliver(found.render(chosen, language=language, width=width or page_width()), output, language)
        return
    import textwrap

    from gradexplain.targets.vocabulary import published

    for family, members in published():
        sys.stdout.write(
            f"{family}\n{textwrap.fill(' '.join(members), 98, initial_indent='  ', subsequent_indent='  ')}\n\n"
        )


def _checked(path: Path, inputs: Sequence[str], language: str, *, trust: bool) -> "ReceiptReport":
    """Asks the question of a receipt again and says what came of it; for a program, the user's consent comes first."""
    if inputs:
        raise UsageError("receipt_inputs", text=inputs[0])
    from shlex import quote

    from gradexplain.receipts.answer import check_receipt

    try:
        with progress(language), as_guest(str(path)):
            return check_receipt(path, trust=trust)
    except InputError as fault:
        if fault.key != "receipt_untrusted":
            raise
        if not (sys.stdin.isatty() and sys.stderr.isatty()) or not typer.confirm(
            say("usage.receipt_trust", language, **fault.data), err=True
        ):
            raise UsageError(
                fault.key, command=f"gradexplain verify {quote(str(path))} --trust", **fault.data
            ) from None
    return _checked(path, inputs, language, trust=True)
