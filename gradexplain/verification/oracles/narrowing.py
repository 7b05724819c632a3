"""Operators that torch has no kernel for in float64: a replay runs them in the widest type that they have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

Call = Callable[[Mapping[str, Any]], object]


def narrowing(call: Call, narrowed: set[str]) -> Call:
    """Returns `call` with the operators that refuse float64 run in a shorter type, their results taken to float64.

    Their names are added to `narrowed`. One that writes into what it is given is left to its refusal: it would write
    into a copy.
    """

    class Narrowing(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs, name = kwargs or {}, resolve_name(function) or str(getattr(function, "__name__", function))
            try:
                return function(*args, **kwargs)
            except RuntimeError:
                if name.endswith("_") or "out" in kwargs:
                    raise
            try:
                made, short = _run_in(torch.float32, function, args, kwargs), torch.float32
            except RuntimeError:
                made, short = _run_in(torch.bfloat16, function, args, kwargs), torch.bfloat16
            narrowed.add(name)
            return _cast(made, short, torch.float64)

    def narrow(given: Mapping[str, Any]) -> object:
        with Narrowing():
            return call(given)

    return narrow


def _run_in(dtype: torch.dtype, function: Any, args: Any, kwargs: Any) -> Any:
    return function(*_cast(args, torch.float64, dtype), **_cast(kwargs, torch.float64, dtype))


def _cast(value: Any, start: torch.dtype, end: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(end) if value.dtype == start else value
    if type(value) in (list, tuple):
        return type(value)(_cast(v, start, end) for v in value)
    return {k: _cast(v, start, end) for k, v in value.items()} if type(value) is dict else value
