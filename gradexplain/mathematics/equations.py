"""Displayed equations, and the reader that recomputes them from their own digits.

An equation is `label: expression = result`. `=` stands only where the displayed digits give the result exactly, `≈`
only where they come nearer than half a unit of its last digit, as a calculator confirms. `↦` marks what is no equation:
the machine's own number, which its type makes of these by rounding, overflow or underflow, or which the operator takes
where the expression has no value, as 0 / 0. `≠` is a contradiction: no
rounding of the type makes this number of these operands, so that either the rule or torch is wrong.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import mpmath

from gradexplain.mathematics.digits import Rounding
from gradexplain.mathematics.evaluation import UNREADABLE, are_same, exactly, is_explained, is_within, parsed
from gradexplain.mathematics.terms import Term, number_text, text

# Of a result; its operands have up to so many more, by which a reader's calculator comes to its last digit.
DIGITS = (5, 6, 7, 9, 12, 17)
_GUARDS = (0, 1, 2, 4)
_MOST = DIGITS[-1]
# Of both sides where no equation holds.
_IN_FULL = DIGITS[2:]
EXACT, ROUNDED, STORED, CONTRADICTED = "=", "≈", "↦", "≠"


@dataclass(frozen=True)
class Equation:
    """One displayed equation. `value` is the captured number that `result` rounds, in a type of this `rounding`.

    `doubt` is how far the rounding of what is not displayed may have moved it, asked where the digits do not give it.
    """

    label: str
    expression: str
    relation: str
    result: str
    value: float
    rounding: Rounding
    doubt: float = 0.0

    def __str__(self) -> str:
        return f"{self.label}: {self.expression} {self.relation} {self.result}"


def equation(
    label: str, term: Term, value: float, rounding: Rounding, doubt: Callable[[], float] = lambda: 0.0
) -> Equation:
    """Returns `label: term = value`, with as many digits as the equation needs to hold; `↦` or `≠` where none do.

    `rounding` is that of the type of `value`. `doubt` says how far the rounding of what does not stand in the term may
    have moved it; it is asked where that of the term alone does not give the value.
    """
    for expression, result in _shown(term, value):
        if relation := strongest(expression, result):
            return Equation(label, expression, relation, result, value, rounding)
    moved = 0.0

    def explained(digits: int) -> bool:
        return is_explained(text(term, digits), float(number_text(value, digits)), rounding, moved)

    if not explained(_MOST):
        moved = doubt()
    relation = STORED if explained(_MOST) else CONTRADICTED
    digits = next(d for d in _IN_FULL if d == _MOST or explained(d) == (relation == STORED))
    return Equation(label, text(term, digits), relation, number_text(value, digits), value, rounding, moved)


def _shown(term: Term, value: float) -> Iterator[tuple[str, str]]:
    """Yields both sides of an equation with more and more digits, each once, until all their digits stand there."""
    seen, whole = set(), (text(term, _MOST), number_text(value, _MOST))
    for digits in DIGITS:
        for guard in _GUARDS:
            sides = text(term, min(digits + guard, _MOST)), number_text(value, digits)
            if sides not in seen:
                seen.add(sides)
                yield sides
            if sides == whole:
                return


def recomputed(equations: Sequence[Equation], page: str) -> int:
    """Counts those of `equations` that stand on `page` and are true when read back from it.

    Two conditions: the digits on the page give the result, exactly, within half a unit or by the rounding of the type;
    and the result rounds the number that was captured.
    """
    shown = {read for line in unwrapped(page) for read in read_equations(line)}
    return sum(
        Read(e.label, e.expression, e.relation, e.result) in shown and rounds(e.result, e.value) and _is_true(e)
        for e in equations
    )


def _is_true(e: Equation) -> bool:
    if e.relation == STORED:
        return is_explained(e.expression, float(e.result), e.rounding, e.doubt)
    return holds(e.expression, e.relation, e.result)


def rounds(result: str, value: float) -> bool:
    """Says whether the displayed `result` is `value`, correctly rounded to the digits displayed."""
    if not math.isfinite(value):
        return result == number_text(value, DIGITS[0])
    digits = max(_significant(result), 1)
    return any(result == number_text(value, d) for d in {*DIGITS, digits})


# ------------------------------------------------------------------------------------------------------- reading


class Read(NamedTuple):
    """An equation as it stands on a page."""

    label: str
    expression: str
    relation: str
    result: str


_EQUATION = re.compile(
    r"(?P<label>[^\s:][^:]*): (?P<expression>[^:=≈↦≠]*\S) (?P<relation>[=≈↦≠]) (?P<result>-?[\w.+-]+)$"
)
_GAP = re.compile(r"\s{3,}|│")
CONTINUATION = "↪"


def unwrapped(page: str) -> list[str]:
    """Returns the lines of a page, with lines that were broken at the margin joined again."""
    lines: list[str] = []
    for line in page.splitlines():
        stripped = line.strip()
        if stripped.startswith(CONTINUATION) and lines:
            lines[-1] += " " + stripped.removeprefix(CONTINUATION).strip()
        else:
            lines.append(line.rstrip())
    return lines


def read_equations(line: str) -> list[Read]:
    """Returns the equations of one line; several may stand side by side, three spaces apart."""
    equations = []
    for cell in _GAP.split(line):
        if match := _EQUATION.match(cell.strip(" `-")):
            with suppress(*UNREADABLE):
                parsed(match["expression"])
                equations.append(Read(*match.groups()))
    return equations


def holds(expression: str, relation: str, result: str) -> bool:
    """Says whether `expression relation result` is true of the digits that stand there; `≈` is of finite numbers."""
    found = strongest(expression, result)
    return found == relation or (found == EXACT and relation == ROUNDED and result.lstrip("-") not in ("inf", "nan"))


@lru_cache(maxsize=4096)
def strongest(expression: str, result: str) -> str | None:
    """Returns `=` or `≈`, whichever the digits of both sides earn, `None` where they earn neither."""
    try:
        tree = parsed(expression)
        given, shown = exactly(tree), exactly(parsed(result))
        if are_same(given, shown):
            return EXACT
        near = isinstance(shown, Fraction) and is_within(tree, given, shown, half_unit(result))
        return ROUNDED if near else None
    except UNREADABLE:
        return None


def has_value(expression: str) -> bool:
    """Says whether the displayed digits give a number at all, as those of 0 / 0 do not."""
    try:
        given = exactly(parsed(expression))
    except UNREADABLE:
        return True
    return isinstance(given, Fraction) or not mpmath.isnan(given)


def half_unit(result: str) -> Fraction:
    """Returns half a unit of the last digit of a result: of its fifth where fewer stand there, which are exact."""
    digits = _significant(result)
    if not digits:
        return Fraction(0)
    mantissa, _, exponent = result.partition("e")
    last = int(exponent or 0) - len(mantissa.partition(".")[2])
    return Fraction(10) ** (last - max(DIGITS[0] - digits, 0)) / 2


def _significant(token: str) -> int:
    digits = re.sub(r"e.*|[.\-]", "", token).lstrip("0")
    return len(digits)
