"""The gradient of a matrix product, and an example that cannot tell the rule from its mistakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from gradexplain.errors import InputError
from gradexplain.figures.parameters import Count, Range, written
from gradexplain.lessons.computations import explained, pictured
from gradexplain.lessons.listings import attempt
from gradexplain.lessons.measures import EPS, SINGLE, double, gradient
from gradexplain.lessons.parts import Explained, Parts, Pictured, Rows, claim, code, exercise, section, text

# float32 holds the small whole numbers of the tutorial exactly; one unit in the last place of 10 is the room left.
_SINGLE = 10 * SINGLE
_TUTORIAL = """
A = torch.tensor([[1., 2.],
                  [3., 4.]], requires_grad=True)
B = torch.tensor([[2., 0.],
                  [0., 2.]])
C = torch.matmul(A, B)
D = torch.sum(C)
D.backward()
print(f"dD/dA = \\n{A.grad}")
"""
_RULE = "C̄ @ B.T"
# Asymmetric and far from any B that commutes with it; the powers of ten show which weight went where.
_GENERIC = double([[1.0, 10.0], [100.0, 2000.0]])


def lesson(
    *,
    b: Annotated[tuple[float, ...], "The elements of an asymmetric B, row by row.", Range(-9, 9), Count(4, 4)] = (
        2.0,
        1.0,
        0.0,
        3.0,
    ),
) -> Parts:
    """Yields the lesson."""
    if b[1] == b[2]:
        raise InputError("symmetric", b=written(b))
    A = double([[1.0, 2.0], [3.0, 4.0]])
    B = double(b).reshape(2, 2)
    yield from section("as-it-stands", _as_it_stands())
    yield from section("hides", _hidden(A))
    yield from section("rule-head", _rule(A, B))
    yield from section("tells", _told_apart(A, B))
    yield from section("both-head", _both(A, B))
    yield exercise("ex-element", float(_gradient(A, B.T, torch.ones_like(A))[0, 0]), B=B.T)
    yield exercise("ex-shape", str(tuple(_gradient(torch.ones(3, 2), torch.ones(2, 5), torch.ones(3, 5)).shape)))


# ------------------------------------------------------------------------------------------------- the tutorial's code


def _as_it_stands() -> Parts:
    ran = yield from attempt("without-output", _TUTORIAL)
    A, B = ran.names["A"], ran.names["B"]
    by_numpy = float((A.detach().numpy() @ B.numpy()).sum())
    yield claim("product", ran.names["D"].detach(), "=", by_numpy, "A16", C=ran.names["C"].detach())
    yield claim("grad-a", A.grad, "≈", _moved(A.detach(), B, torch.ones(2, 2)), "A16", within=_SINGLE)
    yield claim("grad-b", B.grad is None, "=", not B.requires_grad, "A16", grad=str(B.grad))


def _moved(A: Tensor, B: Tensor, cotangent: Tensor) -> Tensor:
    """Returns the gradient of Σ C̄·(A·B) by A, one element after the other moved by one: the sum is linear in it.

    numpy multiplies, so that nothing of torch's is in it.
    """
    a, b, g = (t.double().numpy() for t in (A, B, cotangent))
    slopes = np.empty_like(a)
    for place in np.ndindex(*a.shape):
        moved = a.copy()
        moved[place] += 1
        slopes[place] = (g * (moved @ b)).sum() - (g * (a @ b)).sum()
    return torch.from_numpy(slopes)


def _gradient(A: Tensor, B: Tensor, cotangent: Tensor) -> Tensor:
    return gradient(lambda A: A @ B, A, cotangent)


# -------------------------------------------------------------------------------------------------- what B = 2I hides


Candidate = Callable[[Tensor, Tensor], Tensor]
# The rule for the gradient of A and its usual mistakes, by B and the gradient C that arrives.
_CANDIDATES: Mapping[str, Candidate] = {
    _RULE: lambda B, C: C @ B.T,
    "C̄ @ B": lambda B, C: C @ B,
    "B.T @ C̄": lambda B, C: B.T @ C,
    "B @ C̄": lambda B, C: B @ C,
}


def _candidates(B: Tensor, C: Tensor) -> Mapping[str, Tensor]:
    """Returns what the rule and its usual mistakes give."""
    return {name: candidate(B, C) for name, candidate in _CANDIDATES.items()}


def _right(A: Tensor, B: Tensor, C: Tensor) -> list[str]:
    """Returns which of the candidates agree with moving the elements one by one."""
    return [name for name, candidate in _candidates(B, C).items() if _agrees(candidate, A, B, C)]


def _agrees(candidate: Tensor, A: Tensor, B: Tensor, C: Tensor) -> bool:
    return float((candidate - _moved(A, B, C)).abs().max()) <= _slack(A, B, C)


def _slack(A: Tensor, B: Tensor, C: Tensor) -> float:
    """Returns what rounding may leave: the gradient was measured as a difference of two sums of weighted products."""
    return 64 * EPS * float((C.abs() * ((A.abs() + 1) @ B.abs())).sum())


def _table(A: Tensor, B: Tensor, C: Tensor) -> Rows:
    candidates = {**{f"`{name}`": one for name, one in _candidates(B, C).items()}, "torch": _gradient(A, B, C)}
    rows = [(name, one, "✓" if _agrees(one, A, B, C) else "✗") for name, one in candidates.items()]
    return Rows(("candidate", "gives", "agrees"), rows)


def _hidden(A: Tensor) -> Parts:
    B, ones = 2 * torch.eye(2, dtype=torch.float64), torch.ones(2, 2, dtype=torch.float64)
    yield text("four-rules", B=B)
    yield _table(A, B, ones)
    yield claim("all-agree", len(_right(A, B, ones)), "=", len(_candidates(B, ones)), "A17")


# ------------------------------------------------------------------------------------------------------------- the rule


def _rule(A: Tensor, B: Tensor) -> Parts:
    explanation = explained("A @ B", {"A": A, "B": B}, wrt="A", cotangent=_GENERIC, output_name="C")
    yield text("derived", C=_GENERIC, B=B)
    yield Explained(explanation, ("forward", "backward"))
    slack = _slack(A, B, _GENERIC)
    yield claim("rule-is", explanation.gradients["A"], "≈", _moved(A, B, _GENERIC), "A16", within=slack)
    yield from _by_element(A, B)


def _by_element(A: Tensor, B: Tensor) -> Parts:
    """Yields every path from the output back to an element of A; along each, C̄ᵢⱼ is multiplied by Bₖⱼ."""
    shown = {"view": "elements", "wrt": "A", "show": ("values", "gradients"), "output_name": "D"}
    yield Pictured("elements", pictured("C = A @ B; sum(C)", {"A": A, "B": B}, **shown))
    rows, sums = [], torch.zeros_like(A)
    for i, k, j in product(range(2), repeat=3):
        arrives, here = float(_GENERIC[i, j]), float(B[k, j])
        sums[i, k] += arrives * here
        path = f"L → C[{i}, {j}] → A[{i}, {k}]"
        rows.append((f"A[{i}, {k}]", path, f"{written(arrives)} × {written(here)}", arrives * here))
    yield text("every-path", C=_GENERIC)
    yield Rows(("element", "path", "with-numbers", "sends"), rows)
    slack = _slack(A, B, _GENERIC)
    yield claim("paths-add", _gradient(A, B, _GENERIC), "≈", sums, "A16", within=slack, count=len(rows))


def _told_apart(A: Tensor, B: Tensor) -> Parts:
    ones = torch.ones_like(_GENERIC)
    yield text("asymmetric", B=B)
    yield _table(A, B, ones)
    yield claim("not-c-b", ones @ B, "≠", _moved(A, B, ones), "A17", agree=code(*_right(A, B, ones)))
    yield text("generic", C=_GENERIC)
    yield _table(A, B, _GENERIC)
    yield claim("one-left", _right(A, B, _GENERIC), "=", [_RULE], "A17", rule=f"`{_RULE}`")
    yield text("shapes")
    fits = _fitting(torch.ones(2, 3), torch.ones(3, 4), torch.ones(2, 4))
    yield claim("shapes-tell", fits, "=", [_RULE], "A17", rule=f"`{_RULE}`")


def _fitting(A: Tensor, B: Tensor, C: Tensor) -> list[str]:
    """Returns the candidates that can be computed at all and have the shape of A."""
    return [name for name, candidate in _CANDIDATES.items() if _shape_of(candidate, B, C) == A.shape]


def _shape_of(candidate: Candidate, B: Tensor, C: Tensor) -> torch.Size | None:
    try:
        return candidate(B, C).shape
    except RuntimeError:
        return None


# -------------------------------------------------------------------------------------------------------- both sides


def _both(A: Tensor, B: Tensor) -> Parts:
    yield text("both", A=A, B=B)
    # The transpose of C is Bᵀ·Aᵀ, so that B stands first there, and the elements of B can be moved in the same way.
    ones = torch.ones_like(A)
    slack = _slack(A, B, ones)
    yield claim("a-both", gradient(lambda A: A @ B, A), "≈", _moved(A, B, ones), "A16", within=slack)
    yield claim("b-both", gradient(lambda B: A @ B, B), "≈", _moved(B.T, A.T, ones).T, "A16", within=slack)
