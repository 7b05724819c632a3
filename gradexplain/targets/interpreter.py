"""Runs expressions with torch: our own interpreter of what `expression.py` has checked."""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gradexplain.errors import InputError, RunError
from gradexplain.targets.expression import Program, compute, constant_path, function_path
from gradexplain.targets.sizes import MAX_PIECES, bytes_made, called, leaves, pieces
from gradexplain.targets.sources import EXPRESSION, Source
from gradexplain.targets.syntax import fault_at, place_of
from gradexplain.targets.values import LIMIT, first_line, size_text
from gradexplain.targets.vocabulary import ATTRIBUTES, BINARY, COMPARISONS, FIELDS, NUMBERS, UNARY, Operation


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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on style names lines of this package, not the user's text
            for statement in self.program.statements:
                self._statement = statement
                value = self._evaluate(self._statement.value, names)
                self._assign(value, names)
        return value

    def locate(self) -> Source:
        """Returns the piece of text whose operation runs now, or ran last."""
        targets, node = self._statement.targets, self._node
        target = targets[0] if len(targets) == 1 and node is self._statement.value else None
        return Source(EXPRESSION, node.lineno, self._segment(node), target)

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
            raise fault_at("unpack_mismatch", self.program.text, node, names=names, count=count, length=length)
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
            raise fault_at("list_by_name", self.program.text, node)
        return value

    def _operate(
        self, node: ast.expr, operation: Operation, operands: list[ast.expr], names: Mapping[str, object]
    ) -> Any:
        import torch

        values = [self._evaluate(operand, names) for operand in operands]
        if all(isinstance(value, int | float | complex) for value in values):
            return compute(operation, values, node, self.program.text)
        for operand, value in zip(operands, values, strict=True):
            if not isinstance(value, int | float | complex | torch.Tensor):
                raise fault_at("not_a_number_here", self.program.text, operand, kind=type(value).__name__)
            if operation is operator.xor and isinstance(value, torch.Tensor) and value.is_floating_point():
                raise fault_at("caret", self.program.text, node)
        return self._run(node, operation, values, {})

    def _index(self, node: ast.expr, value: ast.expr, key: ast.expr, names: Mapping[str, object]) -> Any:
        import torch

        container = self._evaluate(value, names)
        if not isinstance(container, torch.Tensor | tuple | list):
            raise fault_at("not_indexable", self.program.text, value, kind=type(container).__name__)
        return self._run(node, operator.getitem, [container, self._evaluate(key, names)], {})

    def _attribute(self, node: ast.Attribute, names: Mapping[str, object]) -> Any:
        import torch

        if path := constant_path(node):
            return _constant(path)
        value = self._evaluate(node.value, names)
        known = ATTRIBUTES if isinstance(value, torch.Tensor) else FIELDS if isinstance(value, tuple) else ()
        if node.attr not in known or not hasattr(type(value), node.attr):
            kind = type(value).__name__
            raise fault_at("no_such_attribute", self.program.text, node, name=node.attr, kind=kind)
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
            raise fault_at("not_in_this_torch", self.program.text, node, name=path, version=torch.__version__)
        return found  # type: ignore[no-any-return]

    def _method(self, node: ast.Attribute, value: object) -> Operation:
        """Returns the method of `value` as a function that takes the tensor first."""
        import torch

        if not isinstance(value, torch.Tensor) and not (isinstance(value, torch.Size) and node.attr == "numel"):
            kind = type(value).__name__
            raise fault_at("method_of_no_tensor", self.program.text, node.value, name=node.attr, kind=kind)
        if not hasattr(type(value), node.attr):
            name = f"Tensor.{node.attr}"
            raise fault_at("not_in_this_torch", self.program.text, node, name=name, version=torch.__version__)
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
            place = place_of(self.program.text, node)
            shapes = ", ".join(_shapes(values)) or "–"
            raise RunError("operation_failed", **place, shapes=shapes, reason=first_line(error)) from error

    def _refuse_large(
        self, node: ast.expr, function: Operation, values: Sequence[Any], options: Mapping[str, Any]
    ) -> None:
        name = called(node)
        if pieces(name, values, options) > MAX_PIECES:
            raise fault_at("too_many_pieces", self.program.text, node, limit=MAX_PIECES)
        size = bytes_made(name, function, values, options)
        if size > LIMIT:
            raise fault_at("too_large", self.program.text, node, size=size_text(size), limit=size_text(LIMIT))


def _constant(name: str) -> object:
    import torch

    return NUMBERS[name] if name in NUMBERS else getattr(torch, name)


def _shapes(values: object) -> Iterator[str]:
    import torch

    return (str(list(leaf.shape)) for leaf in leaves(values) if isinstance(leaf, torch.Tensor))
