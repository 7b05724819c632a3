"""Scalar by scalar: terms evaluated with many digits, and every number's dependence on those that it was made of.

A term (`terms.Term`) says how one element is made of others. Here it becomes a `Cell`: its value and, for each number
that went into its last operation, the partial derivative that sympy finds. No expression grows, as each cell knows only
its own operation; the chain rule puts them together, with the same digits.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np

from gradexplain.mathematics.terms import Apply, Constant, Number, Term
from gradexplain.rules.symbolic import elementary, power

# More cells than this take more than a second or two.
MOST_CELLS = 30_000
# Numbers that agree to this many digits are taken for equal: what was meant to be 0 comes out as a rounding error.
EQUAL_WITHIN = 1e-40


class TooLarge(Exception):
    """There is more to write out than there is time for."""


class Tie(Exception):
    """Equal numbers were to be chosen from, or a step function stands at its step: the derivative is a convention."""


@dataclass(frozen=True, eq=False, slots=True)
class Cell(Term):
    """A number and the numbers that it was made of, each with its partial derivative; it `varies` with the inputs."""

    value: Any
    parents: tuple[tuple[Cell, Any], ...] = ()
    varies: bool = False


_ZERO = Cell(mpmath.mpf(0))
_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    ">": operator.gt, "<": operator.lt, "≥": operator.ge, "≤": operator.le, "=": operator.eq
}  # fmt: skip


class Tape:
    """All cells that vary, each after those that it was made of."""

    def __init__(self, seconds: float) -> None:
        self.cells: list[Cell] = []
        self.deadline = time.perf_counter() + seconds

    def leaves(self, values: Any) -> Any:
        """Returns an array of numbers as cells that everything else is differentiated by."""
        return self._each(values, lambda value: self._kept(Cell(number(value), varies=True)))

    def constants(self, values: Any) -> Any:
        """Returns an array of numbers as cells that do not vary."""
        return self._each(values, lambda value: Cell(number(value)))

    def evaluated(self, terms: Any) -> Any:
        """Returns an array of terms as cells; a subterm that several share is evaluated once."""
        known: dict[int, tuple[Term, Cell]] = {}  # the term is kept so that its identity stays its own
        return self._each(terms, lambda term: self._cell(_as_term(term), known))

    def adjoints(self, seeds: Iterable[tuple[Cell, Any]]) -> dict[int, Any]:
        """Returns, by the identity of a cell, the derivative of Σ seed × cell by it."""
        adjoints: dict[int, Any] = {}
        for cell, seed in seeds:
            adjoints[id(cell)] = adjoints.get(id(cell), 0) + seed
        for cell in reversed(self.cells):
            adjoint = adjoints.get(id(cell), 0)
            for parent, partial in cell.parents if adjoint else ():
                adjoints[id(parent)] = adjoints.get(id(parent), 0) + adjoint * partial
        return adjoints

    def _each(self, array: Any, make: Callable[[Any], Cell]) -> Any:
        given = np.asarray(array, dtype=object)
        made = np.empty(given.shape, dtype=object)
        for index in np.ndindex(*given.shape):
            made[index] = make(given[index])
        return made

    def _kept(self, cell: Cell) -> Cell:
        self.cells.append(cell)
        if len(self.cells) > MOST_CELLS or (len(self.cells) % 256 == 0 and time.perf_counter() > self.deadline):
            raise TooLarge
        return cell

    def _cell(self, term: Term, known: dict[int, tuple[Term, Cell]]) -> Cell:
        """Evaluates a term without recursion: a sum of a thousand terms is a thousand deep."""
        waiting = [term]
        while waiting:
            top = waiting[-1]
            missing = [part for part in self._parts(top, known) if id(part) not in known]
            if missing:
                waiting += missing
                continue
            if id(top) not in known:
                known[id(top)] = (top, self._made(top, known))
            waiting.pop()
        return known[id(term)][1]

    def _parts(self, term: Term, known: Mapping[int, tuple[Term, Cell]]) -> Sequence[Term]:
        """Returns what a term needs: of a choice, first its condition and then the branch that is taken."""
        match term:
            case Apply("where", (Apply(_, compared), _, _)) if any(id(part) not in known for part in compared):
                return compared
            case Apply("where", (condition, yes, no)):
                return [yes if self._holds(condition, known) else no]
            case Apply(_, arguments):
                return arguments
        return ()

    def _holds(self, condition: Term, known: Mapping[int, tuple[Term, Cell]]) -> bool:
        assert isinstance(condition, Apply)
        left, right = (known[id(part)][1] for part in condition.arguments)
        _refuse_tie(left, right)
        return _COMPARISONS[condition.operator](left.value, right.value)

    def _made(self, term: Term, known: Mapping[int, tuple[Term, Cell]]) -> Cell:
        match term:
            case Cell():
                return term
            case Number(value) | Constant(value):
                return Cell(number(value))
            case Apply("where", _):
                return known[id(self._parts(term, known)[0])][1]
            case Apply(name, arguments):
                return self._applied(name, [known[id(part)][1] for part in arguments])
        raise NotImplementedError(term)

    def _applied(self, name: str, cells: list[Cell]) -> Cell:
        match name:
            case "π":
                return Cell(+mpmath.pi)
            case "maximum":
                return _larger(*cells)
            case "minimum":
                return _smaller(*cells)
            case "abs":
                _refuse_tie(cells[0], _ZERO)
                return cells[0] if cells[0].value >= 0 else self._smooth("neg", cells)
            case "sign" | "floor" | "ceil" | "round" | "trunc":
                return _step(name, cells[0])
        return self._smooth(name, cells)

    def _smooth(self, name: str, cells: list[Cell]) -> Cell:
        if name == "^" and not cells[1].varies and float(cells[1].value) == cells[1].value:
            known, cells = power(float(cells[1].value)), cells[:1]
        else:
            known = elementary(name)
        values = [cell.value for cell in cells]
        made = _real(known.value, values)
        parents = tuple(
            (cell, _real(partial, values)) for cell, partial in zip(cells, known.partials, strict=True) if cell.varies
        )
        return self._kept(Cell(made, parents, True)) if parents else Cell(made)


def number(value: Any) -> Any:
    """Returns a number exactly as it is, with many digits."""
    return value if isinstance(value, mpmath.mpf) else mpmath.mpf(float(value))


def _as_term(value: Any) -> Term:
    return value if isinstance(value, Term) else Constant(float(value))


def _real(function: Callable[..., Any], values: Sequence[Any]) -> Any:
    """Returns a function's value, nan where it has no real one: it may stand in a branch that is not taken."""
    try:
        value = mpmath.mpmathify(function(*values))
    except (ArithmeticError, ValueError):
        return mpmath.nan
    return value.real if value.imag == 0 else mpmath.nan


# ------------------------------------------------------------------------------------------------------------- choices


def _refuse_tie(one: Cell, other: Cell) -> None:
    apart, size = abs(one.value - other.value), max(1, abs(one.value), abs(other.value))
    if (one.varies or other.varies) and one is not other and apart <= EQUAL_WITHIN * size < mpmath.inf:
        raise Tie


def _larger(one: Cell, other: Cell) -> Cell:
    _refuse_tie(one, other)
    return one if one.value >= other.value else other


def _smaller(one: Cell, other: Cell) -> Cell:
    return other if _larger(one, other) is one else one


def _step(name: str, cell: Cell) -> Cell:
    """Returns the value of a function that jumps, and else stands still."""
    x, whole = cell.value, mpmath.nint(cell.value)
    _refuse_tie(cell, {"sign": _ZERO, "round": Cell(mpmath.floor(x) + 0.5)}.get(name, Cell(whole)))
    values = {"sign": mpmath.sign(x), "floor": mpmath.floor(x), "ceil": mpmath.ceil(x), "round": whole}
    return Cell(values.get(name, mpmath.sign(x) * mpmath.floor(abs(x))))  # the other one is trunc
