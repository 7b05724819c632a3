"""A function in float64 although its code makes numbers in a shorter type: casts, constants and memory are widened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gradexplain.rules.application import wide

Call = Callable[[Mapping[str, Any]], object]

LOW = (torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex32)
# Functions that make tensors of Python numbers, in torch's default type unless another is asked for.
_MAKING = frozenset({"tensor", "as_tensor", "asarray", "scalar_tensor", "full", "arange", "linspace", "logspace"})
_NARROWING = frozenset({"float", "half", "bfloat16"})
_NARROWING_COMPLEX = frozenset({"cfloat", "chalf"})
# Functions that draw: in another type they would draw other numbers.
_DRAWN = frozenset({"rand", "randn", "rand_like", "randn_like", "normal", "bernoulli", "poisson"})
_DRAWN_INTO = frozenset(
    {"uniform_", "normal_", "bernoulli_", "exponential_", "geometric_", "cauchy_", "log_normal_", "random_"}
)


def promoting(call: Call, own: torch.dtype, constants: list[Tensor] | None = None) -> Call:
    """Returns `call` with its numbers in float64; what it draws, it draws as in its `own` type.

    Tensors of a shorter type that it met, and that need no gradient, are added to `constants`.
    """

    def promoted(given: Mapping[str, Any]) -> object:
        with _Promotion(own, constants):
            return call(given)

    return promoted


class _Promotion(TorchFunctionMode):
    """Lets torch's functions take and give float64: captured constants and casts to a shorter type as well.

    A tensor of a shorter type has one twin in float64 as long as the call lasts, so that what is written into it, or
    into a view of it, is there when it is read.
    """

    def __init__(self, own: torch.dtype, constants: list[Tensor] | None) -> None:
        super().__init__()
        self.own, self.constants = own, constants
        self.twins: dict[int, tuple[Tensor, int, Tensor]] = {}
        # What would be of a shorter type without this mode, with that type.
        self.short: dict[int, tuple[Tensor, torch.dtype]] = {}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, keywords = getattr(function, "__name__", ""), kwargs or {}
        if name.startswith(("__get__", "__set__", "__delete__")):
            return function(*args, **keywords)  # an attribute, not an operator
        if name in _NARROWING and args and isinstance(args[0], Tensor):
            value = self.widened(args[0])
            return value if value.is_complex() else value.double()
        if name in _NARROWING_COMPLEX and args and isinstance(args[0], Tensor):
            return self.widened(args[0]).to(torch.complex128)
        leaves = [value for value in args if isinstance(value, Tensor) and value.dtype in LOW and value.requires_grad]
        given, keywords = self.widened(args), self.widened(keywords)
        if name in _DRAWN | _DRAWN_INTO:
            return self.drawn(function, given, keywords)
        made = function(*given, **keywords)
        for value, twin in zip(args, given, strict=True) if leaves else ():
            if isinstance(value, Tensor) and value is not twin and twin._version:
                self.twins[id(value)] = (value, value._version, twin)  # a parameter that was made in the call
        if name in _MAKING and isinstance(made, Tensor) and made.dtype in LOW and "dtype" not in keywords:
            widened = function(*given, **keywords, dtype=torch.float64)
            self.short[id(widened)] = (widened, made.dtype)
            return widened
        return made

    def drawn(self, function: Any, args: Any, keywords: Any) -> Any:
        """Returns what a function draws in the type that it would draw in without this mode, in float64."""
        own = self.own
        for value in args:
            if id(value) in self.short:
                own = self.short[id(value)][1]
        if own not in LOW:
            return function(*args, **keywords)
        if function.__name__ in _DRAWN:
            return wide(_drawn(function, args, keywords, own))
        with torch.no_grad():
            return args[0].copy_(function(args[0].to(own), *args[1:], **keywords))

    def widened(self, value: Any) -> Any:
        """Returns a value with every tensor of a shorter type in float64."""
        if type(value) in (list, tuple):
            return type(value)(self.widened(v) for v in value)
        if type(value) is dict:
            return {k: self.widened(v) for k, v in value.items()}
        if not isinstance(value, Tensor) or value.dtype not in LOW or value.is_inference():
            return wide(value)
        kept = self.twins.get(id(value))
        if kept is not None and kept[1] == value._version:
            return kept[2]
        twin = wide(value)
        if not value.requires_grad:
            if self.constants is not None:
                self.constants.append(value)
            self.twins[id(value)] = (value, value._version, twin)
            self.short[id(twin)] = (twin, value.dtype)
        return twin


def _drawn(function: Any, args: Any, keywords: Mapping[str, Any], own: torch.dtype) -> Any:
    """Runs a function that draws in the type that the user runs in, whatever it was given."""
    return function(*(_in(value, own) for value in args), **{name: _in(value, own) for name, value in keywords.items()})


def _in(value: Any, own: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(own) if value.dtype == torch.float64 else value
    return own if value is torch.float64 else value
