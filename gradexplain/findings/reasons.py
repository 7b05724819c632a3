"""Why a number is not finite: which values met in an operator, and by which rule of arithmetic that has no result.

Everything is read from what was recorded of one application of an operator, at one element.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradexplain.mathematics.indices import Index


@dataclass(frozen=True)
class Reason:
    """Why, as a key of the catalogue (`reasons.log-of-zero`), and the values that met, by the operator's own names."""

    key: str
    values: Mapping[str, float]


def base_name(operator: str) -> str:
    """Returns `log` for aten.log_.default."""
    return operator.removeprefix("aten.").partition(".")[0].strip("_")


def element_of(value: Any, at: Index, shape: tuple[int, ...]) -> float | None:
    """Returns the element of an argument that goes into the element `at` of an output of `shape`, by broadcasting."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, Tensor) or value.is_complex() or value.is_meta or value.dim() > len(shape):
        return None
    own = at[len(at) - value.dim() :]
    for index, length, whole in zip(own, value.shape, shape[len(shape) - value.dim() :], strict=True):
        if length not in (1, whole) or index >= whole:
            return None
    place = tuple(0 if n == 1 else i for i, n in zip(own, value.shape, strict=True))
    return float(value[place])


def reason_of(operator: str, arguments: Mapping[str, Any], output: Tensor, at: Index) -> Reason:
    """Returns why the element `at` of an operator's output is not finite."""
    name, made = base_name(operator), float(output[at]) if not output.is_complex() else math.nan
    shape = tuple(output.shape)
    values = {
        k: v for k, given in arguments.items() if k in _OPERANDS and (v := element_of(given, at, shape)) is not None
    }
    told = _FORWARD.get(name)
    key = told(values, made) if told is not None and values else ""
    if not key:
        key, more = _of_many(name, arguments, output, at)
        values = {**values, **more} if key else values
    if not key:
        key = "overflow" if math.isinf(made) else "undefined"
    return Reason(key, {**values, "result": made})


_OPERANDS = ("self", "other", "exponent", "end", "weight", "value", "tensor1", "tensor2", "min", "max", "grad_output")


def _first(values: Mapping[str, float]) -> float:
    return values.get("self", math.nan)


def _log(edge: float) -> Callable[[Mapping[str, float], float], str]:
    def told(v: Mapping[str, float], made: float) -> str:
        x = _first(v)
        return "log-of-zero" if x == edge else "log-of-negative" if x < edge else ""

    return told


def _division(v: Mapping[str, float], made: float) -> str:
    over, under = _first(v), v.get("other", math.nan)
    if under == 0:
        return "zero-over-zero" if over == 0 else "division-by-zero"
    return "inf-over-inf" if math.isinf(over) and math.isinf(under) else ""


def _product(v: Mapping[str, float], made: float) -> str:
    factors = (_first(v), v.get("other", math.nan))
    return "zero-times-inf" if 0 in factors and any(map(math.isinf, factors)) else ""


def _sum(v: Mapping[str, float], made: float) -> str:
    parts = (_first(v), v.get("other", math.nan))
    return "inf-minus-inf" if all(map(math.isinf, parts)) and math.isnan(made) else ""


def _power(v: Mapping[str, float], made: float) -> str:
    base, exponent = _first(v), v.get("exponent", math.nan)
    if base == 0 and exponent < 0:
        return "negative-power-of-zero"
    return "fractional-power-of-negative" if base < 0 and exponent % 1 else ""


def _inside(low: float, high: float) -> Callable[[Mapping[str, float], float], str]:
    def told(v: Mapping[str, float], made: float) -> str:
        x = _first(v)
        return "edge-of-domain" if x in (low, high) else "" if low < x < high else "outside-domain"

    return told


def _reciprocal(v: Mapping[str, float], made: float) -> str:
    x = _first(v)
    return "division-by-zero" if x == 0 else "root-of-negative" if x < 0 and math.isnan(made) else ""


_FORWARD: Mapping[str, Callable[[Mapping[str, float], float], str]] = {
    **dict.fromkeys(("log", "log2", "log10", "xlogy", "special_xlogy"), _log(0.0)),
    "log1p": _log(-1.0),
    "sqrt": lambda v, made: "root-of-negative" if _first(v) < 0 else "",
    "rsqrt": _reciprocal,
    "reciprocal": _reciprocal,
    **dict.fromkeys(("div", "true_divide", "remainder", "fmod"), _division),
    "mul": _product,
    **dict.fromkeys(("add", "sub", "rsub"), _sum),
    "pow": _power,
    **dict.fromkeys(
        ("exp", "exp2", "expm1", "sinh", "cosh"), lambda v, made: "exp-overflow" if math.isinf(made) else ""
    ),
    **dict.fromkeys(("acos", "asin"), _inside(-1.0, 1.0)),
    "atanh": _inside(-1.0, 1.0),
    "acosh": _inside(1.0, math.inf),
    "logit": _inside(0.0, 1.0),
    "to_copy": lambda v, made: "overflow-of-type" if math.isfinite(_first(v)) else "",
}


def _of_many(name: str, arguments: Mapping[str, Any], output: Tensor, at: Index) -> tuple[str, dict[str, float]]:
    """Returns the reason of an operator that takes many elements for one, and what is to be said of them."""
    whole = arguments.get("self", arguments.get("input"))
    if not isinstance(whole, Tensor) or whole.is_complex():
        return "", {}
    if name in ("softmax", "log_softmax", "safe_softmax") and whole.dim() and whole.shape == output.shape:
        dim = int(arguments.get("dim", -1))
        line = whole.movedim(dim, -1)[tuple(i for k, i in enumerate(at) if k != dim % whole.dim())]
        if bool((line == -math.inf).all()):
            return "masked-row", {"row": -math.inf}
        return ("inf-in-softmax", {"largest": float(line.max())}) if bool((line == math.inf).any()) else ("", {})
    taken = whole.numel() / max(output.numel(), 1)
    if name in ("std", "var", "var_mean", "std_mean") and math.isnan(float(output[at])):
        return ("one-element", {"count": taken}) if taken <= 1 else ("", {})
    if name in ("mean", "nanmean") and whole.numel() == 0:
        return "no-element", {"count": 0.0}
    if name.startswith(("nll_loss", "cross_entropy")):
        target, ignored = arguments.get("target"), arguments.get("ignore_index", -100)
        if isinstance(target, Tensor) and bool((target == ignored).all()):
            return "all-ignored", {"count": float(target.numel())}
    finite = torch.where(whole.isfinite(), whole.abs(), 0) if whole.is_floating_point() else None
    if finite is not None and finite.numel() and bool(torch.isinf(output[at])):
        return "overflow", {"largest": float(finite.max())}
    return "", {}


# --------------------------------------------------------------------------------------------------------- backward


def slope_reason(
    operator: str, arguments: Mapping[str, Any], output: Tensor | None, at: Index, gradient: float | None
) -> Reason:
    """Returns why what a node sends back to an element is not finite: where it stands, and which slope it has there.

    `at` is the place in the output, `gradient` what arrives there.
    """
    name = base_name(operator)
    shape = tuple(output.shape) if output is not None else ()
    values = {
        k: v for k, given in arguments.items() if k in _OPERANDS and (v := element_of(given, at, shape)) is not None
    }
    steep = _STEEP.get(name)
    edge = steep is not None and bool(values) and steep(values)
    arriving = {} if gradient is None else {"gradient": gradient}
    if name in ("std", "var", "std_mean", "var_mean", "linalg_vector_norm", "norm") and output is not None:
        return Reason("slope-of-zero-deviation", arriving)
    if edge:
        return Reason("zero-times-slope" if gradient == 0 else "infinite-slope", {**values, **arriving})
    return Reason("overflow-backward", {**values, **arriving})


_STEEP: Mapping[str, Callable[[Mapping[str, float]], bool]] = {
    **dict.fromkeys(("sqrt", "rsqrt", "log", "log2", "log10", "reciprocal"), lambda v: _first(v) == 0),
    "log1p": lambda v: _first(v) == -1,
    "pow": lambda v: _first(v) == 0 and v.get("exponent", 1.0) < 1,
    **dict.fromkeys(("div", "true_divide"), lambda v: v.get("other", 1.0) == 0),
    **dict.fromkeys(("acos", "asin", "atanh"), lambda v: abs(_first(v)) == 1),
    "acosh": lambda v: _first(v) == 1,
    "atan2": lambda v: _first(v) == 0 and v.get("other", 1.0) == 0,
    "xlogy": lambda v: v.get("other", 1.0) == 0,
    **dict.fromkeys(("exp", "exp2", "expm1", "sinh", "cosh"), lambda v: False),
    "mul": lambda v: math.isinf(_first(v)) or math.isinf(v.get("other", 0.0)),
}
