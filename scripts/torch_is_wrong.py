"""Where torch's own derivatives are wrong: found by verifying, shown by a method that shares nothing with either.

Each entry is measured again whenever the bench runs, against mathematics in mpmath or a plain identity. One that is not
confirmed excuses nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import mpmath
import torch
import torch.nn.functional as F
from sheets import Sheet
from torch import Tensor
from torch.autograd import forward_ad

What = Literal["backward", "forward mode", "value"]


@dataclass(frozen=True)
class Fault:
    """What is wrong with an operator in one type; `measure` gives the relative error, nan for a result that is nan."""

    operator: str
    dtype: torch.dtype
    what: What
    words: str
    measure: Callable[[], float]

    @property
    def confirmed(self) -> bool:
        """Whether the error is there, far beyond what rounding makes of a number of this type."""
        return not self.measure() <= 64 * torch.finfo(self.dtype).eps


def _slope(function: Callable[[Tensor], Tensor], x: float) -> float:
    """Returns torch's derivative of a function of one float64 number."""
    point = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    return float(torch.autograd.grad(function(point), point)[0])


def _relative(seen: float, right: mpmath.mpf) -> float:
    return float(abs((seen - right) / right))


def _hardsigmoid() -> float:
    """Its slope between −3 and 3 is 1/6."""
    return _relative(_slope(F.hardsigmoid, 0.5), mpmath.mpf(1) / 6)


def _celu() -> float:
    """The slope of α (exp(x/α) − 1) is exp(x/α)."""
    x, alpha = -3.3, 0.7
    right = mpmath.exp(mpmath.mpf(x) / mpmath.mpf(alpha))
    return _relative(_slope(lambda t: F.celu(t, alpha), x), right)


def _cholesky_inverse() -> float:
    """With A = L Lᵀ, the derivative of A⁻¹ along V is −A⁻¹ (V Lᵀ + L Vᵀ) A⁻¹; here all of it is in 2 × 2 matrices."""
    rows, along = [[2.0, 0.0], [1.0, 3.0]], [[1.0, 0.0], [-2.0, 1.0]]
    with forward_ad.dual_level():
        tensors = (torch.tensor(t, dtype=torch.float64) for t in (rows, along))
        seen = forward_ad.unpack_dual(torch.cholesky_inverse(forward_ad.make_dual(*tensors))).tangent
    factor, moved = mpmath.matrix(rows), mpmath.matrix(along)
    inverse = (factor * factor.T) ** -1
    right = -inverse * (moved * factor.T + factor * moved.T) * inverse
    return max(_relative(float(seen[i, j]), right[i, j]) for i in range(2) for j in range(2))


def _scatter_reduce() -> float:
    """x₀ · s₀ moves by s₀ along x₀."""
    with forward_ad.dual_level():
        x = forward_ad.make_dual(torch.tensor([2.0], dtype=torch.float64), torch.ones(1, dtype=torch.float64))
        product = x.scatter_reduce(0, torch.tensor([0]), torch.tensor([3.0], dtype=torch.float64), "prod")
        tangent = forward_ad.unpack_dual(product).tangent
    return _relative(0.0 if tangent is None else float(tangent), mpmath.mpf(3))


def _matrix_exp() -> float:
    """With N² = 0, exp(N) is 1 + N."""
    nilpotent = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    return max(
        float((torch.matrix_exp(n.bfloat16()).float() - torch.eye(2) - n).abs().max())
        for n in (nilpotent, nilpotent / 64)
    )


def _polygamma() -> float:
    """The slope of polygamma(0, x) is polygamma(1, x)."""
    x = 2.0474
    return _relative(_slope(lambda t: torch.polygamma(0, t), x), mpmath.psi(1, mpmath.mpf(x)))


# fmt: off
FAULTS = (
    Fault("nn.functional.hardsigmoid", torch.float64, "backward",
          "multiplies by 1/6 as float32 has it", _hardsigmoid),
    Fault("nn.functional.celu", torch.float64, "backward",
          "rounds alpha = 0.7 to float32 on the way (at x = -3.3)", _celu),
    Fault("matrix_exp", torch.bfloat16, "value",
          "is garbage for all but the simplest matrices: here for [[0, 1], [0, 0]] and a 64th of it", _matrix_exp),
    Fault("cholesky_inverse", torch.float64, "forward mode",
          "is wrong but for triangles close to the identity, which is what torch's own tests try", _cholesky_inverse),
    Fault("polygamma.polygamma_n_0", torch.float64, "backward",
          "is off by 4e-10 (trigamma at x = 2.0474)", _polygamma),
    Fault("special.polygamma.special_polygamma_n_0", torch.float64, "backward",
          "is the same", _polygamma),
    Fault("scatter_reduce.prod", torch.float64, "forward mode",
          "is 0 (torch's own tests expect it to fail)", _scatter_reduce),
)
# fmt: on


@cache
def excuses(operator: str, dtype: torch.dtype) -> bool:
    """Says whether an alarm about an operator's gradient in `dtype` is right, since torch is confirmed to be wrong."""
    found = (f for f in FAULTS if (f.operator, f.dtype) == (operator, dtype) and f.what != "forward mode")
    return any(fault.confirmed for fault in found)


def sheet() -> Sheet:
    """Returns the list as a table, with what was measured just now."""
    rows = [
        [f.operator, str(f.dtype).removeprefix("torch."), f"{f.what} {f.words}", f"{f.measure():.1e}"] for f in FAULTS
    ]
    return Sheet("torch is wrong", ["operator", "type", "evidence", "relative error, measured now"], rows)
