"""What each operator is, written out: every element of its outputs as a term of its arguments' elements.

Most is known already: the formula of an elementwise rule, the `terms` of another. Operators that only move elements,
or choose among them, are run on numbers that stand for the elements. For the rest, the definition is here. Nothing that
the rules know of derivatives is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradexplain.mathematics.terms import NAMESPACE, Constant, terms_of
from gradexplain.rules.application import call, has_one_output
from gradexplain.rules.entries import Rule, parameters
from gradexplain.rules.reductions import axes
from gradexplain.rules.registry import rule_of
from gradexplain.verification.oracles.tape import Cell, Tie, TooLarge

_NUMPY: Mapping[str, Any] = NAMESPACE
_exp, _log, _sqrt, _abs, _sign = (_NUMPY[name] for name in ("exp", "log", "sqrt", "abs", "sign"))


class Undefined(Exception):
    """There is no definition of this operator, or not for these arguments."""


def written_out(operator: str, arguments: Mapping[str, Any], outputs: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """Returns each output as an array of terms, `None` for one that no gradient comes from.

    `arguments` has floating tensors as arrays of cells. Of `outputs`, floating ones give their shape alone.
    """
    rule = rule_of(operator)
    if rule is None:
        raise Undefined
    name = rule.operator.removeprefix("aten.").partition(".")[0]
    if name in _UNDEFINED:
        raise Undefined
    recorded = {n: _described(y) for n, y in _named(rule, outputs).items()}
    if name in DEFINITIONS:
        return _called(DEFINITIONS[name], arguments, recorded)
    if rule.moves or name in _CHOOSING:
        return _moved(rule, arguments)
    if rule.elementwise:
        return (_elementwise(rule, arguments),)
    if rule.terms is None:
        raise Undefined
    return _called(rule.terms, arguments, recorded)


def is_defined(rule: Rule) -> bool:
    """Says whether an operator is written out, for some of its arguments at least."""
    name = rule.operator.removeprefix("aten.").partition(".")[0]
    written = rule.elementwise or rule.moves or rule.terms is not None
    return name not in _UNDEFINED and bool(written or name in DEFINITIONS or name in _CHOOSING)


def _named(rule: Rule, outputs: Sequence[Tensor | None]) -> dict[str, Tensor | None]:
    return {"y": outputs[0]} if has_one_output(rule.operator) else {f"y{n}": y for n, y in enumerate(outputs)}


def _described(output: Tensor | None) -> Any:
    """Returns indices and masks as they are; of numbers that a gradient may come from, the shape alone."""
    if output is None or not output.is_floating_point():
        return output
    return np.empty(tuple(output.shape), dtype=object)


def _called(
    definition: Callable[..., Any], arguments: Mapping[str, Any], outputs: Mapping[str, Any]
) -> tuple[Any, ...]:
    available = {n: _as_array(v) for n, v in {**arguments, **outputs}.items()}
    made = definition(**{n: available[n] for n in parameters(definition)})
    if made is None:
        raise Undefined
    return made if isinstance(made, tuple) else (made,)


def _where(chosen: Any, yes: Any, no: Any) -> Any:
    return np.where(chosen, np.asarray(yes, dtype=object), np.asarray(no, dtype=object))


def _as_array(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and any(isinstance(part, Tensor) for part in value):
        return [_as_array(part) for part in value]
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value


# --------------------------------------------------------------------------------------------------------- elementwise


def _elementwise(rule: Rule, arguments: Mapping[str, Any]) -> Any:
    given = {v: _as_array(rule.number_for(n, arguments[n])) for n, v in rule.names.items()}
    numbers = {v: Constant(float(a)) for v, a in given.items() if isinstance(a, (int, float))}
    tensors = {v: a for v, a in given.items() if isinstance(a, np.ndarray)}
    arrays = dict(zip(tensors, np.broadcast_arrays(*tensors.values()), strict=True))
    made = np.empty(next(iter(arrays.values())).shape, dtype=object)
    for index in np.ndindex(*made.shape):
        made[index] = terms_of(rule.formula, numbers | {v: a[index] for v, a in arrays.items()})
    return made


# ----------------------------------------------------------------------------------------- moving and choosing elements

# These read memory, or count: a rank in the place of an element does not tell what they do.
_UNDEFINED = frozenset({"as_strided", "as_strided_scatter", "_reshape_alias", "mode"})
# The largest, the smallest, the middle: one of the elements.
_CHOOSING = frozenset({"max", "min", "median", "nanmedian", "amax", "amin", "aminmax"})


def _moved(rule: Rule, arguments: Mapping[str, Any]) -> tuple[Any, ...]:
    """Runs the operator on each element's rank among all, which moves as the element does and is chosen where it is.

    In a second run the ranks are other numbers, and of equal elements the last comes first: what was chosen among
    equals is then another element. What is no rank in one of the runs is a constant of the operator.
    """
    cells = list({id(c): c for v in arguments.values() for array in _arrays(v) for c in array.flat}.values())
    backwards = cells[::-1]
    first = _run(rule, arguments, sorted(cells, key=_value), 1)
    second = _run(rule, arguments, sorted(backwards, key=_value), 1 + len(cells))
    return tuple(None if y is None else _merged(y, z) for y, z in zip(first, second, strict=True))


def _value(cell: Cell) -> Any:
    return cell.value


def _run(rule: Rule, arguments: Mapping[str, Any], order: Sequence[Cell], start: int) -> list[Any]:
    """Returns the outputs as arrays of cells, or of numbers where there is no rank; `None` for one of indices."""
    ranks = {id(cell): rank for rank, cell in enumerate(order, start)}
    renamed = dict(enumerate(order, start))
    made = call(rule.operator, {n: _replaced(v, ranks) for n, v in arguments.items()})
    return [
        np.vectorize(lambda r: renamed.get(r, r), otypes=[object])(y) if y.is_floating_point() else None for y in made
    ]


def _arrays(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [array for part in value for array in _arrays(part)]
    return [value] if isinstance(value, np.ndarray) else []


def _replaced(value: Any, ranks: Mapping[int, int]) -> Any:
    if isinstance(value, (list, tuple)):
        return [_replaced(part, ranks) for part in value]
    if not isinstance(value, np.ndarray):
        return value
    return torch.tensor([ranks[id(c)] for c in value.flat], dtype=torch.float64).reshape(value.shape)


def _merged(first: Any, second: Any) -> Any:
    made = np.empty(first.shape, dtype=object)
    for index in np.ndindex(*first.shape):
        one, other = first[index], second[index]
        if not (isinstance(one, Cell) and isinstance(other, Cell)):
            made[index] = other if isinstance(one, Cell) else one
        elif one is not other and (one.varies or other.varies):
            raise Tie
        else:
            made[index] = one
    return made


# ------------------------------------------------------------------------------------------------------ statistics


def _mean(x: Any, over: tuple[int, ...], keepdims: bool = True) -> Any:
    return np.sum(x, axis=over, keepdims=keepdims) / math.prod(x.shape[axis] for axis in over)


def _variance(x: Any, over: tuple[int, ...], correction: Any = 0, keepdims: bool = True) -> Any:
    freedom = math.prod(x.shape[axis] for axis in over) - (1 if correction is None else correction)
    return np.sum((x - _mean(x, over)) ** 2, axis=over, keepdims=keepdims) / freedom


def _var_mean(self: Any, dim: Any, correction: Any, keepdim: bool) -> Any:
    over = axes(dim, self.ndim)
    return _variance(self, over, correction, keepdim), _mean(self, over, keepdim)


def _std_mean(self: Any, dim: Any, correction: Any, keepdim: bool) -> Any:
    variance, mean = _var_mean(self, dim, correction, keepdim)
    return _sqrt(variance), mean


def _normalised(x: Any, over: tuple[int, ...], eps: float) -> Any:
    return (x - _mean(x, over)) / _sqrt(_variance(x, over) + eps)


def _affine(x: Any, weight: Any, bias: Any, shape: Sequence[int]) -> Any:
    scaled = x if weight is None else x * weight.reshape(shape)
    return scaled if bias is None else scaled + bias.reshape(shape)


def _layer_norm(input: Any, normalized_shape: Any, weight: Any, bias: Any, eps: float) -> Any:
    over = tuple(range(input.ndim - len(normalized_shape), input.ndim))
    return _affine(_normalised(input, over, eps), weight, bias, normalized_shape), None, None


def _batch_norm(
    input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, training: bool, eps: float
) -> Any:
    channels = (1, -1, *[1] * (input.ndim - 2))
    if training:
        hat = _normalised(input, (0, *range(2, input.ndim)), eps)
    else:
        hat = (input - running_mean.reshape(channels)) / _sqrt(running_var.reshape(channels) + eps)
    return _affine(hat, weight, bias, channels), None, None


def _group_norm(input: Any, weight: Any, bias: Any, group: int, eps: float) -> Any:
    grouped = input.reshape(input.shape[0], group, -1)
    hat = _normalised(grouped, (2,), eps).reshape(input.shape)
    return _affine(hat, weight, bias, (1, -1, *[1] * (input.ndim - 2))), None, None


# -------------------------------------------------------------------------------------------------------- matrices
#
# By Cramer's rule: no pivot has to be chosen, and every element is a polynomial, or a quotient of two.

# The minors of larger matrices are too many.
_MOST_ROWS = 8


def _matrices(function: Callable[..., Any], *stacks: Any) -> Any:
    """Applies a function to each matrix of a batch."""
    if stacks[0].ndim == 2:
        return function(*stacks)
    return np.stack([np.asarray(_matrices(function, *parts), dtype=object) for parts in zip(*stacks, strict=True)])


def _determinant(A: Any) -> Any:
    """Laplace's expansion by rows; the minors of the lower rows are shared."""
    if len(A) > _MOST_ROWS:
        raise TooLarge

    @cache
    def minor(columns: tuple[int, ...]) -> Any:
        row, total = len(A) - len(columns), Constant(0.0)
        for place, column in enumerate(columns):
            product = A[row, column] * minor(columns[:place] + columns[place + 1 :])
            total = total - product if place % 2 else total + product
        return total if columns else Constant(1.0)

    return minor(tuple(range(len(A))))


def _inverse(A: Any) -> Any:
    cofactors = np.empty(A.shape, dtype=object)
    for i, j in np.ndindex(*A.shape):
        minor = _determinant(np.delete(np.delete(A, i, 0), j, 1))
        cofactors[j, i] = -minor if (i + j) % 2 else minor
    return cofactors / _determinant(A)


def _solved(A: Any, B: Any, left: bool) -> Any:
    if B.ndim == 1 or (A.ndim - 1 == B.ndim and A.shape[:-1] == B.shape):
        return (_matrices(_inverse, A) @ B[..., None])[..., 0]
    return _matrices(_inverse, A) @ B if left else B @ _matrices(_inverse, A)


def _triangular(self: Any, B: Any, upper: bool, left: bool, unitriangular: bool) -> Any:
    n = self.shape[-1]
    inside = np.triu(np.ones((n, n)), int(unitriangular)) if upper else np.tril(np.ones((n, n)), -int(unitriangular))
    triangle = _where(inside > 0, self, 0.0)
    return _solved(_where(np.eye(n) > 0, 1.0, triangle) if unitriangular else triangle, B, left)


def _log_determinant(A: Any) -> Any:
    determinant = np.asarray(_matrices(_determinant, A), dtype=object)
    return _sign(determinant), _log(_abs(determinant)), None, None


def _cross(self: Any, other: Any, dim: int) -> Any:
    a, b = (np.moveaxis(t, dim, 0) for t in np.broadcast_arrays(self, other))
    parts = [a[i] * b[j] - a[j] * b[i] for i, j in ((1, 2), (2, 0), (0, 1))]
    return np.moveaxis(np.stack(parts), 0, dim)


def _trilinear(i1: Any, i2: Any, i3: Any, expand1: Any, expand2: Any, expand3: Any, sumdim: Any) -> Any:
    first, second, third = (
        np.expand_dims(t, tuple(places)) if places else t for t, places in ((i1, expand1), (i2, expand2), (i3, expand3))
    )
    return np.sum(first * second * third, axis=tuple(sumdim))


# ------------------------------------------------------------------------------------------------- adding into a copy


def _added(self: Any, places: Any, values: Any) -> Any:
    """Adds each value to the element of `self` at its place, counted in row-major order."""
    made = np.array(self, dtype=object).reshape(-1)
    for place, value in zip(places.ravel(), values.ravel(), strict=True):
        made[place] = made[place] + value
    return made.reshape(self.shape)


def _positions(self: Any) -> Any:
    return np.arange(np.size(self)).reshape(np.shape(self))


def _scatter_add(self: Any, dim: int, index: Any, src: Any) -> Any:
    corner = src[tuple(slice(n) for n in index.shape)]
    reached = torch.from_numpy(_positions(self)).gather(dim, torch.from_numpy(index)).numpy()
    return _added(self, reached, corner)


def _index_add(self: Any, dim: int, index: Any, source: Any, alpha: Any) -> Any:
    return _added(self, np.take(_positions(self), index, axis=dim), source * alpha)


def _index_put(self: Any, indices: Any, values: Any, accumulate: bool) -> Any:
    reached = _positions(self)[tuple(slice(None) if i is None else i for i in indices)]
    values = np.broadcast_to(values, reached.shape)
    if accumulate:
        return _added(self, reached, values)
    made = np.array(self, dtype=object).reshape(-1)
    made[reached.ravel()] = values.ravel()
    return made.reshape(self.shape)


# ----------------------------------------------------------------------------------------------- networks and losses


def _attention(query: Any, key: Any, value: Any, is_causal: bool, attn_mask: Any, scale: Any) -> Any:
    grouped = query.shape[1] // key.shape[1]  # so many heads share their keys and values
    key, value = np.repeat(key, grouped, axis=1), np.repeat(value, grouped, axis=1)
    scores = query @ np.swapaxes(key, -1, -2) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    seen = np.tril(np.ones(scores.shape[-2:])) > 0 if is_causal else np.ones(scores.shape[-2:], dtype=bool)
    if attn_mask is not None and attn_mask.dtype == bool:
        seen = seen & attn_mask
    elif attn_mask is not None:
        scores = scores + attn_mask
    raised = _where(seen, _exp(scores), 0.0)
    return raised / np.sum(raised, axis=-1, keepdims=True) @ value, None


def _dropout(input: Any, p: float, train: bool | None, y1: Any) -> Any:
    return (input * y1.astype(float) / (1 - p if p < 1 else 1) if train else input), None


def _distances(x1: Any, x2: Any, p: float) -> Any:
    if p == 0 or math.isinf(p):
        return None
    d = np.expand_dims(x1, -2) - np.expand_dims(x2, -3)
    return _sqrt(np.sum(d**2, axis=-1)) if p == 2 else np.sum(_abs(d) ** p, axis=-1) ** (1 / p)


def _average_pool(
    self: Any, kernel_size: Any, stride: Any, padding: Any, count_include_pad: bool, divisor_override: Any, y: Any
) -> Any:
    kernel, padded = ([n[0], n[-1]] for n in (kernel_size, padding))
    step = [stride[0], stride[-1]] if stride else kernel
    made = np.empty(y.shape, dtype=object)
    for *outer, row, column in np.ndindex(*y.shape):
        spans = [
            (at * s - pad, min(at * s - pad + k, size + pad), size)
            for at, s, pad, k, size in zip((row, column), step, padded, kernel, self.shape[-2:], strict=True)
        ]
        window = self[(*outer, *(slice(max(low, 0), min(high, size)) for low, high, size in spans))]
        whole = math.prod(high - low for low, high, _ in spans)
        made[(*outer, row, column)] = np.sum(window) / (
            divisor_override or (whole if count_include_pad else window.size)
        )
    return made


def _embedding(weight: Any, indices: Any, padding_idx: int, scale_grad_by_freq: bool) -> Any:
    """The gradient of a padding row is 0 by intention; the mean over the uses of a row is none of the function's."""
    return None if padding_idx >= 0 or scale_grad_by_freq else weight[indices]


def _negative_log_likelihood(self: Any, target: Any, weight: Any, reduction: int, ignore_index: int) -> Any:
    """Images: every pixel is a row."""
    rows = np.moveaxis(self, 1, -1).reshape(-1, self.shape[1])
    rule = rule_of("aten.nll_loss_forward.default")
    assert rule is not None
    assert rule.terms is not None
    loss = rule.terms(rows, target.ravel(), weight, reduction, ignore_index)[0]
    return (loss.reshape(target.shape) if reduction == 0 else loss), None


DEFINITIONS: Mapping[str, Callable[..., Any]] = {
    "_to_copy": lambda self: self,
    "var_mean": _var_mean,
    "std_mean": _std_mean,
    "native_layer_norm": _layer_norm,
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit": _batch_norm,
    "native_group_norm": _group_norm,
    "linalg_inv_ex": lambda A: (_matrices(_inverse, A), None),
    "_linalg_det": lambda A: (_matrices(_determinant, A), None, None),
    "_linalg_slogdet": _log_determinant,
    "_linalg_solve_ex": lambda A, B, left: (_solved(A, B, left), None, None, None),
    "linalg_solve_triangular": _triangular,
    "linalg_cross": _cross,
    "_trilinear": _trilinear,
    "scatter_add": _scatter_add,
    "index_add": _index_add,
    "index_put": _index_put,
    "fill": lambda self, value: np.broadcast_to(np.asarray(value, dtype=object), self.shape),
    "zero": lambda self: np.full(self.shape, 0.0, dtype=object),
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "native_dropout": _dropout,
    "_cdist_forward": _distances,
    "_euclidean_dist": lambda x1, x2: _distances(x1, x2, 2.0),
    "avg_pool2d": _average_pool,
    "embedding": _embedding,
    "nll_loss2d_forward": _negative_log_likelihood,
}
