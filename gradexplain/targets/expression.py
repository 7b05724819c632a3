"""Reads TARGET expressions such as `h = tanh(x @ W); sum(h**2)` and runs them.

Python's `ast` is only the syntax tree: every node is checked against what is published here and run by our own
interpreter, so no text is ever executed. Reading needs no torch.
"""

from __future__ import annotations

import ast
import difflib
import math
import operator
import textwrap
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from gradexplain.errors import InputError, RunError
from gradexplain.targets.values import LIMIT, Number, first_line, shown, size_text
from gradexplain.targets.vocabulary import (
    ATTRIBUTES,
    BINARY,
    CHANGING_OPTIONS,
    COMPARISONS,
    DTYPES,
    FAMILIES,
    FIELDS,
    FUNCTIONS,
    IN_PLACE,
    METHODS,
    NAMESPACES,
    NUMBERS,
    ONLY_METHODS,
    REFUSED,
    SPELLINGS,
    TORCH_DTYPES,
    UNARY,
    Operation,
    words,
)

if TYPE_CHECKING:
    from gradexplain.targets.sources import Source

MAX_LENGTH = 10_000  # characters
MAX_DEPTH = 100  # nested operations
MAX_INTEGER = 2**63  # torch's integers end below it
MAX_PIECES = 100_000  # tensors that one call may return

# ---- programs ------------------------------------------------------------------------------------------------------


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
    text = _clean(text)
    tree = _tree(text)
    _check_depth(tree, text)
    reader = _Reader(text)
    statements = tuple(reader.statement(statement) for statement in tree.body)
    return Program(text, tuple(reader.inputs), statements)


def parse_formula(text: str) -> Program:
    """Reads a formula such as the `3*x` of `--by-hand x=3*x`: the same language."""
    return parse(text)


def _clean(text: str) -> str:
    """Returns `text` without outer space and with lines that end as Python's parser ends them."""
    if len(text) > MAX_LENGTH:
        raise InputError("expression_too_long", length=len(text), limit=MAX_LENGTH)
    if "\0" in text:
        raise InputError("expression_null_byte", position=text.index("\0") + 1)
    text = textwrap.dedent(text.replace("\r\n", "\n").replace("\r", "\n")).strip()
    if not text.strip(" \t\f\n;"):
        raise InputError("expression_empty")
    return text


def _tree(text: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python comments on style, such as `1if x`; we answer with errors only
            tree = ast.parse(text)
    except (MemoryError, RecursionError) as error:
        raise InputError("expression_too_deep", limit=MAX_DEPTH, piece=shown(text, 40)) from error
    except SyntaxError as error:
        raise _syntax_fault(error, text) from error
    except ValueError as error:  # surrogates, which no file can hold
        raise InputError("expression_not_text", reason=first_line(error)) from error
    if not tree.body:  # a comment
        raise InputError("expression_empty")
    return tree


def _syntax_fault(error: SyntaxError, text: str) -> InputError:
    if "too many nested" in error.msg:
        return InputError("expression_too_deep", limit=MAX_DEPTH, piece=shown(text, 40))
    line = min(max(error.lineno or 1, 1), text.count("\n") + 1)
    column = max(error.offset or 1, 1)
    same_line = error.end_lineno == error.lineno and error.end_offset is not None
    width = max(error.end_offset - column, 1) if same_line and error.end_offset else 1
    source = text.split("\n")[line - 1]
    place = _place(line, column, width, source)
    if "Exceeds the limit" in error.msg:
        return InputError("number_too_large", **place)
    return InputError("expression_syntax", reason=shown(error.msg, 200), **place)


def _check_depth(tree: ast.AST, text: str) -> None:
    """Refuses deep nesting without recursion, so that what follows may recurse."""
    level: list[ast.AST] = [tree]
    for _ in range(MAX_DEPTH + 2):  # the module and its statement are no nesting
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return
    raise InputError("expression_too_deep", limit=MAX_DEPTH, piece=shown(text, 40))


# ---- places --------------------------------------------------------------------------------------------------------


def _fault(key: str, text: str, node: ast.expr | ast.stmt | ast.keyword, **data: object) -> InputError:
    """Returns the error `key` at `node`."""
    return InputError(key, **_place_of(text, node), **data)


def _place_of(text: str, node: ast.expr | ast.stmt | ast.keyword) -> dict[str, object]:
    line = text.split("\n")[node.lineno - 1]
    encoded = line.encode()  # ast counts in UTF-8
    start = len(encoded[: node.col_offset].decode())
    end = len(encoded[: node.end_col_offset].decode()) if node.end_lineno == node.lineno else len(line)
    return _place(node.lineno, start + 1, end - start, line)


def _place(line: int, column: int, width: int, source: str) -> dict[str, object]:
    piece = source[column - 1 : column - 1 + width]
    return {"line": line, "column": column, "piece": shown(piece, 40), "pointer": _pointer(source, column - 1, width)}


def _pointer(source: str, start: int, width: int) -> str:
    """Returns the line, or the part of a long one around `start`, with a caret under the piece."""
    left = max(0, start - 40)
    shift = "…" if left else ""
    before, piece = shift + shown(source[left:start]), shown(source[start : start + width], 30)
    after = shown(source[start + width : start + width + 30], 30)
    mark = "^" + "~" * (_columns(piece) - 1)
    return f"    {before}{piece}{after}".rstrip() + f"\n    {' ' * _columns(before)}{mark}"


def _columns(text: str) -> int:
    """Returns how many terminal columns `text` takes; Chinese characters take two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


# ---- checking ------------------------------------------------------------------------------------------------------


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
                raise _fault("assign_plain_names", self.text, node)
        raise _fault(REFUSED.get(type(node), "no_such_statement"), self.text, node)

    def target(self, node: ast.expr) -> Iterator[str]:
        """Yields the plain names on the left of `=`."""
        match node:
            case ast.Name(id=name) if name not in NAMESPACES and not name.startswith("__"):
                yield name
            case ast.Tuple(elts) | ast.List(elts) if elts and all(isinstance(item, ast.Name) for item in elts):
                for item in elts:
                    yield from self.target(item)
            case ast.Name():
                raise _fault("reserved_name", self.text, node)
            case _:
                raise _fault("assign_plain_names", self.text, node)

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
                raise _fault("no_not", self.text, node)
            case ast.UnaryOp(op=op, operand=operand):
                return self.fold(node, UNARY[type(op)], [self.check(operand)])
            case ast.BinOp(left, op, right):
                return self.fold(node, BINARY[type(op)], [self.check(left), self.check(right)])
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
                raise _fault(REFUSED.get(type(node), "no_such_syntax"), self.text, node)
        return None

    def all(self, nodes: Iterable[ast.expr]) -> None:
        for node in nodes:
            self.check(node)

    def constant(self, node: ast.Constant, value: object) -> Number | None:
        if isinstance(value, str | bytes):
            raise _fault("text_outside_call", self.text, node)
        if not isinstance(value, int | float | complex):
            return None  # None and ...
        if value in (math.inf, math.inf * 1j):  # 1e999
            raise _fault("number_too_large", self.text, node)
        return self.fold(node, operator.pos, [value])

    def fold(self, node: ast.expr, operation: Operation, numbers: Sequence[Number | None]) -> Number | None:
        """Computes with numbers that the text alone gives, so that `9**9**9` is refused before anything runs."""
        known = [number for number in numbers if number is not None]
        return _compute(operation, known, node, self.text) if len(known) == len(numbers) else None

    def name(self, node: ast.Name, name: str) -> None:
        if name in self.assigned or name in NUMBERS or name in DTYPES:
            return
        if name in NAMESPACES or name.startswith("__"):
            raise _fault("reserved_name", self.text, node)
        if name in FUNCTIONS:
            raise _fault("function_as_value", self.text, node)
        self.inputs.setdefault(name)

    def comparison(self, node: ast.Compare) -> None:
        if len(node.ops) > 1:
            raise _fault("no_chained_comparison", self.text, node)
        if type(node.ops[0]) not in COMPARISONS:
            raise _fault("no_membership", self.text, node)
        self.all([node.left, *node.comparators])

    def attribute(self, node: ast.Attribute) -> None:
        if _constant_path(node):
            return
        if node.attr not in ATTRIBUTES | FIELDS:
            key = "method_not_called" if node.attr in METHODS else "unknown_attribute"
            raise self.unknown(key, node, node.attr, ATTRIBUTES | FIELDS)
        self.check(node.value)

    def call(self, node: ast.Call) -> None:
        self.callee(node.func)
        for argument in node.args:
            self.argument(argument)
        for keyword in node.keywords:
            if keyword.arg is None:
                raise _fault("no_star", self.text, keyword)
            if keyword.arg in CHANGING_OPTIONS:
                raise _fault("no_out", self.text, keyword)
            self.argument(keyword.value)

    def argument(self, node: ast.expr) -> None:
        if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
            self.check(node)

    def callee(self, node: ast.expr) -> None:
        """Checks that what is called is published."""
        match node:
            case ast.Name(id=name) if name in self.assigned:
                raise _fault("value_called", self.text, node)
            case ast.Name() | ast.Attribute() if function_path(node):
                return
            case ast.Name(id=name):
                raise self.unknown("unknown_function", node, name, FUNCTIONS)
            case ast.Attribute(value=value, attr=name):
                if _dotted(node).partition(".")[0] in NAMESPACES:
                    raise self.unknown("unknown_function", node, name, FUNCTIONS)
                if name not in METHODS:
                    raise self.unknown("unknown_method", node, name, METHODS)
                self.check(value)
            case _ if type(node) in REFUSED:
                raise _fault(REFUSED[type(node)], self.text, node)
            case _:
                raise _fault("call_of_value", self.text, node)

    def unknown(self, key: str, node: ast.expr, name: str, names: Iterable[str]) -> InputError:
        """Returns the error `key`, with the published name that `name` may have meant."""
        close = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.6)
        if close and key != "method_not_called":
            return _fault(f"{key}_close", self.text, node, name=shown(name, 40), close=close[0])
        return _fault(key, self.text, node, name=shown(name, 40))


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
    dotted = _dotted(node)
    if dotted in FUNCTIONS:
        return FUNCTIONS[dotted]
    path = f"torch.nn.functional.{dotted.removeprefix('F.')}" if dotted.startswith("F.") else dotted
    return path if path in SPELLINGS else None


def _constant_path(node: ast.expr) -> str | None:
    """Returns the name in torch of `torch.float64` or `torch.pi`."""
    home, _, name = _dotted(node).rpartition(".")
    return name if home == "torch" and (name in TORCH_DTYPES or name in NUMBERS) else None


def _compute(operation: Operation, numbers: Sequence[Number], node: ast.expr, text: str) -> Number:
    """Computes with Python numbers; refuses beforehand what would be huge and afterwards what no tensor can hold."""
    try:
        if _grows(operation, numbers):
            raise OverflowError
        value: Number = operation(*numbers)
        _check_number(value, numbers)
    except OverflowError as error:
        raise _fault("number_too_large", text, node) from error
    except (ArithmeticError, TypeError, ValueError) as error:
        raise _fault("number_undefined", text, node, reason=first_line(error)) from error
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


# ---- running -------------------------------------------------------------------------------------------------------


class Runner:
    """Runs a program with torch. While an operation runs, `locate()` says which piece of the text it is."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._statement = program.statements[0]
        self._node = self._statement.value

    def __call__(self, **inputs: object) -> object:
        """Returns the value of the last statement."""
        names = {name: inputs[name] for name in self.program.inputs}
        value: object = None
        for statement in self.program.statements:
            self._statement = statement
            value = self._evaluate(self._statement.value, names)
            self._assign(value, names)
        return value

    def locate(self) -> Source:
        """Returns the piece of text whose operation runs now, or ran last."""
        from gradexplain.targets.sources import Source

        targets, node = self._statement.targets, self._node
        target = targets[0] if len(targets) == 1 and node is self._statement.value else None
        return Source("<expression>", node.lineno, self._segment(node), target)

    def _segment(self, node: ast.expr) -> str:
        return ast.get_source_segment(self.program.text, node) or ""

    def _assign(self, value: object, names: dict[str, object]) -> None:
        targets, node = self._statement.targets, self._statement.value
        if len(targets) > 1:
            names.update(zip(targets, self._unpacked(value, len(targets), node), strict=True))
        elif targets:
            names[targets[0]] = value

    def _unpacked(self, value: object, count: int, node: ast.expr) -> Sequence[object]:
        import torch

        length = (
            len(value) if isinstance(value, tuple | list) or (isinstance(value, torch.Tensor) and value.ndim) else 1
        )
        if length != count:
            names = ", ".join(self._statement.targets)
            raise _fault("unpack_mismatch", self.program.text, node, names=names, count=count, length=length)
        items: Sequence[object] = self._run(node, tuple, [value], {})  # a tensor comes apart by an operation
        return items

    def _evaluate(self, node: ast.expr, names: Mapping[str, object]) -> Any:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                return names[name] if name in names else _constant(name)
            case ast.List(elts):
                return [self._item(item, names) for item in elts]
            case ast.Tuple(elts):
                return tuple(self._item(item, names) for item in elts)
            case ast.Slice(lower, upper, step):
                return slice(*(part and self._evaluate(part, names) for part in (lower, upper, step)))
            case ast.UnaryOp(op, operand):
                return self._operate(node, UNARY[type(op)], [operand], names)
            case ast.BinOp(left, operation, right):
                return self._operate(node, BINARY[type(operation)], [left, right], names)
            case ast.Compare(left, [comparison], [right]):
                return self._operate(node, COMPARISONS[type(comparison)], [left, right], names)
            case ast.Subscript(value, key):
                return self._index(node, value, key, names)
            case ast.Attribute():
                return self._attribute(node, names)
            case ast.Call():
                return self._call(node, names)
        raise AssertionError(f"{type(node).__name__} passed the reader")

    def _item(self, node: ast.expr, names: Mapping[str, object]) -> object:
        """Returns one item of a list. Lists inside must be written out: `s=[s,s]` thirty times would be 2**30 items."""
        value = self._evaluate(node, names)
        if isinstance(value, list | tuple) and not isinstance(node, ast.List | ast.Tuple):
            raise _fault("list_by_name", self.program.text, node)
        return value

    def _operate(
        self, node: ast.expr, operation: Operation, operands: list[ast.expr], names: Mapping[str, object]
    ) -> Any:
        import torch

        values = [self._evaluate(operand, names) for operand in operands]
        if all(isinstance(value, int | float | complex) for value in values):
            return _compute(operation, values, node, self.program.text)
        for operand, value in zip(operands, values, strict=True):
            if not isinstance(value, int | float | complex | torch.Tensor):
                raise _fault("not_a_number_here", self.program.text, operand, kind=type(value).__name__)
        return self._run(node, operation, values, {})

    def _index(self, node: ast.expr, value: ast.expr, key: ast.expr, names: Mapping[str, object]) -> Any:
        import torch

        container = self._evaluate(value, names)
        if not isinstance(container, torch.Tensor | tuple | list):
            raise _fault("not_indexable", self.program.text, value, kind=type(container).__name__)
        return self._run(node, operator.getitem, [container, self._evaluate(key, names)], {})

    def _attribute(self, node: ast.Attribute, names: Mapping[str, object]) -> Any:
        import torch

        if path := _constant_path(node):
            return _constant(path)
        value = self._evaluate(node.value, names)
        known = ATTRIBUTES if isinstance(value, torch.Tensor) else FIELDS if isinstance(value, tuple) else ()
        if node.attr not in known or not hasattr(type(value), node.attr):
            kind = type(value).__name__
            raise _fault("no_such_attribute", self.program.text, node, name=node.attr, kind=kind)
        return self._run(node, operator.attrgetter(node.attr), [value], {})

    def _call(self, node: ast.Call, names: Mapping[str, object]) -> Any:
        if path := function_path(node.func):
            function = self._function(node.func, path)
            values = []
        else:
            assert isinstance(node.func, ast.Attribute)
            values = [self._evaluate(node.func.value, names)]
            function = self._method(node.func, values[0])
        values += [self._evaluate(argument, names) for argument in node.args]
        options = {str(keyword.arg): self._evaluate(keyword.value, names) for keyword in node.keywords}
        return self._run(node, function, values, options)

    def _function(self, node: ast.expr, path: str) -> Operation:
        import torch

        found: Any = torch
        for name in path.split(".")[1:]:
            found = getattr(found, name, None)
        if not callable(found):
            raise _fault("not_in_this_torch", self.program.text, node, name=path, version=torch.__version__)
        return found  # type: ignore[no-any-return]

    def _method(self, node: ast.Attribute, value: object) -> Operation:
        """Returns the method of `value` as a function that takes the tensor first."""
        import torch

        if not isinstance(value, torch.Tensor) and not (isinstance(value, torch.Size) and node.attr == "numel"):
            kind = type(value).__name__
            raise _fault("method_of_no_tensor", self.program.text, node.value, name=node.attr, kind=kind)
        if not hasattr(type(value), node.attr):
            name = f"Tensor.{node.attr}"
            raise _fault("not_in_this_torch", self.program.text, node, name=name, version=torch.__version__)
        return lambda tensor, *values, **options: getattr(tensor, node.attr)(*values, **options)

    def _run(self, node: ast.expr, function: Operation, values: Sequence[Any], options: Mapping[str, Any]) -> Any:
        """Runs one operation of torch, unless its result would be too large."""
        self._node = node
        try:
            self._refuse_large(node, function, values, options)
            return function(*values, **options)
        except (InputError, RunError):
            raise
        except Exception as error:  # torch raises nearly every type
            place = _place_of(self.program.text, node)
            shapes = ", ".join(_shapes(values)) or "–"
            raise RunError("operation_failed", **place, shapes=shapes, reason=first_line(error)) from error

    def _refuse_large(
        self, node: ast.expr, function: Operation, values: Sequence[Any], options: Mapping[str, Any]
    ) -> None:
        name = _called(node)
        if _pieces(name, values, options) > MAX_PIECES:
            raise _fault("too_many_pieces", self.program.text, node, limit=MAX_PIECES)
        if name in SIZED_BY_VALUE:
            size = _bytes_by_value(name, values, options)
        elif _may_be_large(name, values, options):
            size = _result_bytes(function, values, options)
        else:
            return
        if size > LIMIT:
            raise _fault("too_large", self.program.text, node, size=size_text(size), limit=size_text(LIMIT))


def _called(node: ast.expr) -> str:
    """Returns the last name of the function that `node` calls, `OPERATOR`, or nothing for indexing and attributes."""
    match node:
        case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Attribute(attr=name)):
            return name
        case ast.BinOp() | ast.UnaryOp() | ast.Compare():
            return OPERATOR
    return ""


def _constant(name: str) -> object:
    import torch

    return NUMBERS[name] if name in NUMBERS else getattr(torch, name)


def _leaves(value: object) -> Iterator[object]:
    """Yields what nested lists hold; their depth is bounded by the text."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, Mapping):
        yield from _leaves(list(value.values()))
    else:
        yield value


def _shapes(values: object) -> Iterator[str]:
    import torch

    return (str(list(leaf.shape)) for leaf in _leaves(values) if isinstance(leaf, torch.Tensor))


# ---- sizes ---------------------------------------------------------------------------------------------------------


OPERATOR = "operator"  # in the place of a function's name

# fmt: off
# What makes no more items than its tensors' sizes multiply to, whatever numbers it is given.
STEADY_FAMILIES = ("elementwise", "reductions", "linear algebra", "shape", "indexing", "activations", "losses")
EXPANDING = words("""
    cov corrcoef tile repeat_interleave broadcast_to diag diag_embed diagflat block_diag expand expand_as repeat unfold
    new_zeros new_ones new_full qr svd""")
STEADY_LAYERS = words("linear bilinear dropout layer_norm batch_norm group_norm rms_norm")
# fmt: on
STEADY = {name for family in STEADY_FAMILIES for name in FAMILIES[family][1].split()} | ONLY_METHODS | STEADY_LAYERS
STEADY |= IN_PLACE | {OPERATOR, ""}  # "" is indexing and attributes
STEADY -= EXPANDING
# What gives at most the shape that its tensors broadcast to; matrix products do where their shapes broadcast at all.
BROADCASTING = {name for family in ("elementwise", "losses") for name in FAMILIES[family][1].split()} | IN_PLACE
BROADCASTING |= {OPERATOR, "matmul", "mm", "mv", "bmm"}


def _may_be_large(name: str, values: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """Says whether a result could pass the limit, so that the usual small call waits for no further check.

    What is not `STEADY` makes at most n**3 items out of arguments whose sizes and numbers multiply to n: `interpolate`
    in three dimensions does.
    """
    import torch

    shapes = [leaf.shape for leaf in _leaves([*values, options]) if isinstance(leaf, torch.Tensor)]
    if name in BROADCASTING and (items := _broadcast_items(shapes)) is not None:
        return items > LIMIT / 16
    steady = name in STEADY
    growth = sum(math.log(_extent(leaf, with_numbers=not steady)) for leaf in _leaves([*values, options]))
    return (1 if steady else 3) * growth > math.log(LIMIT / 16)


def _broadcast_items(shapes: Sequence[Sequence[int]]) -> int | None:
    """Returns how many items tensors of `shapes` broadcast to, None where they do not."""
    sizes = [set(axis) - {1} for axis in zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1)]
    return math.prod(size for axis in sizes for size in axis) if all(len(axis) < 2 for axis in sizes) else None


def _extent(leaf: object, with_numbers: bool) -> float:
    """Returns how much an argument can enlarge a result: a tensor by its items, a number by itself or its inverse."""
    import torch

    if isinstance(leaf, torch.Tensor):
        return max(1, leaf.numel())
    if with_numbers and isinstance(leaf, int | float) and leaf != 0 and math.isfinite(leaf):
        return max(abs(leaf), 1 / abs(leaf))
    return 1


def _pieces(name: str, values: Sequence[Any], options: Mapping[str, Any]) -> int:
    """Returns a bound for how many tensors a function that takes a tensor apart returns."""
    import torch

    leaves = list(_leaves([*values, options]))
    if name in ("unbind", "split"):
        return max((size for leaf in leaves if isinstance(leaf, torch.Tensor) for size in leaf.shape), default=0)
    numbers = (leaf for leaf in leaves if isinstance(leaf, int))
    return max(numbers, default=0) if name in ("chunk", "tensor_split") else 0


def _result_bytes(function: Operation, values: Sequence[Any], options: Mapping[str, Any]) -> int:
    """Returns the bytes of the largest tensor made, found by running on the meta device, which allocates nothing.

    0 where only values tell (boolean masks, which never enlarge) and where torch will refuse the call itself.
    """
    import torch

    from gradexplain.versions.internals import internals

    sizes = [0]

    class Watch(internals().dispatch_mode):  # type: ignore[misc]  # the base class is not typed
        """Notes what is allocated on the way, as by `einsum`; views share their storage and cost nothing."""

        def __torch_dispatch__(
            self, operation: Operation, _types: object, values: Any = (), options: Any = None
        ) -> Any:
            made = operation(*values, **(options or {}))
            sizes.extend(leaf.untyped_storage().nbytes() for leaf in _leaves(made) if isinstance(leaf, torch.Tensor))
            return made

    with internals().without_modes(), torch.no_grad(), torch.device("meta"), warnings.catch_warnings(), Watch():
        warnings.simplefilter("ignore")
        try:
            made = function(*_on_meta(values), **_on_meta(options))
        except Exception:  # the call itself will say it better
            made = ()
    sizes += [leaf.numel() * leaf.itemsize for leaf in _leaves(made) if isinstance(leaf, torch.Tensor)]
    return max(sizes)


SIZED_BY_VALUE = ("one_hot", "repeat_interleave")


def _bytes_by_value(name: str, values: Sequence[Any], options: Mapping[str, Any]) -> int:
    """Bounds the two functions whose result is as large as the values of their arguments say."""
    import torch

    leaves = list(_leaves([*values, options]))
    numbers = [leaf for leaf in leaves if isinstance(leaf, int)]
    largest = [int(leaf.max()) + 1 for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.numel()]
    tensors = [leaf.numel() * leaf.itemsize for leaf in leaves if isinstance(leaf, torch.Tensor)]
    if name == "one_hot":
        return max(tensors, default=0) * max(numbers + largest[:1])
    return max(tensors, default=0) * max(numbers + largest[1:], default=1)


def _on_meta(value: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    if isinstance(value, Mapping):
        return {name: _on_meta(item) for name, item in value.items()}
    return type(value)(map(_on_meta, value)) if type(value) in (list, tuple) else value
