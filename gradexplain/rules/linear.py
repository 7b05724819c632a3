"""Matrix products, inverses and solves. A, B, C are the matrices as people know them; Ā is the gradient of A.

The way to derive each: write the differential of the output, dC = f(dA, dB), put it into ⟨C̄, dC⟩ = tr(C̄ᵀ dC), and move
everything but dA to the other side: what stands there is Ā. Sources: Giles 2008, "An extended collection of matrix
derivative results for forward and reverse mode algorithmic differentiation"; others by name at their place.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradexplain.rules.application import summed_to
from gradexplain.rules.entries import rule

# ---------------------------------------------------------------------------------------------------------- products

rule(
    "aten.mm",
    "C = A B",
    self=("Ā = C̄ Bᵀ", lambda g, mat2: g @ mat2.mT),
    mat2=("B̄ = Aᵀ C̄", lambda g, self: self.mT @ g),
    terms=lambda self, mat2: self @ mat2,
    example=lambda r: (r(3, 4), r(4, 2)),
)
rule(
    "aten.bmm",
    "C = A B for each matrix of the batch",
    self=("Ā = C̄ Bᵀ", lambda g, mat2: g @ mat2.mT),
    mat2=("B̄ = Aᵀ C̄", lambda g, self: self.mT @ g),
    terms=lambda self, mat2: self @ mat2,
    example=lambda r: (r(2, 3, 4), r(2, 4, 2)),
)
rule(
    "aten.mv",
    "y = A x",
    self=("Ā = ȳ xᵀ", lambda g, vec: g[:, None] * vec),
    vec=("x̄ = Aᵀ ȳ", lambda g, self: self.mT @ g),
    terms=lambda self, vec: self @ vec,
    example=lambda r: (r(3, 4), r(4)),
)
rule(
    "aten.dot",
    "y = Σᵢ aᵢ bᵢ",
    self=("ā = ȳ b", lambda g, tensor: g * tensor),
    tensor=("b̄ = ȳ a", lambda g, self: g * self),
    terms=lambda self, tensor: np.sum(self * tensor),
    example=lambda r: (r(4), r(4)),
)
rule(
    "aten.vdot",
    "y = Σᵢ conj(aᵢ) bᵢ",
    self=("ā = conj(ȳ) b", lambda g, other: g.conj() * other),
    other=("b̄ = ȳ a", lambda g, self: g * self),
    terms=lambda self, other: np.sum(self * other),
    over="complex",
    example=(lambda r: (r(4), r(4)), lambda r: (r.complex(4), r.complex(4))),
)
rule(
    "aten.addmm",
    "Y = β C + α A B",
    self=("C̄ = Σ β Ȳ over the repetitions of C", lambda g, self, beta: summed_to(beta * g, self.shape)),
    mat1=("Ā = α Ȳ Bᵀ", lambda g, mat2, alpha: alpha * g @ mat2.mT),
    mat2=("B̄ = α Aᵀ Ȳ", lambda g, mat1, alpha: alpha * mat1.mT @ g),
    terms=lambda self, mat1, mat2, beta, alpha: (mat1 @ mat2) * alpha + self * beta,
    example=(lambda r: (r(2), r(3, 4), r(4, 2)), lambda r: (r(3, 2), r(3, 4), r(4, 2), {"beta": 0.7, "alpha": 1.3})),
)
rule(
    "aten.addmv",
    "y = β c + α A x",
    self=("c̄ = Σ β ȳ over the repetitions of c", lambda g, self, beta: summed_to(beta * g, self.shape)),
    mat=("Ā = α ȳ xᵀ", lambda g, vec, alpha: alpha * g[:, None] * vec),
    vec=("x̄ = α Aᵀ ȳ", lambda g, mat, alpha: alpha * mat.mT @ g),
    terms=lambda self, mat, vec, beta, alpha: (mat @ vec) * alpha + self * beta,
    example=lambda r: (r(3), r(3, 4), r(4), {"beta": 0.7, "alpha": 1.3}),
)
rule(
    "aten.addr",
    "Y = β C + α a bᵀ",
    self=("C̄ = Σ β Ȳ over the repetitions of C", lambda g, self, beta: summed_to(beta * g, self.shape)),
    vec1=("ā = α Ȳ b", lambda g, vec2, alpha: alpha * g @ vec2),
    vec2=("b̄ = α Ȳᵀ a", lambda g, vec1, alpha: alpha * g.mT @ vec1),
    terms=lambda self, vec1, vec2, beta, alpha: vec1[:, None] * vec2 * alpha + self * beta,
    example=lambda r: (r(3, 2), r(3), r(2), {"beta": 0.7, "alpha": 1.3}),
)
rule(
    "aten.baddbmm",
    "Y = β C + α A B for each matrix of the batch",
    self=("C̄ = Σ β Ȳ over the repetitions of C", lambda g, self, beta: summed_to(beta * g, self.shape)),
    batch1=("Ā = α Ȳ Bᵀ", lambda g, batch2, alpha: alpha * g @ batch2.mT),
    batch2=("B̄ = α Aᵀ Ȳ", lambda g, batch1, alpha: alpha * batch1.mT @ g),
    terms=lambda self, batch1, batch2, beta, alpha: (batch1 @ batch2) * alpha + self * beta,
    example=lambda r: (r(2, 1, 2), r(2, 3, 4), r(2, 4, 2), {"beta": 0.7, "alpha": 1.3}),
)
rule(
    "aten.addbmm",
    "Y = β C + α Σₙ Aₙ Bₙ",
    self=("C̄ = Σ β Ȳ over the repetitions of C", lambda g, self, beta: summed_to(beta * g, self.shape)),
    batch1=("Āₙ = α Ȳ Bₙᵀ", lambda g, batch2, alpha: alpha * g @ batch2.mT),
    batch2=("B̄ₙ = α Aₙᵀ Ȳ", lambda g, batch1, alpha: alpha * batch1.mT @ g),
    terms=lambda self, batch1, batch2, beta, alpha: np.sum(batch1 @ batch2, axis=0) * alpha + self * beta,
    example=lambda r: (r(3, 2), r(2, 3, 4), r(2, 4, 2), {"beta": 0.7, "alpha": 1.3}),
)


def _by_groups(A: Tensor, B: Tensor, ends: Tensor | None) -> Tensor:
    """Returns A B for each group; what has two axes is cut into groups along the one that the other does not share.

    Two such are cut along the axis that they sum over. `ends` says where each group ends; what lies behind is in none.
    """
    if ends is None:
        return A @ B
    groups = [slice(start, end) for start, end in pairwise([0, *ends.tolist()])]
    if A.ndim == B.ndim == 2:
        return torch.stack([A[:, group] @ B[group] for group in groups])
    C = A.new_zeros(A.shape[-2], B.shape[-1])
    for number, group in enumerate(groups):
        if A.ndim == 2:
            C[group] = A[group] @ B[number]
        else:
            C[:, group] = A[number] @ B[:, group]
    return C


# Each group is a product by itself; where C is cut, so is one of its factors, and a sum over a cut axis is one a group.
rule(
    "aten._grouped_mm",
    "Cₙ = Aₙ Bₙ for each group n",
    self=("Āₙ = C̄ₙ Bₙᵀ", lambda g, mat2, offs: _by_groups(g, mat2.mT, offs)),
    mat2=("B̄ₙ = Aₙᵀ C̄ₙ", lambda g, self, offs: _by_groups(self.mT, g, offs)),
    example=(  # there is no kernel for float64
        lambda r: (r(6, 4).float(), r(3, 4, 8).float(), torch.tensor([2, 2, 6], dtype=torch.int32)),
        lambda r: (r(2, 3, 4).float(), r(4, 8).float(), torch.tensor([3, 8], dtype=torch.int32)),
        lambda r: (r(4, 8).float(), r(8, 4).float(), torch.tensor([3, 8], dtype=torch.int32)),
        lambda r: (r(2, 3, 4).float(), r(2, 4, 8).float()),
    ),
)
rule(
    "aten.linalg_cross",
    "c = a × b",
    # ⟨c̄, a × b⟩ is a determinant: it keeps its value when the three are turned in a circle
    self=(
        "ā = b × c̄",
        lambda g, self, other, dim: summed_to(torch.linalg.cross(other.expand_as(g), g, dim=dim), self.shape),
    ),
    other=(
        "b̄ = c̄ × a",
        lambda g, self, other, dim: summed_to(torch.linalg.cross(g, self.expand_as(g), dim=dim), other.shape),
    ),
    example=lambda r: (r(2, 3), r(1, 3)),
)


def _trilinear_back(g: Tensor, others: tuple[Tensor, Tensor], own: Any, theirs: tuple[Any, Any], sumdim: Any) -> Tensor:
    """Undoes `torch._trilinear`: all three factors get axes of size 1 (`expand`), multiply, and `sumdim` is summed."""
    first, second = (_with_axes(t, expand) for t, expand in zip(others, theirs, strict=True))
    product = _with_axes(g, sumdim) * first * second
    for axis in sorted(own, reverse=True):
        product = product.sum(axis)
    return product


def _with_axes(t: Tensor, places: Any) -> Tensor:
    for axis in sorted(places):
        t = t.unsqueeze(axis)
    return t


rule(
    "aten._trilinear",
    "yₙₖ = Σᵢⱼ aₙᵢ Wₖᵢⱼ bₙⱼ",
    i1=(
        "āₙᵢ = Σₖⱼ ȳₙₖ Wₖᵢⱼ bₙⱼ",
        lambda g, i2, i3, expand1, expand2, expand3, sumdim: _trilinear_back(
            g, (i2, i3), expand1, (expand2, expand3), sumdim
        ),
    ),
    i2=(
        "W̄ₖᵢⱼ = Σₙ ȳₙₖ aₙᵢ bₙⱼ",
        lambda g, i1, i3, expand1, expand2, expand3, sumdim: _trilinear_back(
            g, (i1, i3), expand2, (expand1, expand3), sumdim
        ),
    ),
    i3=(
        "b̄ₙⱼ = Σₖᵢ ȳₙₖ aₙᵢ Wₖᵢⱼ",
        lambda g, i1, i2, expand1, expand2, expand3, sumdim: _trilinear_back(
            g, (i1, i2), expand3, (expand1, expand2), sumdim
        ),
    ),
    example=lambda r: (r(3, 4), r(2, 4, 5), r(3, 5), [1, 3], [0], [1, 2], [2, 3]),
)
rule(
    "aten.trace",
    "y = Σᵢ Aᵢᵢ",
    self=("Ā = ȳ I", lambda g, self: g * torch.eye(*self.shape, dtype=self.dtype, device=g.device)),
    terms=lambda self: np.sum(np.diagonal(self)),
    example=lambda r: (r(3, 4),),
)

# ------------------------------------------------------------------------------------------------ inverses and solves


def _scalar(g: Tensor) -> Tensor:
    """Gives a scalar for each matrix of a batch the shape of a matrix."""
    return g[..., None, None]


def _cofactors(A: Tensor) -> Tensor:
    """Returns ∂det A/∂A, which for a regular matrix is det(A) A⁻ᵀ.

    From A = U S Vᴴ: det(U) det(Vᴴ) conj(U diag(Πⱼ≠ᵢ sⱼ) Vᴴ), with no division, so it is right where A is singular.
    """
    if not A.isfinite().all():
        return torch.full_like(A, torch.nan)
    U, s, Vh = torch.linalg.svd(A)
    others = torch.stack([torch.cat([s[..., :i], s[..., i + 1 :]], -1).prod(-1) for i in range(s.shape[-1])], -1)
    sign: Tensor = torch.linalg.det(U) * torch.linalg.det(Vh)
    cofactors: Tensor = ((U * others[..., None, :]) @ Vh).conj()
    return _scalar(sign) * cofactors


rule(
    "aten.linalg_inv_ex",
    "C = A⁻¹",
    # A C = I gives dA C + A dC = 0, so dC = −C dA C
    A=("Ā = −Cᵀ C̄ Cᵀ", lambda g, y0: -y0.mT @ g[0] @ y0.mT),
    example=(lambda r: (r.spd(3),), lambda r: (r(2, 3, 3),)),
)
rule(
    "aten._linalg_det",
    "y = det A",
    A=("Ā = ȳ det(A) A⁻ᵀ", lambda g, A: _scalar(g[0]) * _cofactors(A)),
    why="det_singular",
    example=(lambda r: (r(3, 3),), lambda r: (r(2, 2, 2),)),
)
rule(
    "aten._linalg_slogdet",
    "s = sign det A,  y = log |det A|",
    A=("Ā = ȳ A⁻ᵀ", lambda g, A: torch.zeros_like(A) if g[1] is None else _scalar(g[1]) * torch.linalg.inv_ex(A)[0].mT),
    over="real",
    example=(lambda r: (r(3, 3),), lambda r: (r(2, 2, 2),)),
)


def _are_vectors(A: Tensor, B: Tensor) -> bool:
    """Torch takes B for vectors where it has one axis, or one fewer than A and otherwise A's sizes."""
    return B.ndim == 1 or (A.ndim - 1 == B.ndim and A.shape[:-1] == B.shape)


def _solved_back(g: Tensor, A: Tensor, B: Tensor, left: bool) -> Tensor:
    """Returns A⁻ᵀ X̄, or X̄ A⁻ᵀ where the unknown stood on the left, before any sum over the batch."""
    columns = g[..., None] if _are_vectors(A, B) else g
    solved: Tensor = torch.linalg.solve_ex(A.mT, columns, left=left)[0]
    return solved[..., 0] if _are_vectors(A, B) else solved


def _solve_A(g: Tensor, A: Tensor, B: Tensor, X: Tensor, left: bool) -> Tensor:
    solved = _solved_back(g, A, B, left)
    if _are_vectors(A, B):
        return summed_to(-solved[..., :, None] * X[..., None, :], A.shape)
    return summed_to(-(solved @ X.mT if left else X.mT @ solved), A.shape)


rule(
    "aten._linalg_solve_ex",
    "A X = B",
    # dA X + A dX = dB, so dX = A⁻¹ (dB − dA X); with X A = B the order of each product is turned round
    B=("B̄ = A⁻ᵀ X̄", lambda g, A, B, left: summed_to(_solved_back(g[0], A, B, left), B.shape)),
    A=("Ā = −B̄ Xᵀ", lambda g, A, B, y0, left: _solve_A(g[0], A, B, y0, left)),
    example=(
        lambda r: (r.spd(3), r(3, 2)),
        lambda r: (r.spd(3), r(2, 3), {"left": False}),
        lambda r: (r.spd(3, 2), r(2, 3)),
        lambda r: (r.spd(3), r(2, 3, 2)),
    ),
)


def _triangle(A: Tensor, upper: bool, unitriangular: bool) -> Tensor:
    return A.triu(int(unitriangular)) if upper else A.tril(-int(unitriangular))


def _triangular_back(g: Tensor, A: Tensor, upper: bool, left: bool, unitriangular: bool) -> Tensor:
    solved: Tensor = torch.linalg.solve_triangular(A.mT, g, upper=not upper, left=left, unitriangular=unitriangular)
    return solved


def _triangular_A(g: Tensor, A: Tensor, X: Tensor, upper: bool, left: bool, unitriangular: bool) -> Tensor:
    solved = _triangular_back(g, A, upper, left, unitriangular)
    full = -(solved @ X.mT if left else X.mT @ solved)
    return summed_to(_triangle(full, upper, unitriangular), A.shape)


rule(
    "aten.linalg_solve_triangular",
    "A X = B with A triangular",
    B=(
        "B̄ = A⁻ᵀ X̄",
        lambda g, self, B, upper, left, unitriangular: summed_to(
            _triangular_back(g, self, upper, left, unitriangular), B.shape
        ),
    ),
    self=(
        "Ā = −B̄ Xᵀ, on the triangle that is read",
        lambda g, self, y, upper, left, unitriangular: _triangular_A(g, self, y, upper, left, unitriangular),
    ),
    example=(
        lambda r: (r.triangular(3), r(3, 2), {"upper": False}),
        lambda r: (r.triangular(3).mT, r(2, 3), {"upper": True, "left": False}),
        lambda r: (r.triangular(3), r(2, 3, 2), {"upper": False, "unitriangular": True}),
    ),
)
