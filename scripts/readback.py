"""Reads every equation of every page back, with a calculator of its own: how many `=` and `≈` does it confirm?

.venv/bin/python scripts/readback.py                             # README, the guides, the lessons, the tests' examples
.venv/bin/python scripts/readback.py tests/test_explanation.py   # and what these tests explain; arguments go to pytest

Each explanation and each lesson is read in both languages and every format. The calculator is mpmath in 400 digits, and
is given what stands on the page; it shares nothing with what wrote it. `=` is confirmed where the digits are the same
number, `≈` where they come nearer than half a unit of the last digit, of the fifth where fewer stand there. `↦` is
counted.
"""

import contextlib
import html
import io
import json
import re
import shlex
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import mpmath
import pytest

import gradexplain.api
from gradexplain import lessons
from gradexplain.__main__ import main
from gradexplain.explanation.explanation import Explanation, explain_trace

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tests"))

FORMATS = ("text", "terminal", "markdown", "html")
LANGUAGES = ("en", "zh")
WIDTHS = (60, 100)
_EQUATION = re.compile(
    r": (?P<expression>[^:=≈↦≠│]*[^\s:=≈↦≠│]) (?P<sign>[=≈↦≠]) "
    r"(?P<result>-?(?:\d[\d.]*(?:e[+-]?\d+)?|inf|nan))(?=$|`|\s{3}|\s*│)"
)
_NUMERAL = re.compile(r"(?<![\w.])\d+(?:\.\d*)?(?:e[+-]?\d+)?")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_LOWERED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_NAMES = {
    "π": mpmath.pi, "inf": mpmath.inf, "nan": mpmath.nan, "ln": mpmath.log, "erfc": mpmath.erfc, "round": mpmath.nint,
    "log2": lambda a: mpmath.log(a, 2), "log10": mpmath.log10, "rsqrt": lambda a: 1 / mpmath.sqrt(a), "abs": abs,
    "sigmoid": lambda a: 1 / (1 + mpmath.exp(-a)), "lgamma": lambda a: mpmath.re(mpmath.loggamma(a)),
    "trigamma": lambda a: mpmath.psi(1, a), "trunc": lambda a: mpmath.mpf(int(a)), "sinc": mpmath.sincpi,
    "i0": lambda a: mpmath.besseli(0, a), "i1": lambda a: mpmath.besseli(1, a), "maximum": max, "minimum": min,
}  # fmt: skip
_AS_IN_MPMATH = (
    "exp", "expm1", "log1p", "sqrt", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh",
    "acosh", "atanh", "erf", "erfinv", "digamma", "floor", "ceil", "sign", "atan2",
)  # fmt: skip
_NAMES |= {name: getattr(mpmath, name) for name in _AS_IN_MPMATH}


def calculated(expression: str) -> Any:
    """Returns what a calculator makes of a displayed expression; nan at a pole."""
    numbers = _NUMERAL.sub(lambda numeral: f"mpf('{numeral[0]}')", expression)
    raised = _RAISED.sub(lambda power: f"**mpf('{power[0].translate(_LOWERED)}')", numbers)
    typed = raised.replace("×", "*").replace("·", "*").replace("^", "**")
    try:
        return eval(typed, {"__builtins__": {}, "mpf": mpmath.mpf, **_NAMES})
    except (ZeroDivisionError, ValueError):
        return mpmath.nan


def confirmed(expression: str, sign: str, result: str) -> bool:
    """Says whether a calculator confirms an equation; one at a pole or an infinity it leaves to its reader."""
    with mpmath.workdps(400):
        value = calculated(expression)
        if not mpmath.isfinite(value) or result.lstrip("-") in ("inf", "nan"):
            return sign == "=" and result.lstrip("-") in ("inf", "nan")
        apart = abs(value - mpmath.mpf(result))
        mantissa, _, exponent = result.lstrip("-").partition("e")
        digits = len(mantissa.replace(".", "").lstrip("0"))
        last = int(exponent or 0) - len(mantissa.partition(".")[2]) - max(5 - digits, 0)
        return bool(apart < (mpmath.mpf(10) ** last / 2 if sign == "≈" else mpmath.mpf(10) ** -390))


def lines(page: str) -> list[str]:
    """Returns the lines of a page in any format, without its marks, with lines that were broken joined again."""
    plain = html.unescape(re.sub(r"<[^>]+>", "\n", page)) if page.lstrip().startswith("<") else page
    found: list[str] = []
    for line in re.sub(r"\x1b\[[\d;]*m|\x1b\]8;[^\x1b]*\x1b\\", "", plain).splitlines():
        if line.strip().startswith("↪") and found:
            found[-1] = f"{found[-1]} {line.strip().removeprefix('↪').strip()}"
        else:
            found.append(line.rstrip())
    return found


def equations(page: str) -> list[tuple[str, str, str]]:
    """Returns the equations of a page: an expression of numbers, a sign and a number."""
    found = []
    for line in lines(page):
        for match in _EQUATION.finditer(line):
            expression = match["expression"].strip()
            names = {*re.findall(r"[^\W\d]\w*", _RAISED.sub("", _NUMERAL.sub("", expression)))}
            if names <= _NAMES.keys() and re.search(r"\d|inf|nan", expression):
                found.append((expression, match["sign"], match["result"]))
    return found


def _texts(record: Any) -> Iterator[str]:
    """Yields every text in a record."""
    if isinstance(record, dict):
        for value in record.values():
            yield from _texts(value)
    elif isinstance(record, list):
        for value in record:
            yield from _texts(value)
    elif isinstance(record, str):
        yield record


def pages(shown: Any) -> Iterator[str]:
    """Yields the pages of a result, in both languages and every format, wide and narrow, and its record."""
    for language in LANGUAGES:
        for form in FORMATS:
            yield from (shown.render(form, language=language, width=width) for width in WIDTHS)
    yield "\n".join(_texts(json.loads(shown.to_json())))


@contextlib.contextmanager
def collected() -> Iterator[list[Explanation]]:
    """Gives the explanations that are made inside the block."""
    made: list[Explanation] = []

    def explained(*arguments: Any, **options: Any) -> Explanation:
        made.append(explain_trace(*arguments, **options))
        return made[-1]

    with patch.object(gradexplain.api, "explain_trace", explained):
        yield made


def documented() -> None:
    """Runs the snippets and the commands of README and the guides, and the tests' examples, in a folder of its own."""
    quiet = contextlib.redirect_stdout(io.StringIO())
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), quiet:
        _run_documented()


def _run_documented() -> None:
    from documents import blocks
    from examples import EXAMPLES

    for block in blocks("python"):
        exec(compile(block.text, str(block), "exec"), {"__name__": "readme"})
    typed = [
        line.removeprefix("$ ") for kind in ("sh", "console") for b in blocks(kind) for line in b.text.splitlines()
    ]
    commands = [shlex.split(line.partition(" |")[0])[1:] for line in typed if "gradexplain explain" in line]
    commands += [["explain", *example] for example in EXAMPLES.values()]
    for command in commands:
        with contextlib.suppress(SystemExit), patch.object(sys, "argv", ["gradexplain", *command]):
            main()


def read(shown: list[Any], counts: Counter[str]) -> list[str]:
    """Counts the equations on the pages of results by sign, and returns those that a calculator does not confirm."""
    wrong = []
    for result in shown:
        for page in pages(result):
            counts["pages"] += 1
            for expression, sign, right in equations(page):
                counts[sign] += 1
                if sign in "=≈" and not confirmed(expression, sign, right):
                    wrong.append(f"{expression} {sign} {right}")
    return wrong


if __name__ == "__main__":
    counts: Counter[str] = Counter()
    with collected() as made:
        documented()
        if sys.argv[1:]:
            pytest.main(["-q", "-W", "ignore::pytest.PytestAssertRewriteWarning", *sys.argv[1:]])
    told = [lessons.run(name) for name in lessons.names()]
    wrong = read([*made, *told], counts)
    print(f"{len(made)} explanations, {len(told)} lessons, {counts.pop('pages')} pages")
    for sign, count in sorted(counts.items()):
        refused = sum(f" {sign} " in line for line in wrong)
        print(sign, count, f"confirmed: {1 - refused / count:.2%}" if sign in "=≈" else "")
    print(*dict.fromkeys(wrong), sep="\n")
    sys.exit(bool(wrong) or counts["≠"] > 0)
