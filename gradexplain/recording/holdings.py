"""What a callable holds: the modules and the leaf tensors that its code can reach by a name.

Names lead through globals, closures and default arguments, through what `partial` has bound and the object of a bound
method, into lists, tuples and dicts, and on through the other functions of the user's that are reached in this way.
"""

from __future__ import annotations

import inspect
import os
import sysconfig
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

# What is reached from a function of a library is the library's own; this package is one, wherever it stands.
_LIBRARIES = (
    *{sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")},
    f"{Path(__file__).parents[1]}{os.sep}",
)


def held_by(function: object) -> tuple[dict[str, nn.Module], dict[str, Tensor]]:
    """Returns the modules and the leaf tensors that a callable can reach, by name; "" is the callable's own module."""
    modules: dict[str, nn.Module] = {}
    leaves: dict[str, Tensor] = {}
    callables, known = [function], {_identity(function)}
    for holder in callables:  # grows on the way
        for name, value in _with_items(_named(holder)):
            if isinstance(value, nn.Module):
                _enter(modules, name, value, holder)
                for inner, module in unregistered(value):
                    _enter(modules, f"{name}.{inner}" if name else inner, module, holder)
            elif isinstance(value, Tensor) and value.requires_grad and value.is_leaf:
                _enter(leaves, name, value, holder)
            elif _is_the_users(value) and _identity(value) not in known:
                known.add(_identity(value))
                callables.append(value)
    return modules, leaves


def unregistered(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yields the modules that a module holds in plain lists, tuples and dicts, where `parameters()` does not see them.

    Each has the way to it: `layers[0]`.
    """
    known = {id(module) for _, module in nn.Module.named_modules(root)}
    for path, module in nn.Module.named_modules(root):
        plain = (
            (n, v) for n, v in vars(module).items() if not n.startswith("_") and isinstance(v, list | tuple | dict)
        )
        for name, value in _with_items(plain):
            if isinstance(value, nn.Module) and id(value) not in known:
                yield f"{path}.{name}" if path else name, value


def _enter(table: dict[str, Any], name: str, value: object, holder: object) -> None:
    """Enters a value once; where its name is another's, with its holder's name before it."""
    if any(value is known for known in table.values()):
        return
    while name in table:
        name = ".".join(filter(None, (str(getattr(holder, "__name__", type(holder).__name__)), name)))
    table[name] = value


def _named(holder: Any) -> Iterator[tuple[str, Any]]:
    """Yields what one callable holds, by name."""
    owner = getattr(holder, "__self__", None)
    if isinstance(holder, nn.Module) or isinstance(owner, nn.Module):
        yield "", holder if isinstance(holder, nn.Module) else owner
    elif isinstance(holder, partial):
        yield from _named(holder.func)
        yield from _bound(holder)
    elif isinstance(holder, (FunctionType, MethodType)):
        yield from _of_function(holder)
        yield from _of_object(owner, holder.__code__) if owner is not None else ()
    elif isinstance(called := inspect.getattr_static(type(holder), "__call__", None), FunctionType):
        yield from _named(MethodType(called, holder))
    if "__wrapped__" in getattr(holder, "__dict__", {}):  # of a decorator, such as lru_cache
        yield "", holder.__wrapped__


def _of_function(function: Any) -> Iterator[tuple[str, Any]]:
    code, known = function.__code__, function.__globals__
    yield from ((name, known[name]) for name in _mentioned(code) if name in known)
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield name, cell.cell_contents
        except ValueError:  # a name that is not assigned yet
            continue
    arguments = code.co_varnames[: code.co_argcount]
    defaults = function.__defaults__ or ()
    yield from zip(arguments[len(arguments) - len(defaults) :], defaults, strict=True)
    yield from (function.__kwdefaults__ or {}).items()


def _of_object(owner: Any, code: CodeType) -> Iterator[tuple[str, Any]]:
    """Yields the attributes of an object, and its methods, that the code of one of its methods mentions."""
    attributes = getattr(owner, "__dict__", {})
    for name in _mentioned(code):
        if name in attributes:
            yield name, attributes[name]
        elif isinstance(method := inspect.getattr_static(type(owner), name, None), FunctionType):
            yield name, MethodType(method, owner)


def _bound(holder: partial[Any]) -> Iterator[tuple[str, Any]]:
    """Yields the arguments that `partial` has bound, by the names of the parameters where they have some."""
    try:
        parameters = list(inspect.signature(holder.func).parameters)
    except (TypeError, ValueError):
        parameters = []
    numbered = (f"input{i}" for i in range(len(parameters), len(holder.args)))
    yield from zip([*parameters, *numbered], holder.args, strict=False)
    yield from holder.keywords.items()


def _mentioned(code: CodeType) -> dict[str, None]:
    """Returns the names of globals and attributes in a function, and in those that are written inside it, in order."""
    names = dict.fromkeys(code.co_names)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            names |= _mentioned(inner)
    return names


def _with_items(named: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Yields every value, after a list, a tuple or a dict its items: `layers[0]`, `heads['mask']`."""
    for name, value in named:
        yield name, value
        if isinstance(value, (list, tuple)):
            yield from ((f"{name}[{i}]", item) for i, item in enumerate(value))
        elif isinstance(value, dict):
            yield from ((f"{name}[{key!r}]", item) for key, item in list(value.items()))


def _is_the_users(value: Any) -> bool:
    """Says whether a value is a callable that is no library's, or leads to one."""
    if isinstance(value, partial) or "__wrapped__" in getattr(value, "__dict__", {}):
        return True
    if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
        return True
    called = (
        value
        if isinstance(value, (FunctionType, MethodType))
        else inspect.getattr_static(type(value), "__call__", None)
    )
    code = getattr(called, "__code__", None)
    return isinstance(code, CodeType) and not code.co_filename.startswith(_LIBRARIES)


def _identity(value: Any) -> tuple[int, int]:
    """Returns what tells a callable from others: a bound method is a new object at every look."""
    return id(getattr(value, "__func__", value)), id(getattr(value, "__self__", None))
