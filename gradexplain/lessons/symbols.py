"""A recorded computation of one number, as formulas: what each line is, as sympy knows it, without any derivative."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gradexplain.errors import InputError
from gradexplain.recording.computation import computation_of
from gradexplain.recording.tracing import trace
from gradexplain.rules.registry import rule_of
from gradexplain.rules.symbolic import sympy_of
from gradexplain.targets.expression import parse
from gradexplain.targets.interpreter import Runner
from gradexplain.targets.values import shown

if TYPE_CHECKING:
    from sympy import Expr

    from gradexplain.recording.trace import Node, Trace


@dataclass(frozen=True)
class Assignment:
    """One line of a program: `name` is `formula`, whose symbols are the names of earlier lines and of the input."""

    name: str
    formula: Expr
    value: float

    @property
    def operands(self) -> tuple[str, ...]:
        """The names that the line reads, each once."""
        return tuple(sorted(map(str, self.formula.free_symbols)))


@dataclass(frozen=True)
class Straight:
    """A program of one variable, line by line, as torch ran it at a point."""

    text: str
    variable: str
    at: float
    lines: tuple[Assignment, ...]
    run: Runner

    def __call__(self, x: Tensor) -> Tensor:
        """Runs it with torch."""
        found = self.run(**{self.variable: x})
        assert isinstance(found, Tensor)
        return found

    @property
    def expression(self) -> Expr:
        """The last line, with every other put in: one formula of the variable."""
        import sympy as sp

        whole: dict[Any, Expr] = {}
        for line in self.lines:
            whole[sp.Symbol(line.name, real=True)] = line.formula.xreplace(whole)
        return whole[sp.Symbol(self.lines[-1].name, real=True)]


def straight(text: str, x: Tensor) -> Straight:
    """Returns an expression of one variable as the lines that torch ran at `x`, one number.

    Raises `InputError` for one of more variables, or with an operation that is no elementary function of numbers.
    """
    program = parse(text)
    if len(program.inputs) != 1:
        raise InputError("one_variable", text=shown(text), names=", ".join(program.inputs) or "–")
    (variable,), run = program.inputs, Runner(program)
    computation = computation_of(run, {variable: x}, name=text, locate=run.locate)
    lines = _lines(trace(computation), text, variable)
    if not lines:
        raise InputError("no_operation", text=shown(text))
    return Straight(text, variable, float(x), lines, run)


def _lines(found: Trace, text: str, variable: str) -> tuple[Assignment, ...]:
    names: dict[int, str] = {}
    lines: list[Assignment] = []
    for node in found.nodes:
        last = node.index == found.output[0]
        names[node.index] = node.leaf or ("y" if last and variable != "y" else f"f{len(lines) + 1}")
        if node.leaf is None:
            lines.append(_line(node, names, text))
    return tuple(lines)


def _line(node: Node, names: Mapping[int, str], text: str) -> Assignment:
    import sympy as sp

    rule, made = rule_of(node.operator), node.outputs[0]
    if rule is None or not rule.elementwise or made is None or made.numel() != 1:
        raise InputError("no_elementary", text=shown(text), operator=node.operator or node.name)
    used = {edge.argument: sp.Symbol(names[edge.producer], real=True) for edge in node.edges}
    symbols = {
        sp.Symbol(variable, real=True): used.get(argument, _constant(node.arguments.get(argument)))
        for argument, variable in rule.names.items()
    }
    formula = sympy_of(rule.formula).subs(symbols, simultaneous=True)
    if formula.has(sp.Piecewise, sp.Abs, sp.sign, sp.Max, sp.Min, sp.floor, sp.ceiling, sp.Function("round")):
        raise InputError("no_elementary", text=shown(text), operator=node.operator)
    return Assignment(names[node.index], formula, made.item())


def _constant(value: Any) -> Any:
    import sympy as sp

    number = value.item() if isinstance(value, Tensor) else value
    return sp.Integer(1) if number is None else sp.Rational(str(number))


@dataclass(frozen=True)
class Share:
    """What one line sends back to a name that it reads: what arrives there times `here`, its own derivative."""

    line: str
    operand: str
    slope: Expr
    here: float
    arrives: float

    @property
    def value(self) -> float:
        """What is sent."""
        return self.arrives * self.here


def walked_back(program: Straight) -> tuple[Share, ...]:
    """Returns all that is sent from the last line to the first: reverse-mode differentiation, the whole of it.

    The own derivatives are sympy's, of one line at a time.
    """
    import sympy as sp

    values = {program.variable: program.at, **{line.name: line.value for line in program.lines}}
    found: list[Share] = []
    for line in reversed(program.lines):
        arrives = 1.0 if line is program.lines[-1] else gathered(found, line.name)
        for operand in line.operands:
            slope = sp.diff(line.formula, sp.Symbol(operand, real=True))
            here = float(slope.subs({symbol: values[str(symbol)] for symbol in slope.free_symbols}))
            found.append(Share(line.name, operand, slope, here, arrives))
    return tuple(found)


def gathered(sent: Sequence[Share], name: str) -> float:
    """Returns the derivative by a name: all that was sent to it, added up."""
    return sum(s.value for s in sent if s.operand == name)
