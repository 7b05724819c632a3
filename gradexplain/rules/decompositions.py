"""Decompositions of matrices, and what is made by them; derived as in `linear`, from the differential of each.

Where matrices have to be square, regular, or of full rank, the formulas say so by what they invert.
"""

from typing import Any

import torch
from torch import Tensor

from gradexplain.rules.application import summed_to
from gradexplain.rules.entries import rule

# ------------------------------------------------------------------------------------------------------- symmetric


def _symmetric(A: Tensor) -> Tensor:
    return (A + A.mT) / 2


def _halved_lower(A: Tensor) -> Tensor:
    """Returns Φ(A): the lower triangle, its diagonal halved."""
    return A.tril() - torch.diag_embed(A.diagonal(dim1=-2, dim2=-1)) / 2


def _cholesky_back(g: Tensor, L: Tensor) -> Tensor:
    """A = L Lᵀ. From dA = dL Lᵀ + L dLᵀ: L⁻¹ dA L⁻ᵀ = L⁻¹ dL + (L⁻¹ dL)ᵀ, lower plus upper, so dL = L Φ(L⁻¹ dA L⁻ᵀ).

    Its transpose is Ā = L⁻ᵀ Φ(Lᵀ L̄) L⁻¹, made symmetric because A is (Murray 2016, arXiv:1602.07527).
    """
    middle = _halved_lower(L.mT @ g)
    left = torch.linalg.solve_triangular(L.mT, middle, upper=True)
    return _symmetric(torch.linalg.solve_triangular(L, left, upper=False, left=False))


rule(
    "aten.linalg_cholesky_ex",
    "A = L Lᵀ",
    self=(
        "Ā = sym(L⁻ᵀ Φ(Lᵀ L̄) L⁻¹), Φ the lower triangle with half its diagonal",
        lambda g, y0, upper: _cholesky_back(g[0].mT, y0.mT) if upper else _cholesky_back(g[0], y0),
    ),
    symmetric=("self",),
    why="symmetric",
    over="real",
    example=(lambda r: (r.spd(3),), lambda r: (r.spd(3, 2), {"upper": True})),
)


def _gaps(s: Tensor) -> Tensor:
    """Returns F with Fᵢⱼ = 1 / (sⱼ − sᵢ), 0 on the diagonal."""
    gaps = s[..., None, :] - s[..., :, None]
    eye = torch.eye(s.shape[-1], dtype=torch.bool, device=s.device)
    return (~eye) / torch.where(eye, 1, gaps)


def _eigh_back(g: Any, values: Tensor, V: Tensor) -> Tensor:
    """A = V Λ Vᵀ. Let dP = Vᵀ dA V. Then dΛ is the diagonal of dP, and dV = V (F ∘ dP) with Fᵢⱼ = 1/(λⱼ − λᵢ)."""
    middle = torch.zeros_like(V)
    if g[0] is not None:
        middle = middle + torch.diag_embed(g[0])
    if g[1] is not None:
        middle = middle + _gaps(values) * (V.mT @ g[1])
    return _symmetric(V @ middle @ V.mT)


rule(
    "aten._linalg_eigh",
    "A = V diag(λ) Vᵀ",
    A=(
        "Ā = sym(V (diag(λ̄) + F ∘ (Vᵀ V̄)) Vᵀ), Fᵢⱼ = 1 / (λⱼ − λᵢ)",
        lambda g, y0, y1: _eigh_back(g, y0, y1),
    ),
    symmetric=("A",),
    why="equal_eigenvalues",
    over="real",
    example=(lambda r: (r.spd(3),), lambda r: (r.spd(2, 2),)),
)


def _svd_back(g: Any, U: Tensor, s: Tensor, Vh: Tensor) -> Tensor:
    """A = U S Vᵀ, in its reduced form. With dP = Uᵀ dA V and Fᵢⱼ = 1/(sⱼ² − sᵢ²):

        dS = diag(dP)
        dU = U (F ∘ (dP S + S dPᵀ)) + (I − U Uᵀ) dA V S⁻¹
        dV = V (F ∘ (S dP + dPᵀ S)) + (I − V Vᵀ) dAᵀ U S⁻¹

    and the transposes of the three are added up (Townsend 2016, "Differentiating the singular value decomposition").
    """
    V, F, S = Vh.mT, _gaps(s**2), s[..., None, :]
    total = torch.zeros_like(U @ Vh)
    if g[1] is not None:
        total = total + (U * g[1][..., None, :]) @ Vh
    if g[0] is not None:
        within = U.mT @ g[0]
        turned = U @ (F * (within - within.mT)) * S
        total = total + (turned + (g[0] - U @ within) / S) @ Vh
    if g[2] is not None:
        within = V.mT @ g[2].mT
        turned = S.mT * (F * (within - within.mT)) @ Vh
        total = total + U @ (turned + (g[2].mT - V @ within).mT / S.mT)
    return total


rule(
    "aten._linalg_svd",
    "A = U diag(s) Vᵀ",
    A=(
        "Ā = U (F∘(UᵀŪ − ŪᵀU) S + diag(s̄) + S F∘(VᵀV̄ − V̄ᵀV)) Vᵀ + (I−UUᵀ) Ū S⁻¹ Vᵀ + U S⁻¹ V̄ᵀ (I−VVᵀ), "
        "Fᵢⱼ = 1 / (sⱼ² − sᵢ²)",
        lambda g, y0, y1, y2: _svd_back(g, y0, y1, y2),
    ),
    why="equal_eigenvalues",
    over="real",
    example=(lambda r: (r(3, 4),), lambda r: (r(4, 2),)),
)


def _qr_back(g: Any, Q: Tensor, R: Tensor) -> Tensor:
    """A = Q R with R square. With M = R R̄ᵀ − Q̄ᵀ Q and C(M) = its lower triangle, mirrored to the upper one:

    Ā = (Q̄ + Q C(M)) R⁻ᵀ    (Walter and Lehmann 2018, "Algorithmic differentiation of linear algebra functions").
    """
    gQ = torch.zeros_like(Q) if g[0] is None else g[0]
    M = -gQ.mT @ Q if g[1] is None else R @ g[1].mT - gQ.mT @ Q
    mirrored = M.tril() + M.tril(-1).mT
    sent: Tensor = torch.linalg.solve_triangular(R.mT, gQ + Q @ mirrored, upper=False, left=False)
    return sent


rule(
    "aten.linalg_qr",
    "A = Q R",
    A=(
        "Ā = (Q̄ + Q C(R R̄ᵀ − Q̄ᵀ Q)) R⁻ᵀ, C mirrors the lower triangle",
        lambda g, y0, y1: _qr_back(g, y0, y1),
    ),
    over="real",
    example=(lambda r: (r(4, 3),), lambda r: (r(2, 3, 3),)),
)


def _matrix_exp_back(g: Tensor, A: Tensor) -> Tensor:
    """The derivative of exp at Aᵀ in direction C̄ is the upper right block of exp [[Aᵀ, C̄], [0, Aᵀ]].

    (Al-Mohy and Higham 2009, "Computing the Fréchet derivative of the matrix exponential".)
    """
    n = A.shape[-1]
    block = torch.cat([torch.cat([A.mT, g], -1), torch.cat([torch.zeros_like(A), A.mT], -1)], -2)
    exponential: Tensor = torch.linalg.matrix_exp(block)
    return exponential[..., :n, n:]


rule(
    "aten.linalg_matrix_exp",
    "C = exp(A) = Σₖ Aᵏ / k!",
    self=("Ā = the upper right block of exp [[Aᵀ, C̄], [0, Aᵀ]]", lambda g, self: _matrix_exp_back(g, self)),
    example=(lambda r: (r(3, 3),), lambda r: (r(2, 2, 2),)),
)


def _cholesky_solve_L(g: Tensor, X: Tensor, L: Tensor, upper: bool) -> Tensor:
    """A = L Lᵀ, A X = B: Ā = −(A⁻¹ X̄) Xᵀ, and ⟨Ā, dL Lᵀ + L dLᵀ⟩ = ⟨(Ā + Āᵀ) L, dL⟩; with U = Lᵀ, U (Ā + Āᵀ)."""
    solved = torch.cholesky_solve(g, L, upper=upper)
    A = -solved @ X.mT
    return (L @ (A + A.mT)).triu() if upper else ((A + A.mT) @ L).tril()


rule(
    "aten.cholesky_solve",
    "L Lᵀ X = B",
    self=("B̄ = (L Lᵀ)⁻¹ X̄", lambda g, input2, upper: torch.cholesky_solve(g, input2, upper=upper)),
    input2=(
        "L̄ = −(B̄ Xᵀ + X B̄ᵀ) L, on the triangle that is read",
        lambda g, y, input2, upper: _cholesky_solve_L(g, y, input2, upper),
    ),
    over="real",
    example=(lambda r: (r(3, 2), r.triangular(3)), lambda r: (r(3, 2), r.triangular(3).mT, True)),
)


# ---------------------------------------------------------------------------------------------------------------- LU
#
# A = P L U with L of ones on its diagonal. Let M = L⁻¹ Pᵀ dA U⁻¹ = L⁻¹ dL + dU U⁻¹, strictly lower plus upper: so
# dL = L low(M) and dU = up(M) U, and
#     M̄ = low(Lᵀ L̄) + up(Ū Uᵀ),    Ā = P L⁻ᵀ M̄ U⁻ᵀ
# Of a wide A = [A₁ A₂] the rest U₂ = L⁻¹ Pᵀ A₂ sends Ā₂ = P L⁻ᵀ Ū₂ and to L −L⁻ᵀ Ū₂ U₂ᵀ; a tall one is its mirror.


def _lu_back(L_bar: Tensor, U_bar: Tensor, P: Tensor, L: Tensor, U: Tensor) -> Tensor:
    k = min(L.shape[-2], U.shape[-1])
    L1, U1 = L[..., :k, :], U[..., :k]
    to_L, to_U, parts = L_bar[..., :k, :], U_bar[..., :k], []
    if U.shape[-1] > k:
        rest = torch.linalg.solve_triangular(L1.mT, U_bar[..., k:], upper=True, unitriangular=True)
        to_L = to_L - rest @ U[..., k:].mT
        parts.append(rest)
    if L.shape[-2] > k:
        rest = torch.linalg.solve_triangular(U1.mT, L_bar[..., k:, :], upper=False, left=False)
        to_U = to_U - L[..., k:, :].mT @ rest
        parts.append(rest)
    M = (L1.mT @ to_L).tril(-1) + (to_U @ U1.mT).triu()
    solved = torch.linalg.solve_triangular(L1.mT, M, upper=True, unitriangular=True)
    solved = torch.linalg.solve_triangular(U1.mT, solved, upper=False, left=False)
    return P @ torch.cat([solved, *parts], -1 if U.shape[-1] > k else -2)


def _unpacked(LU: Tensor, pivots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    P, L, U = torch.lu_unpack(LU.detach(), pivots)
    return P, L, U


def _factors(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Cuts what stands for the packed L and U, or their gradients, into the two; L without its diagonal."""
    k = min(packed.shape[-2:])
    return packed[..., :k].tril(-1), packed[..., :k, :].triu()


def _packed(L_bar: Tensor, U_bar: Tensor) -> Tensor:
    rows, columns = L_bar.shape[-2], U_bar.shape[-1]
    wide = torch.nn.functional.pad(L_bar.tril(-1), [0, columns - L_bar.shape[-1]])
    return wide + torch.nn.functional.pad(U_bar.triu(), [0, 0, 0, rows - U_bar.shape[-2]])


rule(
    "aten.linalg_lu_factor_ex",
    "A = P L U, L and U in one matrix",
    A=(
        "Ā = P L⁻ᵀ (low(Lᵀ L̄) + up(Ū Uᵀ)) U⁻ᵀ, low the strict lower triangle, up the upper one",
        lambda g, y0, y1: _lu_back(*_factors(g[0]), *_unpacked(y0, y1)),
    ),
    over="real",
    example=(lambda r: (r(3, 3),), lambda r: (r(2, 2, 4),), lambda r: (r(4, 2),)),
)


def _pivots(size: int) -> Tensor:
    return torch.arange(size, 0, -1, dtype=torch.int32).clamp(min=size // 2 + 1)


def _lu_solve_right(g: Tensor, LU: Tensor, pivots: Tensor, left: bool, adjoint: bool) -> Tensor:
    """Returns B̄: the same system, turned over, with X̄ on its right."""
    solved: Tensor = torch.linalg.lu_solve(LU.detach(), pivots, g, left=left, adjoint=not adjoint)
    return solved


def _lu_solve_back(g: Tensor, LU: Tensor, pivots: Tensor, X: Tensor, left: bool, adjoint: bool) -> Tensor:
    """Ā = −B̄ Xᵀ as in every solve, its transpose for Aᵀ, and from there to the factors: L̄ = Pᵀ Ā Uᵀ, Ū = Lᵀ Pᵀ Ā."""
    B_bar = _lu_solve_right(g, LU, pivots, left, adjoint)
    A_bar = -(B_bar @ X.mT if left else X.mT @ B_bar)
    P, L, U = _unpacked(LU, pivots)
    turned = P.mT @ (A_bar.mT if adjoint else A_bar)
    return summed_to(_packed(turned @ U.mT, L.mT @ turned), LU.shape)


rule(
    "aten.linalg_lu_solve",
    "P L U X = B",
    B=(
        "B̄ = (P L U)⁻ᵀ X̄",
        lambda g, LU, pivots, B, left, adjoint: summed_to(_lu_solve_right(g, LU, pivots, left, adjoint), B.shape),
    ),
    LU=(
        "L̄ = −Pᵀ B̄ Xᵀ Uᵀ,  Ū = −Lᵀ Pᵀ B̄ Xᵀ",
        lambda g, LU, pivots, y, left, adjoint: _lu_solve_back(g, LU, pivots, y, left, adjoint),
    ),
    over="real",
    example=(
        lambda r: (r.spd(3), _pivots(3), r(3, 2)),
        lambda r: (r.spd(3), _pivots(3), r(2, 3), {"left": False}),
        lambda r: (r.spd(3), _pivots(3), r(3, 2), {"adjoint": True}),
        lambda r: (r.spd(3), _pivots(3), r(2, 3), {"left": False, "adjoint": True}),
    ),
)

# ----------------------------------------------------------------------------------- pseudoinverse, least squares


def _pinv_back(g: Tensor, A: Tensor, P: Tensor) -> Tensor:
    """dP = −P dA P + P Pᵀ dAᵀ (I − A P) + (I − P A) dAᵀ Pᵀ P while the rank stays

    (Golub and Pereyra 1973, "The differentiation of pseudo-inverses").
    """
    beside = g.mT - A @ (P @ g.mT)
    behind = g.mT - (g.mT @ P) @ A
    return -P.mT @ g @ P.mT + beside @ P @ P.mT + P.mT @ P @ behind


rule(
    "aten.linalg_pinv.atol_rtol_tensor",
    "P = A⁺",
    self=(
        "Ā = −Pᵀ P̄ Pᵀ + (I − A P) P̄ᵀ P Pᵀ + Pᵀ P P̄ᵀ (I − P A)",
        lambda g, self, y: _pinv_back(g, self, y),
    ),
    over="real",
    example=(lambda r: (r(4, 3),), lambda r: (r(2, 2, 3),)),
)


def _least_squares(g: Any, A: Tensor, B: Tensor, X: Tensor) -> tuple[Tensor, Tensor]:
    """X = A⁺ B, and the residuals ρ = Σ (A X − B)²: X minimises them, so that dX takes no part in dρ."""
    P = torch.linalg.pinv(A.detach())
    X_bar = torch.zeros_like(X) if g[0] is None else g[0]
    A_bar, B_bar = _pinv_back(X_bar @ B.mT, A, P), P.mT @ X_bar
    if g[1] is not None and g[1].numel():
        missed = 2 * (A @ X - B) * g[1].unsqueeze(-2)
        A_bar, B_bar = A_bar + missed @ X.mT, B_bar - missed
    return A_bar, B_bar


rule(
    "aten.linalg_lstsq",
    "X = A⁺ B, which makes Σ (A X − B)² least",
    self=(
        "Ā = that of A⁺, to which X̄ Bᵀ arrives",
        lambda g, self, b, y0: summed_to(_least_squares(g, self, b, y0)[0], self.shape),
    ),
    b=("B̄ = (A⁺)ᵀ X̄", lambda g, self, b, y0: summed_to(_least_squares(g, self, b, y0)[1], b.shape)),
    over="real",
    example=(lambda r: (r(4, 3), r(4, 2)), lambda r: (r(2, 2, 3), r(2, 2, 1))),
)

# ------------------------------------------------------------------------------------------------ reflections
#
# Q = H₁ H₂ … with Hᵢ = I − τᵢ vᵢ vᵢᵀ, where vᵢ has a 1 at i, the column i of the input below it, and 0 above. What
# arrives at one factor is H̄ᵢ = (H₁ … Hᵢ₋₁)ᵀ Q̄ (Hᵢ₊₁ …)ᵀ, and from there τ̄ᵢ = −vᵢᵀ H̄ᵢ vᵢ, v̄ᵢ = −τᵢ (H̄ᵢ + H̄ᵢᵀ) vᵢ.


def _reflectors(input: Tensor) -> Tensor:
    """Returns the vᵢ as columns."""
    eye = torch.eye(*input.shape[-2:], dtype=input.dtype, device=input.device)
    return input.tril(-1) + eye


def _reflections_back(g: Tensor, input: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """Returns what arrives at the input and at τ, for the cotangent of the whole square Q."""
    k, size = tau.shape[-1], input.shape[-2]
    eye = torch.eye(size, dtype=input.dtype, device=input.device).expand(*input.shape[:-2], size, size)
    v = _reflectors(input).unsqueeze(-1)
    H = [eye - tau[..., i, None, None] * v[..., i, :] @ v[..., i, :].mT for i in range(k)]
    before = [eye]
    for factor in H[:-1]:
        before.append(before[-1] @ factor)
    behind, input_bar, tau_bar = eye, torch.zeros_like(input), torch.zeros_like(tau)
    for i in reversed(range(k)):
        arrived, reflector = before[i].mT @ g @ behind.mT, v[..., i, :]
        tau_bar[..., i] = -(reflector.mT @ arrived @ reflector)[..., 0, 0]
        input_bar[..., i] = (-tau[..., i, None, None] * (arrived + arrived.mT) @ reflector)[..., 0]
        behind = H[i] @ behind
    return input_bar.tril(-1), tau_bar


def _whole(g: Tensor) -> Tensor:
    """Gives the columns of Q that were not asked for a cotangent of 0."""
    return torch.nn.functional.pad(g, [0, g.shape[-2] - g.shape[-1]])


_REFLECTED = ("v̄ᵢ = −τᵢ (H̄ᵢ + H̄ᵢᵀ) vᵢ", "τ̄ᵢ = −vᵢᵀ H̄ᵢ vᵢ")
rule(
    "aten.linalg_householder_product",
    "Q = H₁ H₂ …, Hᵢ = I − τᵢ vᵢ vᵢᵀ",
    input=(_REFLECTED[0], lambda g, input, tau: _reflections_back(_whole(g), input, tau)[0]),
    tau=(_REFLECTED[1], lambda g, input, tau: _reflections_back(_whole(g), input, tau)[1]),
    over="real",
    example=(lambda r: (r(4, 3), r.positive(3)), lambda r: (r(2, 3, 3), r.positive(2, 2))),
)


def _multiplied_back(g: Tensor, input: Tensor, tau: Tensor, C: Tensor, left: bool, transpose: bool) -> Any:
    """Y = Q C, Qᵀ C, C Q or C Qᵀ: what arrives at Q is Ȳ Cᵀ, or Cᵀ Ȳ, turned over where Q was."""
    arrived = g @ C.mT if left else C.mT @ g
    return _reflections_back(arrived.mT if transpose else arrived, input, tau)


def _unmultiplied(g: Tensor, input: Tensor, tau: Tensor, left: bool, transpose: bool) -> Tensor:
    product: Tensor = torch.ormqr(input.detach(), tau.detach(), g, left, not transpose)
    return product


rule(
    "aten.ormqr",
    "Y = Q C with Q = H₁ H₂ …, Hᵢ = I − τᵢ vᵢ vᵢᵀ",
    self=(
        _REFLECTED[0],
        lambda g, self, input2, input3, left, transpose: _multiplied_back(g, self, input2, input3, left, transpose)[0],
    ),
    input2=(
        _REFLECTED[1],
        lambda g, self, input2, input3, left, transpose: _multiplied_back(g, self, input2, input3, left, transpose)[1],
    ),
    input3=(
        "C̄ = Qᵀ Ȳ",
        lambda g, self, input2, left, transpose: _unmultiplied(g, self, input2, left, transpose),
    ),
    over="real",
    example=(
        lambda r: (r(4, 3), r.positive(3), r(4, 2)),
        lambda r: (r(3, 3), r.positive(3), r(2, 3), False, True),
        lambda r: (r(3, 2), r.positive(2), r(3, 2), True, True),
    ),
)
