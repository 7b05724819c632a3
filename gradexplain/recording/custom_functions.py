"""Custom Functions: what their parameters are called, where their backward is written, and the contract it must keep.

A backward gives back one thing for each argument of `apply`, in order: a gradient in the argument's shape for a tensor,
or `None`; always `None` for what is no tensor. Of a gradient in another shape torch makes the right one by summing, if
it can be broadcast to; one in another type it casts. Both go without a word.
"""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gradexplain.recording.events import Application, Held, source_of
from gradexplain.recording.frames import place_text
from gradexplain.recording.recorder import copy_of
from gradexplain.targets.signatures import forward_names
from gradexplain.targets.sources import Source


@dataclass(frozen=True)
class Breach:
    """How a backward breaks its contract: the key of a sentence and its data."""

    key: str
    data: Mapping[str, Any]


def arguments_of(application: Application) -> dict[str, Any]:
    """Returns what `apply` was given, by the names of forward's parameters, in the order in which backward answers."""
    names = _parameter_names(application.function, len(application.arguments))
    own = list(inspect.signature(application.function.forward).parameters)
    by_name = sorted(application.keywords.items(), key=lambda item: own.index(item[0]) if item[0] in own else len(own))
    return dict(zip(names, application.arguments, strict=True)) | dict(by_name)


def _parameter_names(function: Any, count: int) -> list[str]:
    names = forward_names(function)
    variadic = (p.name for p in inspect.signature(function.forward).parameters.values() if p.kind is p.VAR_POSITIONAL)
    rest = next(variadic, "input")
    return [*names, *(f"{rest}[{i}]" for i in range(count - len(names)))][:count]


def backward_place(function: Any) -> Source | None:
    """Returns where a custom Function's backward is written."""
    return _place(function.vjp if function.vjp is not torch.autograd.Function.vjp else function.backward)


def is_once_differentiable(function: Any) -> bool:
    """Says whether a custom Function's backward carries torch's mark that it is not to be differentiated again."""
    return getattr(function.backward, "__code__", None) is once_differentiable(lambda ctx, g: None).__code__


def has_own_jvp(function: Any) -> bool:
    """Says whether a custom Function brings along what torch calls in its forward mode."""
    return function.jvp is not torch.autograd.Function.jvp


def forward_place(function: Any) -> Source | None:
    """Returns where a custom Function's forward is written."""
    return _place(function.forward)


def jvp_place(function: Any) -> Source | None:
    """Returns where a custom Function's jvp is written."""
    return _place(function.jvp)


def _place(written: Any) -> Source | None:
    written = inspect.unwrap(written.func if isinstance(written, partial) else written)
    code = getattr(written, "__code__", None) or getattr(type(written).__call__, "__code__", None)
    if code is None:
        return None
    line = linecache.getline(code.co_filename, code.co_firstlineno).strip()
    return Source(code.co_filename, code.co_firstlineno, line, None, code.co_name)


def given_back(node: Any, cotangents: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """Returns what the backward of a custom Function gives back, one thing an argument, before torch looks at it.

    Tensors are copies: the memory is the Function's, which may use it again, and may write into what it is given.
    """
    with torch.no_grad():
        found = node.apply(*(None if g is None else copy_of(g) for g in cotangents))
    return tuple(copy_of(g) if isinstance(g, Tensor) else g for g in (found if isinstance(found, tuple) else (found,)))


def cotangents_like(application: Application) -> list[Tensor | None]:
    """Returns ones for each output of a Function, `None` for what is no tensor."""
    outputs = application.outputs if isinstance(application.outputs, (list, tuple)) else [application.outputs]
    return [torch.ones_like(held.tensor) if isinstance(held, Held) else None for held in outputs]


def breach(application: Application, returned: Sequence[Any]) -> Breach | None:
    """Returns how torch will find the contract broken, `None` where it will not."""
    return next(_breaches(application, returned), None)


def _breaches(application: Application, returned: Sequence[Any]) -> Iterator[Breach]:
    arguments = arguments_of(application)
    names = list(arguments)
    data = {
        "function": application.function.__name__,
        "backward": str(backward_place(application.function) or f"{application.function.__qualname__}.backward"),
        "place": place_text(source_of(application.frame), f"{application.function.__name__}.apply"),
        "returned": ", ".join(map(described, returned)),
        "expected": ", ".join(expected(name, arguments[name]) for name in names),
    }
    if len(returned) < len(names) or any(extra is not None for extra in returned[len(names) :]):
        data |= {"count": len(returned), "needed": len(names), "parameters": ", ".join(names)}
        yield Breach("backward_count", data)
        return
    for name, gradient in zip(names, returned, strict=False):
        key = _fault(arguments[name], gradient)
        if key is not None:
            own = {"argument": name, "seen": described(gradient), "given": described(arguments[name])}
            yield Breach(key, data | own)


def _fault(argument: Any, gradient: Any) -> str | None:
    if gradient is None:
        return None
    if not isinstance(argument, Held):
        return "backward_not_none"
    if not isinstance(gradient, Tensor):
        return "backward_not_tensor"
    if not argument.tracked:
        return None
    if fitted(gradient, argument.tensor) is None:
        return "backward_shape"
    return "backward_complex" if gradient.is_complex() and not argument.tensor.is_complex() else None


def fitted(gradient: Tensor, argument: Tensor) -> Tensor | None:
    """Returns what torch makes of a gradient: summed to the argument's shape and cast to its type, if that can be."""
    if gradient.shape != argument.shape:
        try:
            gradient = gradient.sum_to_size(argument.shape)
        except RuntimeError:
            return None
    real = gradient.is_complex() and not argument.is_complex()
    return (gradient.real if real else gradient).to(argument.dtype)


def expected(name: str, argument: Any) -> str:
    """Returns what a backward has to give for an argument, as it would be written: `grad_x (3, 4)`, or `None`."""
    tensor = argument.tensor if isinstance(argument, Held) else argument
    able = isinstance(tensor, Tensor) and (tensor.is_floating_point() or tensor.is_complex())
    return f"grad_{name} {tuple(tensor.shape)}" if able else f"None ({name}: {described(argument)})"


def described(value: Any) -> str:
    """Returns a value in few characters: shape and type of a tensor, `None`, a number, or the name of its type."""
    if isinstance(value, Held):
        value = value.tensor
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return repr(value) if value is None or isinstance(value, (int, float, complex)) else type(value).__name__
