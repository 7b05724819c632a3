"""Reads TARGET expressions such as `h = tanh(x @ W); sum(h**2)`.

Python's `ast` is only the syntax tree: every node is checked against what is published here and run by our own
interpreter (`interpreter.py`), so no text is ever executed. Reading needs no torch.
"""

from __future__ import annotations

import ast
import difflib
import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from gradexplain.errors import InputError
from gradexplain.targets.syntax import check_depth, cleaned, fault_at, tree_of
from gradexplain.targets.values import CREATIONS, ITEMSIZE, LIMIT, Nested, Number, first_line, shown, size_text
from gradexplain.targets.vocabulary import (
    ATTRIBUTES,
    BINARY,
    CHANGING_OPTIONS,
    COMPARISONS,
    DTYPES,
    FIELDS,
    FUNCTIONS,
    METHODS,
    NAMESPACES,
    NUMBERS,
    REFUSED,
    SPELLINGS,
    TORCH_DTYPES,
    UNARY,
    Operation,
)

MAX_INTEGER = 2**63  # torch's integers end below it
FOREIGN = ("np", "numpy", "math", "cmath", "jnp", "sp", "sympy")
# What other libraries call a published function.
SYNONYMS = {"arctan2": "atan2", "power": "pow", "concatenate": "cat", "fabs": "abs"}


@dataclass(frozen=True)
class Statement:
    """One statement: the names it assigns (none for a bare expression) and what it computes."""

    targets: tuple[str, ...]
    value: ast.expr


@dataclass(frozen=True)
class Program:
    """A checked expression. `inputs` are the names it reads before it assigns them, in order of first use."""

    text: str
    inputs: tuple[str, ...]
    statements: tuple[Statement, ...] = field(compare=False, repr=False)

    @property
    def output(self) -> str | None:
        """The name that the last statement assigns, if it is one name."""
        targets = self.statements[-1].targets
        return targets[0] if len(targets) == 1 else None


def parse(text: str) -> Program:
    """Reads and checks an expression, or several statements; whatever is not published is refused at its place."""
    text = cleaned(text)
    tree = tree_of(text)
    check_depth(tree, text)
    reader = _Reader(text)
    statements = tuple(reader.statement(statement) for statement in tree.body)
    return Program(text, tuple(reader.inputs), statements)


def parse_formula(text: str) -> Program:
    """Reads a formula such as the `3*x` of `--by-hand x=3*x`: the same language."""
    return parse(text)


# ---- checking --------------------------------------------------------------------------------------------------------


class _Reader:
    """Checks the statements of one text in order and collects its inputs."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.assigned: set[str] = set()
        self.inputs: dict[str, None] = {}

    def statement(self, node: ast.stmt) -> Statement:
        match node:
            case ast.Expr(value):
                self.check(value)
                return Statement((), value)
            case ast.Assign(targets=[target], value=value):
                self.check(value)
                names = tuple(self.target(target))
                self.assigned.update(names)
                return Statement(names, value)
            case ast.Assign() | ast.AnnAssign():
                raise fault_at("assign_plain_names", self.text, node)
        raise fault_at(REFUSED.get(type(node), "no_such_statement"), self.text, node)

    def target(self, node: ast.expr) -> Iterator[str]:
        """Yields the plain names on the left of `=`."""
        match node:
            case ast.Name(id=name) if name not in NAMESPACES and not name.startswith("__"):
                yield name
            case ast.Tuple(elts) | ast.List(elts) if elts and all(isinstance(item, ast.Name) for item in elts):
                for item in elts:
                    yield from self.target(item)
            case ast.Name():
                raise fault_at("reserved_name", self.text, node)
            case _:
                raise fault_at("assign_plain_names", self.text, node)

    def check(self, node: ast.expr) -> Number | None:
        """Checks `node`; returns its value where it is a number known from the text alone."""
        match node:
            case ast.Constant(value=value):
                return self.constant(node, value)
            case ast.Name(id=name):
                self.name(node, name)
            case ast.List(elts) | ast.Tuple(elts):
                self.all(elts)
            case ast.UnaryOp(op=ast.Not()):
                raise fault_at("no_not", self.text, node)
            case ast.UnaryOp(op=op, operand=operand):
                return self.fold(node, UNARY[type(op)], [self.check(operand)])
            case ast.BinOp(left, op, right):
                numbers = [self.check(left), self.check(right)]
                if isinstance(op, ast.BitXor) and any(
                    n is not None and not _is_truth(p) for n, p in zip(numbers, (left, right), strict=True)
                ):
                    raise fault_at("caret", self.text, node)
                return self.fold(node, BINARY[type(op)], numbers)
            case ast.Compare():
                self.comparison(node)
            case ast.Subscript(value, key):
                self.all([value, key])
            case ast.Slice(lower, upper, step):
                self.all([part for part in (lower, upper, step) if part])
            case ast.Attribute():
                self.attribute(node)
            case ast.Call():
                self.call(node)
            case _:
                raise fault_at(REFUSED.get(type(node), "no_such_syntax"), self.text, node)
        return None

    def all(self, nodes: Iterable[ast.expr]) -> None:
        for node in nodes:
            self.check(node)

    def constant(self, node: ast.Constant, value: object) -> Number | None:
        if isinstance(value, str | bytes):
            raise fault_at("text_outside_call", self.text, node)
        if not isinstance(value, int | float | complex):
            return None  # None and ...
        if value in (math.inf, math.inf * 1j):  # 1e999
            raise fault_at("number_too_large", self.text, node)
        return self.fold(node, operator.pos, [value])

    def fold(self, node: ast.expr, operation: Operation, numbers: Sequence[Number | None]) -> Number | None:
        """Computes with numbers that the text alone gives, so that `9**9**9` is refused before anything runs."""
        known = [number for number in numbers if number is not None]
        return compute(operation, known, node, self.text) if len(known) == len(numbers) else None

    def name(self, node: ast.Name, name: str) -> None:
        if name in self.assigned or name in NUMBERS or name in DTYPES:
            return
        if name in NAMESPACES or name.startswith("__"):
            raise fault_at("reserved_name", self.text, node)
        if name in FUNCTIONS:
            raise fault_at("function_as_value", self.text, node)
        self.inputs.setdefault(name)

    def comparison(self, node: ast.Compare) -> None:
        if len(node.ops) > 1:
            raise fault_at("no_chained_comparison", self.text, node)
        if type(node.ops[0]) not in COMPARISONS:
            raise fault_at("no_membership", self.text, node)
        self.all([node.left, *node.comparators])

    def attribute(self, node: ast.Attribute) -> None:
        if constant_path(node):
            return
        self.foreign(node)
        if node.attr not in ATTRIBUTES | FIELDS:
            key = "method_not_called" if node.attr in METHODS else "unknown_attribute"
            raise self.unknown(key, node, node.attr, ATTRIBUTES | FIELDS)
        self.check(node.value)

    def foreign(self, node: ast.Attribute) -> None:
        """Refuses the functions and constants of other libraries, and says how they are written here."""
        home = _dotted(node.value)
        if home in FOREIGN and home not in self.assigned:
            name = SYNONYMS.get(node.attr, node.attr)
            key = "foreign_name" if name in FUNCTIONS or name in NUMBERS else "foreign_unknown"
            raise fault_at(key, self.text, node, name=shown(name, 40))

    def call(self, node: ast.Call) -> None:
        self.callee(node.func)
        for argument in node.args:
            self.argument(argument)
        for keyword in node.keywords:
            if keyword.arg is None:
                raise fault_at("no_star", self.text, keyword)
            if keyword.arg in CHANGING_OPTIONS:
                raise fault_at("no_out", self.text, keyword)
            self.argument(keyword.value)
        self.creation(node)

    def creation(self, node: ast.Call) -> None:
        """Refuses a call such as `eye(10**6)` whose size the text alone tells, before torch is loaded."""
        _, read = CREATIONS.get(_dotted(node.func).removeprefix("torch."), ("", None))
        types = {k.arg: _dotted(k.value).removeprefix("torch.") for k in node.keywords}
        if read is None or not types.keys() <= {"dtype"} or _dotted(node.func) in self.assigned:
            return
        try:
            size = math.prod(read([self.literal(argument) for argument in node.args])[1])
        except (ValueError, TypeError, ArithmeticError):
            return  # not written out, or torch will say it
        size *= ITEMSIZE.get(types.get("dtype", "float32"), 1)
        if size > LIMIT:
            raise fault_at("too_large", self.text, node, size=size_text(size), limit=size_text(LIMIT))

    def literal(self, node: ast.expr) -> Nested:
        """Returns the numbers that are written out in an argument; raises `ValueError` where something else is."""
        if isinstance(node, ast.List | ast.Tuple):
            return [self.literal(item) for item in node.elts]
        number = self.check(node)
        if number is None:
            raise ValueError
        return number

    def argument(self, node: ast.expr) -> None:
        if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
            self.check(node)

    def callee(self, node: ast.expr) -> None:
        """Checks that what is called is published."""
        match node:
            case ast.Name(id=name) if name in self.assigned:
                raise fault_at("value_called", self.text, node)
            case ast.Name() | ast.Attribute() if function_path(node):
                return
            case ast.Name(id=name):
                raise self.unknown("unknown_function", node, name, FUNCTIONS)
            case ast.Attribute(value=value, attr=name):
                self.foreign(node)
                if _dotted(node).partition(".")[0] in NAMESPACES:
                    raise self.unknown("unknown_function", node, name, FUNCTIONS)
                if name not in METHODS:
                    raise self.unknown("unknown_method", node, name, METHODS)
                self.check(value)
            case _ if type(node) in REFUSED:
                raise fault_at(REFUSED[type(node)], self.text, node)
            case _:
                raise fault_at("call_of_value", self.text, node)

    def unknown(self, key: str, node: ast.expr, name: str, names: Iterable[str]) -> InputError:
        """Returns the error `key`, with the published name that `name` may have meant."""
        close = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.6)
        if close and key != "method_not_called":
            return fault_at(f"{key}_close", self.text, node, name=shown(name, 40), close=close[0])
        return fault_at(key, self.text, node, name=shown(name, 40))


def _is_truth(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, bool)


def _dotted(node: ast.expr) -> str:
    """Returns `a.b.c` for names and attributes of names, and an empty text for anything else."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name):
            before = _dotted(value)
            return f"{before}.{name}" if before else ""
    return ""


def function_path(node: ast.expr) -> str | None:
    """Returns where in torch the function called as `sum`, `F.relu` or `torch.linalg.norm` lives."""
    return published_path(_dotted(node))


def published_path(name: str) -> str | None:
    """Returns where in torch the function called `sum`, `F.gelu` or `torch.linalg.norm` lives, if it is published."""
    path = f"torch.nn.functional.{name.removeprefix('F.')}" if name.startswith("F.") else name
    return FUNCTIONS.get(name) or (path if path in SPELLINGS else None)


def constant_path(node: ast.expr) -> str | None:
    """Returns the name in torch of `torch.float64` or `torch.pi`."""
    home, _, name = _dotted(node).rpartition(".")
    return name if home == "torch" and (name in TORCH_DTYPES or name in NUMBERS) else None


def compute(operation: Operation, numbers: Sequence[Number], node: ast.expr, text: str) -> Number:
    """Computes with Python numbers; refuses beforehand what would be huge and afterwards what no tensor can hold."""
    try:
        if _grows(operation, numbers):
            raise OverflowError
        value: Number = operation(*numbers)
        _check_number(value, numbers)
    except OverflowError as error:
        raise fault_at("number_too_large", text, node) from error
    except (ArithmeticError, TypeError, ValueError) as error:
        raise fault_at("number_undefined", text, node, reason=first_line(error)) from error
    return value


def _grows(operation: Operation, numbers: Sequence[Number]) -> bool:
    """Says whether integers would outgrow `MAX_INTEGER` by far; floats raise by themselves."""
    if operation not in (operator.pow, operator.lshift):
        return False
    base, exponent = numbers
    still = (0,) if operation is operator.lshift else (-1, 0, 1)
    return isinstance(base, int) and isinstance(exponent, int) and exponent > 63 and base not in still


def _check_number(value: Number, numbers: Sequence[Number]) -> None:
    if isinstance(value, int) and not -MAX_INTEGER <= value < MAX_INTEGER:
        raise OverflowError
    if isinstance(value, float) and math.isinf(value) and not any(map(_is_infinite, numbers)):
        raise OverflowError


def _is_infinite(number: Number) -> bool:
    return isinstance(number, float) and math.isinf(number)
