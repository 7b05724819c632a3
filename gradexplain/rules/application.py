"""Rules put to work on tensors: local derivatives, vector-Jacobian products, outputs written out as terms."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradexplain.mathematics.digits import shortest
from gradexplain.mathematics.terms import ARITY, Number, compiled
from gradexplain.rules.entries import Rule, overload, parameters
from gradexplain.versions.internals import schema_of


def bind(operator: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns every argument of a call by its name in the operator's schema, defaults filled in."""
    schema = schema_of(overload(operator)).arguments
    bound = {a.name: a.default_value for a in schema if a.has_default_value()}
    return bound | dict(zip((a.name for a in schema), args, strict=False)) | dict(kwargs)


def call(operator: str, arguments: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Runs an operator on arguments by name; returns its outputs as a tuple, also where there is one.

    Raises `Unrecorded` where an argument is missing, as some of a live tensor's operators are.
    """
    schema = schema_of(overload(operator)).arguments
    if missing := [a.name for a in schema if a.name not in arguments]:
        raise Unrecorded(*missing)
    args = [arguments[a.name] for a in schema if not a.kwarg_only]
    result = overload(operator)(*args, **{a.name: arguments[a.name] for a in schema if a.kwarg_only})
    return (result,) if isinstance(result, Tensor) else tuple(result)


def wide(value: Any) -> Any:
    """Returns a value with its floating tensors, and the floating types named in it, in float64 (or complex128)."""
    if isinstance(value, Tensor):
        real = value.is_floating_point()
        widest = torch.float64 if real else torch.complex128
        return value.to(widest) if (real or value.is_complex()) and value.dtype != widest else value
    if isinstance(value, torch.dtype):
        return torch.float64 if value.is_floating_point else torch.complex128 if value.is_complex else value
    if type(value) in (list, tuple):
        return type(value)(wide(v) for v in value)
    return {k: wide(v) for k, v in value.items()} if type(value) is dict else value


def is_repeatable(operator: str) -> bool:
    """Says whether an operator makes the same of the same again: it neither draws nor writes into what it is given."""
    kind = overload(operator)
    return torch.Tag.nondeterministic_seeded not in kind.tags and not schema_of(kind).is_mutable


def has_one_output(operator: str) -> bool:
    """Says whether an operator returns a tensor, rather than several or a list of them."""
    returns = schema_of(overload(operator)).returns
    return len(returns) == 1 and str(returns[0].type) == "Tensor"


# -------------------------------------------------------------------------------------------- what rules cannot do


class OfRealNumbers(NotImplementedError):
    """The formulas of a rule hold for real numbers, and these are complex."""


class Unrecorded(KeyError):
    """A number that a rule needs was not recorded: torch does not save every number of a live tensor's operators."""


def _recorded(value: Any) -> Any:
    """Returns `value`; raises `Unrecorded` where it was made of the shape alone of what was not recorded."""
    if any(
        part.is_meta for part in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(part, Tensor)
    ):
        raise Unrecorded
    return value


# ------------------------------------------------------------------------------------------------- elementwise rules


def slope(rule: Rule, argument: str, arguments: Mapping[str, Any], outputs: Sequence[Tensor | None]) -> Tensor:
    """Returns the local derivative of an elementwise rule, in the shape of the output."""
    return evaluated(rule, rule.slopes[argument], arguments, outputs)


def evaluated(rule: Rule, formula: str, arguments: Mapping[str, Any], outputs: Sequence[Tensor | None] = ()) -> Tensor:
    """Evaluates one of the rule's own formulas; in the shape and type of the output where that is given.

    Raises `Unrecorded` where one of its variables was not recorded.
    """
    try:
        found = eval(compiled(formula), {}, {**FUNCTIONS, **variables(rule, arguments, outputs)})
    except NameError as fault:
        raise Unrecorded(fault.name) from fault
    result = torch.tensor(found, dtype=_type_of(found)) if not isinstance(found, Tensor) else found
    _recorded(result)
    y = outputs[0] if outputs else None
    if y is None:
        return result
    if result.dtype == torch.bool or (result.is_complex() and not y.is_complex()):
        return result.to(y.device).expand(y.shape)
    return result.to(y.device, y.dtype).expand(y.shape)


def _type_of(number: complex) -> torch.dtype:
    """Not torch's default type, which would round a float to float32."""
    if isinstance(number, bool):
        return torch.bool
    return torch.complex128 if isinstance(number, complex) else torch.float64


def variables(rule: Rule, arguments: Mapping[str, Any], outputs: Sequence[Tensor | None] = ()) -> dict[str, Any]:
    """Returns the formula's variables, those that were recorded; a number stands for what is none."""
    known = {v: rule.number_for(name, arguments[name]) for name, v in rule.names.items() if name in arguments}
    y = outputs[0] if outputs else None
    return known if y is None else {v: _as_precise(value, y.dtype) for v, value in known.items()} | {"y": y}


def _as_precise(value: Any, dtype: torch.dtype) -> Any:
    """Integers meet the formula in the output's type: torch would divide them in float32."""
    whole = isinstance(value, Tensor) and not (value.is_floating_point() or value.is_complex())
    return value.to(dtype) if whole and value.dtype != torch.bool and dtype.is_floating_point else value


def _where(condition: Any, yes: Any, no: Any) -> Any:
    if not isinstance(condition, Tensor):
        return yes if condition else no
    if not isinstance(yes, Tensor) and not isinstance(no, Tensor):
        yes = torch.tensor(yes, dtype=torch.float64, device=condition.device)
    return torch.where(condition, yes, no)


def _on_numbers_too(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """A number meets a tensor in the tensor's type; numbers alone give a number, which promotes nothing."""

    def apply(*arguments: Any) -> Any:
        tensors = [a for a in arguments if isinstance(a, Tensor)]
        if not tensors:
            return float(function(*(torch.tensor(float(a), dtype=torch.float64) for a in arguments)))
        return function(*(a if isinstance(a, Tensor) else tensors[0].new_tensor(a) for a in arguments))

    return apply


def _trigamma(x: Tensor) -> Tensor:
    return torch.polygamma(1, x)


# Each function of `terms.ARITY` on tensors.
FUNCTIONS: Mapping[str, Any] = {
    **{name: _on_numbers_too(getattr(torch, name)) for name in ARITY.keys() - {"sign", "trigamma", "i1", "where"}},
    "sign": _on_numbers_too(torch.sgn),  # of a complex number x / |x|
    "trigamma": _on_numbers_too(_trigamma),
    "i1": _on_numbers_too(torch.special.i1),
    "where": _where,
    "pi": math.pi,
}


# ------------------------------------------------------------------------------------------ vector-Jacobian products


def vjp(
    rule: Rule,
    argument: str,
    cotangents: Sequence[Tensor | None],
    arguments: Mapping[str, Any],
    outputs: Sequence[Any],
    local: Callable[..., Tensor] | None = None,
    side: Any = 0,
) -> Any:
    """Returns the gradient of `argument`, in its shape (a list of gradients for a list of tensors).

    `arguments` has every argument of the schema (see `bind`); `cotangents` has `None` where nothing arrived. `local`
    gives the local derivative of an elementwise rule in place of `slope`; `side` says what every other rule takes at
    kinks (see `Derivative`). Raises `Unrecorded` where a number that the rule needs is missing among the arguments and
    outputs, and `OfRealNumbers` where there are complex ones and its formulas are not made for them.
    """
    if rule.over != "complex" and meets_complex(arguments, outputs):
        return _of_complex(rule, argument, cotangents, arguments, outputs, local)
    return _real_vjp(rule, argument, cotangents, arguments, outputs, local, side)


def meets_complex(arguments: Mapping[str, Any], outputs: Sequence[Any]) -> bool:
    """Says whether an operator met a complex number, or made one."""
    values = [*arguments.values(), *outputs]
    parts = [part for v in values for part in (v if isinstance(v, (list, tuple)) else [v])]
    return any(part.is_complex() if isinstance(part, Tensor) else isinstance(part, complex) for part in parts)


def _of_complex(
    rule: Rule,
    argument: str,
    cotangents: Sequence[Tensor | None],
    arguments: Mapping[str, Any],
    outputs: Sequence[Any],
    local: Callable[..., Tensor] | None,
) -> Any:
    """Returns the gradient by an analytic rule.

    Torch pairs a cotangent with a change as ⟨ȳ, dy⟩ = Re Σ conj(ȳ) dy. For an analytic function dy = J dx, so that
    x̄ = Jᴴ ȳ = conj(Jᵀ conj(ȳ)), and Jᵀ is what the formulas of real numbers apply. Of a real x only the real part of dx
    is there: the real part of x̄ counts (Kreutz-Delgado 2009, arXiv:0906.4835).
    """
    if rule.over != "analytic":
        raise OfRealNumbers(rule.operator)
    conjugate = [None if g is None else g.conj() for g in cotangents]
    sent, value = _real_vjp(rule, argument, conjugate, arguments, outputs, local, 0), arguments[argument]
    if isinstance(sent, Tensor):
        return _paired(sent, value)
    return [_paired(s, v) for s, v in zip(sent, value, strict=True)]


def _paired(sent: Tensor, value: Tensor) -> Tensor:
    """Returns the conjugate of what the formulas sent, for a real `value` its real part."""
    if value.is_complex():
        return sent.conj().resolve_conj()
    return sent.real if sent.is_complex() else sent


def _real_vjp(
    rule: Rule,
    argument: str,
    cotangents: Sequence[Tensor | None],
    arguments: Mapping[str, Any],
    outputs: Sequence[Any],
    local: Callable[..., Tensor] | None,
    side: Any,
) -> Any:
    if not rule.elementwise:
        return _recorded(_general(rule, argument, cotangents, arguments, outputs, side))
    shape = arguments[argument].shape
    if cotangents[0] is None:
        return torch.zeros_like(arguments[argument])
    return summed_to(cotangents[0] * (local or slope)(rule, argument, arguments, outputs), shape)


def _general(
    rule: Rule,
    argument: str,
    cotangents: Sequence[Tensor | None],
    arguments: Mapping[str, Any],
    outputs: Sequence[Tensor],
    side: Any,
) -> Any:
    if all(cotangent is None for cotangent in cotangents):
        return _zeros(arguments[argument])
    g = cotangents[0] if has_one_output(rule.operator) else tuple(cotangents)
    return told(rule, rule.derivatives[argument].run, arguments, outputs, g=g, side=side)


def told(
    rule: Rule, function: Callable[..., Any], arguments: Mapping[str, Any], outputs: Sequence[Any], **more: Any
) -> Any:
    """Returns what a function of the rule's makes of the arguments and outputs that it asks for, and of what is `more`.

    Raises `Unrecorded` where one of them is missing.
    """
    available, needs = {**arguments, **_named_outputs(rule, outputs), **more}, parameters(function)
    if unknown := set(needs) - available.keys():
        raise Unrecorded(*unknown)
    return function(**{name: available[name] for name in needs})


def _zeros(argument: Any) -> Any:
    return torch.zeros_like(argument) if isinstance(argument, Tensor) else [torch.zeros_like(t) for t in argument]


def _named_outputs(rule: Rule, outputs: Sequence[Tensor | None]) -> dict[str, Any]:
    names = ["y"] if has_one_output(rule.operator) else [f"y{place}" for place in range(len(outputs))]
    return {name: output for name, output in zip(names, outputs, strict=False) if output is not None}


def summed_to(g: Tensor, shape: Sequence[int]) -> Tensor:
    """Sums `g` over the axes along which an input of `shape` was repeated."""
    extra = g.ndim - len(shape)
    g = g.sum(tuple(range(extra))) if extra else g
    repeated = tuple(axis for axis, size in enumerate(shape) if size == 1 and g.shape[axis] != 1)
    return g.sum(repeated, keepdim=True) if repeated else g


# ----------------------------------------------------------------------------------------------- outputs written out


def written(rule: Rule, arguments: Mapping[str, Any], outputs: Sequence[Tensor | None]) -> tuple[Any, ...] | None:
    """Returns each output as an object array of terms (`None` for one that is not written), or `None` altogether.

    That is so where the rule does not write its outputs, where a number that it needs was not recorded, and where there
    are complex numbers: terms are real.

    Floating tensors reach `rule.terms` as object arrays of `Number`, other tensors as plain arrays.
    """
    if rule.terms is None or meets_complex(arguments, outputs):
        return None
    available, needs = {**arguments, **_named_outputs(rule, outputs)}, parameters(rule.terms)
    if not set(needs) <= available.keys():
        return None
    result = rule.terms(**{name: _as_terms(available[name]) for name in needs})
    if result is None:
        return None
    several = result if isinstance(result, tuple) else (result,)
    return tuple(None if part is None else np.asarray(part, dtype=object) for part in several)


def _as_terms(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and any(isinstance(part, Tensor) for part in value):
        return [_as_terms(part) for part in value]
    if not isinstance(value, Tensor):
        return value
    if not value.is_floating_point():
        return value.detach().cpu().numpy()
    result = np.empty(tuple(value.shape), dtype=object)
    flat = result.reshape(-1)
    for place, number in enumerate(value.detach().reshape(-1).tolist()):
        flat[place] = Number(shortest(number, value.dtype))
    return flat.reshape(result.shape)
