"""Operators that reduce or accumulate along axes: a cotangent is spread back over what was reduced."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradexplain.mathematics.terms import NAMESPACE
from gradexplain.rules.application import summed_to
from gradexplain.rules.entries import rule

_NUMPY: Mapping[str, Any] = NAMESPACE
_exp, _log, _sqrt, _abs = (_NUMPY[name] for name in ("exp", "log", "sqrt", "abs"))


def axes(dim: Any, ndim: int) -> tuple[int, ...]:
    """Returns the axes that `dim` names, counted from the front; all of them for `None` and for the empty list."""
    named = [dim] if isinstance(dim, int) else list(dim or range(ndim))
    return tuple(sorted(d % ndim for d in named)) if ndim else ()


def spread(g: Tensor, self: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Puts the reduced axes back into `g` with size 1, so that it broadcasts over `self`."""
    if not keepdim:
        for axis in axes(dim, self.ndim):
            g = g.unsqueeze(axis)
    return g


def count(self: Tensor, dim: Any = None) -> int:
    """Returns how many elements each output was made of."""
    return math.prod(self.shape[axis] for axis in axes(dim, self.ndim))


def placed(g: Tensor | None, self: Tensor, dim: int, indices: Tensor, keepdim: bool = True) -> Tensor:
    """Puts each g at the index its value came from: x̄ᵢ = Σ ḡₖ over the k that were taken from i."""
    if g is None:
        return torch.zeros_like(self)
    if self.ndim == 0:
        return g.reshape(())
    if not keepdim:
        g, indices = g.unsqueeze(dim), indices.unsqueeze(dim)
    return g.new_zeros(self.shape).scatter_add(dim, indices, g)


def signs(x: Tensor, side: Any) -> Tensor:
    """Returns the slopes of |x|; at 0, where they are −1 on the left and 1 on the right, `side` itself."""
    return torch.where(x == 0, side, x.sgn())


def shares(self: Tensor, attained: Tensor, dim: Any, side: Any) -> Tensor:
    """Returns the part that each element has in an extreme value along axes; nan is attained by nan.

    Of m equal candidates each has 1/m, nothing at the side −1, the whole at the side 1.
    """
    winners = (self == attained) | (self.isnan() & attained.isnan())
    equal = 1 / winners.sum(axes(dim, self.ndim), keepdim=True).to(self.dtype)
    side = torch.as_tensor(side, dtype=self.dtype, device=self.device)
    return winners * torch.where(equal == 1, 1, equal + torch.where(side > 0, side * (1 - equal), side * equal))


def shared(g: Tensor, self: Tensor, y: Tensor, dim: Any, keepdim: bool, side: Any) -> Tensor:
    """Divides g among the elements of `self` that attain the output; `side` is as for `shares`."""
    return spread(g, self, dim, keepdim) * shares(self, spread(y, self, dim, keepdim), dim, side)


def is_whole(parts: Tensor, whole: Any = 1, dim: Any = None) -> Tensor:
    """Says whether parts add up to a whole along axes, but for some last digits; nan never does."""
    total, size = (t.sum(axes(dim, parts.ndim), keepdim=True) for t in (parts, parts.abs()))
    return torch.le((total - whole).abs(), _rounding(parts) * (size + abs(whole)))


def _rounding(parts: Tensor) -> float:
    """Returns how far sums of a few quotients may be from what they are in mathematics: some last digits of 1."""
    return 32 * torch.finfo(parts.dtype).eps


def without(self: Tensor, dim: int) -> Tensor:
    """Returns Πⱼ≠ᵢ xⱼ along an axis, from the products before and behind i: right also where some xⱼ is 0.

    It is 0 where another factor is, also where those beside it are too large for the type when they are multiplied.
    """
    if self.ndim == 0:
        return torch.ones_like(self)
    ones = torch.ones_like(self.narrow(dim, 0, 1))
    before = torch.cat([ones, self], dim).cumprod(dim).narrow(dim, 0, self.shape[dim])
    behind = torch.cat([ones, self.flip(dim)], dim).cumprod(dim).narrow(dim, 0, self.shape[dim]).flip(dim)
    zeros = self == 0
    vanishes = (zeros.sum(dim, keepdim=True) > zeros.int()) & self.isfinite().all(dim, keepdim=True)
    return torch.where(vanishes, 0, before * behind)


def backward_sum(g: Tensor, dim: int) -> Tensor:
    """Returns Σₖ≥ᵢ gₖ along an axis."""
    return g.flip(dim).cumsum(dim).flip(dim)


def cancel(slopes: Tensor, opposite: Tensor) -> Tensor:
    """Says where the slopes by two arguments are possible together, of what depends on their difference alone."""
    return torch.le((slopes + opposite).abs(), _rounding(slopes) * slopes.abs())


# ----------------------------------------------------------------------------------------------- sums, means, products


def _ones_like(self: Tensor) -> Tensor:
    return torch.ones_like(self)


def _np_axes(self: Any, dim: Any) -> tuple[int, ...]:
    return axes(dim, np.ndim(self))


def _np_count(self: Any, dim: Any = None) -> int:
    return math.prod(np.shape(self)[axis] for axis in _np_axes(self, dim))


rule(
    "aten.sum",
    "y = Σᵢ xᵢ",
    self=("x̄ᵢ = ȳ", lambda g, self: g.expand(self.shape).to(self.dtype)),
    terms=lambda self: np.sum(self),
    example=lambda r: (r(2, 3),),
)
rule(
    "aten.sum.dim_IntList",
    "y = Σᵢ xᵢ",
    self=("x̄ᵢ = ȳ", lambda g, self, dim, keepdim: spread(g, self, dim, keepdim).expand(self.shape).to(self.dtype)),
    terms=lambda self, dim, keepdim: np.sum(self, axis=_np_axes(self, dim), keepdims=keepdim),
    example=(lambda r: (r(2, 3, 4), [0, -1]), lambda r: (r(2, 3), [1], True)),
)
rule(
    "aten.nansum",
    "y = Σᵢ xᵢ over the xᵢ that are numbers",
    self=(
        "x̄ᵢ = ȳ, 0 where xᵢ is nan",
        lambda g, self, dim, keepdim: spread(g, self, dim, keepdim) * ~self.isnan(),
    ),
    example=lambda r: (r(2, 3), [1]),
)
rule(
    "aten.mean",
    "y = Σᵢ xᵢ / n",
    self=("x̄ᵢ = ȳ / n", lambda g, self: (g / count(self)).expand(self.shape).to(self.dtype)),
    terms=lambda self: np.sum(self) / _np_count(self),
    example=lambda r: (r(2, 3),),
)
rule(
    "aten.mean.dim",
    "y = Σᵢ xᵢ / n",
    self=(
        "x̄ᵢ = ȳ / n",
        lambda g, self, dim, keepdim: (
            (spread(g, self, dim, keepdim) / count(self, dim)).expand(self.shape).to(self.dtype)
        ),
    ),
    terms=lambda self, dim, keepdim: np.sum(self, axis=_np_axes(self, dim), keepdims=keepdim) / _np_count(self, dim),
    example=(lambda r: (r(2, 3, 4), [0, 2]), lambda r: (r(2, 3), [-1], True)),
)
rule(
    "aten.prod",
    "y = Πᵢ xᵢ",
    self=("x̄ᵢ = ȳ Πⱼ≠ᵢ xⱼ", lambda g, self: g * without(self.reshape(-1), 0).reshape(self.shape)),
    terms=lambda self: np.prod(self),
    example=lambda r: (r(2, 3),),
)
rule(
    "aten.prod.dim_int",
    "y = Πᵢ xᵢ",
    self=("x̄ᵢ = ȳ Πⱼ≠ᵢ xⱼ", lambda g, self, dim, keepdim: spread(g, self, dim, keepdim) * without(self, dim)),
    terms=lambda self, dim, keepdim: np.prod(self, axis=dim, keepdims=keepdim),
    example=(lambda r: (r(2, 3), 1), lambda r: (r(2, 3), 0, True)),
)
rule(
    "aten.cumsum",
    "yₖ = Σᵢ≤ₖ xᵢ",
    self=("x̄ᵢ = Σₖ≥ᵢ ȳₖ", lambda g, self, dim: backward_sum(g, dim) if self.ndim else g),
    terms=lambda self, dim: np.cumsum(self, axis=dim),
    example=lambda r: (r(2, 3), 1),
)


def _cumprod_back(g: Tensor, self: Tensor, dim: int) -> Tensor:
    """yₖ = Πⱼ≤ₖ xⱼ has ∂yₖ/∂xᵢ = Πⱼ≤ₖ,ⱼ≠ᵢ xⱼ for k ≥ i: the same products with 1 in the place of xᵢ; no division."""
    if self.ndim == 0:
        return g
    parts = []
    for i in range(self.shape[dim]):
        replaced = torch.cat(
            [
                self.narrow(dim, 0, i),
                _ones_like(self.narrow(dim, i, 1)),
                self.narrow(dim, i + 1, self.shape[dim] - i - 1),
            ],
            dim,
        )
        reached = (g * replaced.cumprod(dim)).narrow(dim, i, self.shape[dim] - i)
        parts.append(reached.sum(dim, keepdim=True))
    return torch.cat(parts, dim)


rule(
    "aten.cumprod",
    "yₖ = Πᵢ≤ₖ xᵢ",
    self=("x̄ᵢ = Σₖ≥ᵢ ȳₖ Πⱼ≤ₖ,ⱼ≠ᵢ xⱼ", lambda g, self, dim: _cumprod_back(g, self, dim)),
    terms=lambda self, dim: np.cumprod(self, axis=dim),
    example=lambda r: (r(2, 4), 1),
)


def _logcumsumexp_back(g: Tensor, self: Tensor, y: Tensor, dim: int) -> Tensor:
    """∂yₖ/∂xᵢ = exp(xᵢ − yₖ) for k ≥ i, written as a matrix: each exponent is at most 0, so nothing overflows."""
    if self.ndim == 0:
        return g
    x, y, g = self.movedim(dim, -1), y.movedim(dim, -1), g.movedim(dim, -1)
    weights = (x.unsqueeze(-1) - y.unsqueeze(-2)).exp().triu()
    return (weights @ g.unsqueeze(-1)).squeeze(-1).movedim(-1, dim)


rule(
    "aten.logcumsumexp",
    "yₖ = log Σᵢ≤ₖ exp(xᵢ)",
    self=("x̄ᵢ = Σₖ≥ᵢ ȳₖ exp(xᵢ − yₖ)", lambda g, self, y, dim: _logcumsumexp_back(g, self, y, dim)),
    terms=lambda self, dim: _log(np.cumsum(_exp(self), axis=dim)),
    example=lambda r: (r(2, 3), 1),
)
rule(
    "aten.logsumexp",
    "y = log Σᵢ exp(xᵢ)",
    self=(
        "x̄ᵢ = ȳ exp(xᵢ − y)",
        lambda g, self, y, dim, keepdim: spread(g, self, dim, keepdim) * (self - spread(y, self, dim, keepdim)).exp(),
    ),
    terms=lambda self, dim, keepdim: _log(np.sum(_exp(self), axis=_np_axes(self, dim), keepdims=keepdim)),
    example=(lambda r: (r(2, 3), [1]), lambda r: (r(2, 3), [0, 1], True)),
)

# ------------------------------------------------------------------------------------------------ variance and norms
#
# v = Σᵢ (xᵢ − μ)² / (n − c), where c is the correction (1 unless given). The mean moves with x, but the deviations sum
# to 0, so ∂v/∂μ = 0 and only the square itself contributes:
#     x̄ᵢ = v̄ · 2 (xᵢ − μ) / (n − c);      with s = √v:      x̄ᵢ = s̄ (xᵢ − μ) / ((n − c) s).


def _deviation(self: Tensor, dim: Any, correction: Any) -> Tensor:
    """Returns (x − μ) / (n − c)."""
    freedom = count(self, dim) - (1 if correction is None else correction)
    return (self - self.mean(axes(dim, self.ndim), keepdim=True)) / freedom


def _var_back(g: Tensor, self: Tensor, dim: Any, correction: Any, keepdim: bool) -> Tensor:
    return 2 * spread(g, self, dim, keepdim) * _deviation(self, dim, correction)


def _std_back(g: Tensor, self: Tensor, y: Tensor, dim: Any, correction: Any, keepdim: bool, side: Any) -> Tensor:
    """Where all elements are equal, one that moves by h has the deviation h (n−1)/n and each of the others −h/n.

    So s = |h| √((n−1) / (n (n−c))) there: a kink.
    """
    s, n = spread(y, self, dim, keepdim), count(self, dim)
    steepest = math.sqrt((n - 1) / n) * _narrowest(n, correction)
    smooth = _deviation(self, dim, correction) / torch.where(s == 0, 1, s)
    return spread(g, self, dim, keepdim) * torch.where(s == 0, side * steepest, smooth)


def _narrowest(n: int, correction: Any) -> float:
    """Returns 1/√(n − c), 0 where the spread of n elements is none."""
    freedom = n - (1 if correction is None else correction)
    return 1 / math.sqrt(freedom) if freedom > 0 else 0.0


def _is_std(slopes: Tensor, self: Tensor, dim: Any, correction: Any) -> Tensor:
    """Says whether slopes of s = ‖x − μ‖/√(n−c) at 0 are possible together: it moves with x, and no faster."""
    length = torch.linalg.vector_norm(slopes, dim=axes(dim, self.ndim), keepdim=True)
    longest = _narrowest(count(self, dim), correction)
    return is_whole(slopes, 0, dim) & torch.le(length, longest * (1 + _rounding(slopes)))


def _var_terms(self: Any, dim: Any, correction: Any, keepdim: bool) -> Any:
    along = _np_axes(self, dim)
    mean = np.sum(self, axis=along, keepdims=True) / _np_count(self, dim)
    freedom = _np_count(self, dim) - (1 if correction is None else correction)
    return np.sum((self - mean) ** 2, axis=along, keepdims=keepdim) / freedom


def _with_mean(spread_back: Tensor, g: Tensor | None, self: Tensor, dim: Any, keepdim: bool) -> Tensor:
    return spread_back if g is None else spread_back + spread(g, self, dim, keepdim) / count(self, dim)


_VARIANCE_EXAMPLES = (
    lambda r: (r(2, 3),),
    lambda r: (r(2, 3, 2), [1, 2], {"correction": 0}),
    lambda r: (r(2, 3), [1], {"keepdim": True}),
)
rule(
    "aten.var.correction",
    "y = Σᵢ (xᵢ − μ)² / (n − c)",
    self=(
        "x̄ᵢ = 2 ȳ (xᵢ − μ) / (n − c)",
        lambda g, self, dim, correction, keepdim: _var_back(g, self, dim, correction, keepdim),
    ),
    terms=_var_terms,
    over="complex",
    example=_VARIANCE_EXAMPLES,
)
rule(
    "aten.std.correction",
    "y = √(Σᵢ (xᵢ − μ)² / (n − c))",
    self=(
        "x̄ᵢ = ȳ (xᵢ − μ) / ((n − c) y)",
        lambda g, self, y, dim, correction, keepdim, side: _std_back(g, self, y, dim, correction, keepdim, side),
    ),
    terms=lambda self, dim, correction, keepdim: _sqrt(_var_terms(self, dim, correction, keepdim)),
    together=_is_std,
    why="std_at_zero",
    over="complex",
    example=_VARIANCE_EXAMPLES,
)
rule(
    "aten.var_mean.correction",
    "v = Σᵢ (xᵢ − μ)² / (n − c),  μ = Σᵢ xᵢ / n",
    self=(
        "x̄ᵢ = 2 v̄ (xᵢ − μ) / (n − c) + μ̄ / n",
        lambda g, self, dim, correction, keepdim: _with_mean(
            torch.zeros_like(self) if g[0] is None else _var_back(g[0], self, dim, correction, keepdim),
            g[1],
            self,
            dim,
            keepdim,
        ),
    ),
    over="complex",
    example=_VARIANCE_EXAMPLES,
)
rule(
    "aten.std_mean.correction",
    "s = √(Σᵢ (xᵢ − μ)² / (n − c)),  μ = Σᵢ xᵢ / n",
    self=(
        "x̄ᵢ = s̄ (xᵢ − μ) / ((n − c) s) + μ̄ / n",
        lambda g, self, y0, dim, correction, keepdim, side: _with_mean(
            torch.zeros_like(self) if g[0] is None else _std_back(g[0], self, y0, dim, correction, keepdim, side),
            g[1],
            self,
            dim,
            keepdim,
        ),
    ),
    together=_is_std,
    why="std_at_zero",
    over="complex",
    example=_VARIANCE_EXAMPLES,
)


# y = (Σᵢ |xᵢ|ᵖ)^(1/p). From yᵖ = Σ|xᵢ|ᵖ: p yᵖ⁻¹ dy = Σ p |xᵢ|ᵖ⁻¹ sign(xᵢ) dxᵢ, so ∂y/∂xᵢ = sign(xᵢ) (|xᵢ|/y)ᵖ⁻¹. For
# p = ±∞ the elements that attain the norm share sign(xᵢ). Where there is no derivative, by one element that moves by h:
#   y = 0, p > 0      all are 0, and y = |h|
#   y = 0, p < 0      y = |h| if this is the only 0, else y stays 0
#   xᵢ = 0, p = 1     y grows by |h|
#   xᵢ = 0, p < 1     y grows by |h|ᵖ yᵖ⁻¹ / p to first order: infinitely steep on both sides
#   p = ±∞            of equal candidates, the one that moves decides y on one side and not on the other


def norm_slopes(x: Tensor, y: Tensor, p: float, dim: Any, side: Any) -> Tensor:
    """Returns ∂y/∂xᵢ of a p-norm along axes; y broadcasts over x."""
    if p == 0:
        return torch.zeros_like(x)
    cone = y == 0
    if p < 0:
        cone = cone & (x == 0) & ((x == 0).sum(axes(dim, x.ndim), keepdim=True) == 1)
    return torch.where(cone, side, torch.where(y == 0, 0, _slopes_beside(x, y, p, dim, side)))


def _slopes_beside(x: Tensor, y: Tensor, p: float, dim: Any, side: Any) -> Tensor:
    """Returns the slopes where y > 0."""
    if p == 1:
        return signs(x, side)
    if math.isinf(p):
        return x.sgn() * shares(x.abs(), y, dim, math.copysign(1, p) * x.sgn() * side)
    ratio = x.abs() / y
    smooth = x.sgn() * (ratio if p == 2 else torch.where(ratio == 0, 0, ratio ** (p - 1)))
    if p > 1:
        return smooth
    side = torch.as_tensor(side, dtype=x.dtype, device=x.device)
    return torch.where(x == 0, torch.where(side == 0, 0, side * math.inf), smooth)


def are_norms(slopes: Tensor, x: Tensor, y: Tensor, p: float, dim: Any) -> Tensor:
    """Says whether slopes of a p-norm are possible together.

    As y(tx) = t y(x), they meet Σ xᵢ ∂y/∂xᵢ = y. A norm (p ≥ 1) does not grow faster than its argument: the dual
    norm of the slopes, with 1/p + 1/q = 1, is at most 1.
    """
    fits = is_whole(slopes * x.sgn() * torch.where(y == 0, 0, x.abs() / y), (y != 0).to(y), dim)
    if p < 1:
        return fits
    q = math.inf if p == 1 else 1 if math.isinf(p) else p / (p - 1)
    dual = torch.linalg.vector_norm(slopes, q, axes(dim, x.ndim), keepdim=True)
    return fits & torch.le(dual, 1 + _rounding(slopes))


def _order(p: Any) -> float:
    return 2.0 if p is None else float(p)


def _norm_back(g: Tensor, self: Tensor, y: Tensor, p: Any, dim: Any, keepdim: bool, side: Any) -> Tensor:
    slopes = norm_slopes(self, spread(y, self, dim, keepdim), _order(p), dim, side)
    return spread(g, self, dim, keepdim) * slopes


def _are_norms(slopes: Tensor, self: Tensor, y: Tensor, p: Any, dim: Any = None, keepdim: bool = False) -> Tensor:
    return are_norms(slopes, self, spread(y, self, dim, keepdim), _order(p), dim)


def _norm_terms(self: Any, p: Any, dim: Any = None, keepdim: bool = False) -> Any:
    p = _order(p)
    if p == 0 or math.isinf(p):
        return None
    powers = self**2 if p == 2 else _abs(self) if p == 1 else _abs(self) ** p
    made = np.sum(powers, axis=_np_axes(self, dim), keepdims=keepdim)
    return _sqrt(made) if p == 2 else made ** (1 / p)


_NORM, _NORM_BACK = "y = (Σᵢ |xᵢ|ᵖ)^(1/p)", "x̄ᵢ = ȳ sign(xᵢ) (|xᵢ| / y)ᵖ⁻¹"
rule(
    "aten.linalg_vector_norm",
    _NORM,
    self=(_NORM_BACK, lambda g, self, y, ord, dim, keepdim, side: _norm_back(g, self, y, ord, dim, keepdim, side)),
    terms=lambda self, ord, dim, keepdim: _norm_terms(self, ord, dim, keepdim),
    together=lambda slopes, self, y, ord, dim, keepdim: _are_norms(slopes, self, y, ord, dim, keepdim),
    over="complex",
    why="norm_at_zero",
    example=(
        lambda r: (r(2, 3),),
        lambda r: (r(2, 3), 1, [1]),
        lambda r: (r(2, 3), 3, [1], True),
        lambda r: (r(2, 3), math.inf, [1]),
        lambda r: (r(2, 3), 0.5),
    ),
)
rule(
    "aten.norm.Scalar",
    _NORM,
    self=(_NORM_BACK, lambda g, self, y, p, side: _norm_back(g, self, y, p, None, False, side)),
    terms=lambda self, p: _norm_terms(self, p),
    together=lambda slopes, self, y, p: _are_norms(slopes, self, y, p),
    over="complex",
    why="norm_at_zero",
    example=(lambda r: (r(2, 3),), lambda r: (r(2, 3), 3)),
)
rule(
    "aten.norm.ScalarOpt_dim",
    _NORM,
    self=(_NORM_BACK, lambda g, self, y, p, dim, keepdim, side: _norm_back(g, self, y, p, dim, keepdim, side)),
    terms=lambda self, p, dim, keepdim: _norm_terms(self, p, dim, keepdim),
    together=lambda slopes, self, y, p, dim, keepdim: _are_norms(slopes, self, y, p, dim, keepdim),
    over="complex",
    why="norm_at_zero",
    example=(lambda r: (r(2, 3), 2, [1]), lambda r: (r(2, 3), 1, [0], True)),
)


def _renorm_back(g: Tensor, self: Tensor, p: float, dim: int, maxnorm: float) -> Tensor:
    """A slice whose norm n is above m becomes x m / (n + ε), where torch's ε is 1e-7; the others stay."""
    over = tuple(axis for axis in range(self.ndim) if axis != dim % self.ndim)
    n = torch.linalg.vector_norm(self, p, over, keepdim=True)
    scale = maxnorm / (n + 1e-7)
    along = (g * self).sum(over, keepdim=True) * scale / (n + 1e-7)
    return torch.where(n > maxnorm, scale * g - along * norm_slopes(self, n, p, over, 0), g)


rule(
    "aten.renorm",
    "y = x m / n for the slices whose norm n is above m, else x",
    self=(
        "x̄ = m/n (ȳ − ⟨ȳ, x⟩/n ∂n/∂x) for these slices, else ȳ",
        lambda g, self, p, dim, maxnorm: _renorm_back(g, self, p, dim, maxnorm),
    ),
    over="real",
    why="kink_piece",
    example=(lambda r: (r(4, 3), 2, 0, 1.2), lambda r: (r(4, 3), 3, 1, 1.7)),
)


def _is_distance(
    slopes: Tensor, opposite: Tensor, argument: str, self: Tensor, other: Tensor, y: Tensor, p: Any
) -> Tensor:
    difference = self - other if argument == "self" else other - self
    return _are_norms(slopes, difference, y, p) & cancel(slopes, opposite)


rule(
    "aten.dist",
    "y = ‖A − B‖ₚ",
    self=(
        "Ā = ȳ sign(A − B) (|A − B| / y)ᵖ⁻¹",
        lambda g, self, other, y, p, side: summed_to(_norm_back(g, self - other, y, p, None, False, side), self.shape),
    ),
    other=(
        "B̄ = −ȳ sign(A − B) (|A − B| / y)ᵖ⁻¹",
        lambda g, self, other, y, p, side: summed_to(_norm_back(g, other - self, y, p, None, False, side), other.shape),
    ),
    terms=lambda self, other, p: _norm_terms(self - other, p),
    together=_is_distance,
    apart=lambda self, other: dict(zip(("self", "other"), torch.broadcast_tensors(self, other), strict=True)),
    over="complex",
    why="norm_at_zero",
    example=(lambda r: (r(2, 3), r(3)), lambda r: (r(2, 3), r(2, 3), 3)),
)

# --------------------------------------------------------------------------------------------- the largest, the middle


def _winner(self: Any, y: Any) -> Any:
    """Returns the first element that has the output's value, nan among the values; `None` if there is none."""
    best = np.ravel(y)[0].value
    return next(
        (term for term in np.ravel(self) if term.value == best or best != best != term.value != term.value), None
    )


def _winners(self: Any, y: Any, dim: Any, keepdim: bool) -> Any:
    along = _np_axes(self, dim)
    rows = np.moveaxis(self, along, range(len(along)))
    rows = rows.reshape(-1, *rows.shape[len(along) :])
    best = np.reshape(y, rows.shape[1:])
    made = np.empty(rows.shape[1:], dtype=object)
    for place in np.ndindex(*made.shape):
        made[place] = _winner(rows[(slice(None), *place)], best[place])
    return made.reshape(np.shape(y))


for _name in ("max", "min", "median", "nanmedian"):
    rule(
        f"aten.{_name}",
        f"y = {_name}ᵢ xᵢ",
        self=(
            "x̄ᵢ = ȳ / m where xᵢ = y (m times), else 0",
            lambda g, self, y, side: shared(g, self, y, None, False, side),
        ),
        terms=lambda self, y: _winner(self, y),
        tie="shared",
        together=lambda slopes: is_whole(slopes),
        why="tie_shared",
        example=lambda r: (r(2, 3),),
    )
    rule(
        f"aten.{_name}.dim",
        f"y = {_name}ᵢ xᵢ,  i* = its place",
        self=(
            "x̄ᵢ = ȳ where i = i*, else 0",
            lambda g, self, y1, dim, keepdim: placed(g[0], self, dim, y1, keepdim),
        ),
        moves=True,
        tie="index",
        why="tie_index",
        example=(lambda r: (r(2, 3), 1), lambda r: (r(2, 3), 0, True)),
    )
for _name in ("amax", "amin"):
    rule(
        f"aten.{_name}",
        f"y = {_name[1:]}ᵢ xᵢ",
        self=(
            "x̄ᵢ = ȳ / m where xᵢ = y (m times), else 0",
            lambda g, self, y, dim, keepdim, side: shared(g, self, y, dim, keepdim, side),
        ),
        terms=_winners,
        tie="shared",
        together=lambda slopes, dim: is_whole(slopes, 1, dim),
        why="tie_shared",
        example=(lambda r: (r(2, 3), [1]), lambda r: (r(2, 3, 2), [0, 2], True)),
    )


def _both(g: Sequence[Tensor | None], self: Tensor, ys: Sequence[Tensor], dim: Any, keepdim: bool, side: Any) -> Tensor:
    parts = [shared(part, self, y, dim, keepdim, side) for part, y in zip(g, ys, strict=True) if part is not None]
    return sum(parts, torch.zeros_like(self))


rule(
    "aten.aminmax",
    "a = minᵢ xᵢ,  b = maxᵢ xᵢ",
    self=(
        "x̄ᵢ = ā / m where xᵢ = a (m times), + b̄ / n where xᵢ = b (n times)",
        lambda g, self, y0, y1, dim, keepdim, side: _both(g, self, (y0, y1), dim, keepdim, side),
    ),
    tie="shared",
    together=lambda slopes, dim: is_whole(slopes, 1, dim),
    why="tie_shared",
    example=(lambda r: (r(2, 3),), lambda r: (r(2, 3), {"dim": 1})),
)
rule(
    "aten.mode",
    "y = the most frequent xᵢ,  i* = its place",
    self=("x̄ᵢ = ȳ where i = i*, else 0", lambda g, self, y1, dim, keepdim: placed(g[0], self, dim, y1, keepdim)),
    moves=True,
    tie="index",
    why="tie_index",
    example=lambda r: (r(2, 3), 1),
)
rule(
    "aten.kthvalue",
    "y = the k-th smallest xᵢ,  i* = its place",
    self=("x̄ᵢ = ȳ where i = i*, else 0", lambda g, self, y1, dim, keepdim: placed(g[0], self, dim, y1, keepdim)),
    moves=True,
    tie="index",
    why="tie_index",
    example=(lambda r: (r(2, 3), 2), lambda r: (r(2, 3), 1, 0, True)),
)
for _name, _shown in {"cummax": "yₖ = maxᵢ≤ₖ xᵢ", "cummin": "yₖ = minᵢ≤ₖ xᵢ"}.items():
    rule(
        f"aten.{_name}",
        f"{_shown},  iₖ = its place",
        self=("x̄ᵢ = Σₖ ȳₖ over the k with iₖ = i", lambda g, self, y1, dim: placed(g[0], self, dim, y1)),
        moves=True,
        tie="index",
        why="tie_index",
        example=lambda r: (r(2, 4), 1),
    )
rule(
    "aten.topk",
    "y = the k largest xᵢ,  i₁ … iₖ = their places",
    self=("x̄ᵢ = ȳₙ where i = iₙ, else 0", lambda g, self, y1, dim: placed(g[0], self, dim, y1)),
    moves=True,
    tie="index",
    why="tie_index",
    example=(lambda r: (r(2, 4), 2), lambda r: (r(3, 2), 1, 0, False)),
)
_SORTED: dict[str, Any] = {
    "self": ("x̄ᵢ = ȳₖ where i = iₖ", lambda g, self, y1, dim: placed(g[0], self, dim, y1)),
    "moves": True,
    "tie": "index",
    "why": "tie_index",
}
rule("aten.sort", "y = x in order of size,  yₖ = x at place iₖ", **_SORTED, example=lambda r: (r(2, 4),))
rule(
    "aten.sort.stable",
    "y = x in order of size,  yₖ = x at place iₖ",
    **_SORTED,
    example=lambda r: (r(4, 2), {"stable": True, "dim": 0, "descending": True}),
)
