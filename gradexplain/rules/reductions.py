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


def shared(g: Tensor, self: Tensor, y: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Divides g equally among the elements of `self` that attain the output; nan is attained by nan."""
    attained = spread(y, self, dim, keepdim)
    winners = (self == attained) | (self.isnan() & attained.isnan())
    return spread(g, self, dim, keepdim) * winners / winners.sum(axes(dim, self.ndim), keepdim=True)


def without(self: Tensor, dim: int) -> Tensor:
    """Returns Πⱼ≠ᵢ xⱼ along an axis, from the products before and behind i: right also where some xⱼ is 0."""
    if self.ndim == 0:
        return torch.ones_like(self)
    ones = torch.ones_like(self.narrow(dim, 0, 1))
    before = torch.cat([ones, self], dim).cumprod(dim).narrow(dim, 0, self.shape[dim])
    behind = torch.cat([ones, self.flip(dim)], dim).cumprod(dim).narrow(dim, 0, self.shape[dim]).flip(dim)
    return before * behind


def backward_sum(g: Tensor, dim: int) -> Tensor:
    """Returns Σₖ≥ᵢ gₖ along an axis."""
    return g.flip(dim).cumsum(dim).flip(dim)


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


def _std_back(g: Tensor, self: Tensor, y: Tensor, dim: Any, correction: Any, keepdim: bool) -> Tensor:
    scaled = torch.where(y == 0, 0, g / y)
    return spread(scaled, self, dim, keepdim) * _deviation(self, dim, correction)


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
    example=_VARIANCE_EXAMPLES,
)
rule(
    "aten.std.correction",
    "y = √(Σᵢ (xᵢ − μ)² / (n − c))",
    self=(
        "x̄ᵢ = ȳ (xᵢ − μ) / ((n − c) y)",
        lambda g, self, y, dim, correction, keepdim: _std_back(g, self, y, dim, correction, keepdim),
    ),
    terms=lambda self, dim, correction, keepdim: _sqrt(_var_terms(self, dim, correction, keepdim)),
    why="std_at_zero",
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
    example=_VARIANCE_EXAMPLES,
)
rule(
    "aten.std_mean.correction",
    "s = √(Σᵢ (xᵢ − μ)² / (n − c)),  μ = Σᵢ xᵢ / n",
    self=(
        "x̄ᵢ = s̄ (xᵢ − μ) / ((n − c) s) + μ̄ / n",
        lambda g, self, y0, dim, correction, keepdim: _with_mean(
            torch.zeros_like(self) if g[0] is None else _std_back(g[0], self, y0, dim, correction, keepdim),
            g[1],
            self,
            dim,
            keepdim,
        ),
    ),
    why="std_at_zero",
    example=_VARIANCE_EXAMPLES,
)


def norm_slope(x: Tensor, y: Tensor, p: float) -> Tensor:
    """Returns ∂y/∂xᵢ of y = (Σᵢ |xᵢ|ᵖ)^(1/p), with y broadcasting over x.

    From yᵖ = Σ|xᵢ|ᵖ: p yᵖ⁻¹ dy = Σ p |xᵢ|ᵖ⁻¹ sign(xᵢ) dxᵢ, so ∂y/∂xᵢ = sign(xᵢ) (|xᵢ|/y)ᵖ⁻¹. At y = 0 there is no
    derivative for p > 1; torch takes 0. For p = ±∞ the cotangent is divided among the elements that attain the norm.
    """
    if p == 0:
        return torch.zeros_like(x)
    if p == 1:
        return x.sign()
    if math.isinf(p):
        return x.sign()
    ratio = torch.where(y == 0, 0, x.abs() / y)
    return x.sign() * (ratio if p == 2 else torch.where(ratio == 0, 0, ratio ** (p - 1)))


def _norm_back(g: Tensor, self: Tensor, y: Tensor, p: Any, dim: Any = None, keepdim: bool = False) -> Tensor:
    p = 2.0 if p is None else float(p)
    if math.isinf(p):
        return shared(g, self.abs(), y, dim, keepdim) * self.sign()
    return spread(g, self, dim, keepdim) * norm_slope(self, spread(y, self, dim, keepdim), p)


def _norm_terms(self: Any, p: Any, dim: Any = None, keepdim: bool = False) -> Any:
    p = 2.0 if p is None else float(p)
    if p == 0 or math.isinf(p):
        return None
    powers = self**2 if p == 2 else _abs(self) if p == 1 else _abs(self) ** p
    made = np.sum(powers, axis=_np_axes(self, dim), keepdims=keepdim)
    return _sqrt(made) if p == 2 else made ** (1 / p)


_NORM, _NORM_BACK = "y = (Σᵢ |xᵢ|ᵖ)^(1/p)", "x̄ᵢ = ȳ sign(xᵢ) (|xᵢ| / y)ᵖ⁻¹"
rule(
    "aten.linalg_vector_norm",
    _NORM,
    self=(_NORM_BACK, lambda g, self, y, ord, dim, keepdim: _norm_back(g, self, y, ord, dim, keepdim)),
    terms=lambda self, ord, dim, keepdim: _norm_terms(self, ord, dim, keepdim),
    why="norm_at_zero",
    tie="shared",
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
    self=(_NORM_BACK, lambda g, self, y, p: _norm_back(g, self, y, p)),
    terms=lambda self, p: _norm_terms(self, p),
    why="norm_at_zero",
    tie="shared",
    example=(lambda r: (r(2, 3),), lambda r: (r(2, 3), 3)),
)
rule(
    "aten.norm.ScalarOpt_dim",
    _NORM,
    self=(_NORM_BACK, lambda g, self, y, p, dim, keepdim: _norm_back(g, self, y, p, dim, keepdim)),
    terms=lambda self, p, dim, keepdim: _norm_terms(self, p, dim, keepdim),
    why="norm_at_zero",
    tie="shared",
    example=(lambda r: (r(2, 3), 2, [1]), lambda r: (r(2, 3), 1, [0], True)),
)
rule(
    "aten.dist",
    "y = ‖A − B‖ₚ",
    self=(
        "Ā = ȳ sign(A − B) (|A − B| / y)ᵖ⁻¹",
        lambda g, self, other, y, p: summed_to(_norm_back(g, self - other, y, p), self.shape),
    ),
    other=(
        "B̄ = −ȳ sign(A − B) (|A − B| / y)ᵖ⁻¹",
        lambda g, self, other, y, p: -summed_to(_norm_back(g, self - other, y, p), other.shape),
    ),
    terms=lambda self, other, p: _norm_terms(self - other, p),
    why="norm_at_zero",
    tie="shared",
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
        self=("x̄ᵢ = ȳ / m where xᵢ = y (m times), else 0", lambda g, self, y: shared(g, self, y)),
        terms=lambda self, y: _winner(self, y),
        tie="shared",
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
            lambda g, self, y, dim, keepdim: shared(g, self, y, dim, keepdim),
        ),
        terms=_winners,
        tie="shared",
        why="tie_shared",
        example=(lambda r: (r(2, 3), [1]), lambda r: (r(2, 3, 2), [0, 2], True)),
    )


def _both(g: Sequence[Tensor | None], self: Tensor, ys: Sequence[Tensor], dim: Any, keepdim: bool) -> Tensor:
    parts = [shared(part, self, y, dim, keepdim) for part, y in zip(g, ys, strict=True) if part is not None]
    return sum(parts, torch.zeros_like(self))


rule(
    "aten.aminmax",
    "a = minᵢ xᵢ,  b = maxᵢ xᵢ",
    self=(
        "x̄ᵢ = ā / m where xᵢ = a (m times), + b̄ / n where xᵢ = b (n times)",
        lambda g, self, y0, y1, dim, keepdim: _both(g, self, (y0, y1), dim, keepdim),
    ),
    tie="shared",
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
rule("aten.sort", "y₁ ≤ y₂ ≤ … with yₖ = x at place iₖ", **_SORTED, example=lambda r: (r(2, 4),))
rule(
    "aten.sort.stable",
    "y₁ ≤ y₂ ≤ … with yₖ = x at place iₖ",
    **_SORTED,
    example=lambda r: (r(4, 2), {"stable": True, "dim": 0, "descending": True}),
)
