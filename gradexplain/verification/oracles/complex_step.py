"""Complex step: f(x + ihu) = f(x) + ih ⟨∇f, u⟩ + O(h²), so that the imaginary part divided by h is the slope.

Nothing is subtracted, hence h can be so small that h² is below every last digit: the slope is as good as f itself. That
holds where f is analytic and torch computes its analytic continuation, and both have to be known of each operator that
meets a complex number. Shares with the gradient under test none of torch's derivatives, forward or backward.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradexplain.errors import GradexplainError
from gradexplain.recording.trace import Node, Trace
from gradexplain.verification.oracles.answers import Check, Unable, Verdict
from gradexplain.verification.oracles.elements import RESOLUTION
from gradexplain.verification.oracles.measures import MARGIN, pair, scales
from gradexplain.verification.oracles.question import Question
from gradexplain.verification.oracles.replays import Replay
from gradexplain.versions.internals import internals

ORACLE = "complex step"
# About 1e-50: h² is nothing beside 1, and rounding that a kernel puts into an imaginary part is 1e34 times too large.
STEP = 2.0**-166
# Inputs up to LARGEST_MOVED keep hu small beside 1, and down to hu/LARGEST_MOVED they keep it small beside themselves.
# Complex kernels square what they are given: what lies within 1/LARGEST_SQUARED and LARGEST_SQUARED survives that.
LARGEST_MOVED, LARGEST_SQUARED = 1e20, 1e140
# Complex kernels round on their own account: a logarithm of a sum of exponentials some hundred times.
KERNEL_EPS = 1e4
# Where f and its gradient are 0, the step leaves h² times how f is curved, of a product of zeros for example.
CURVED = STEP**1.9
# More inputs than this are moved together.
MOST_ALONE = 8

# Operators whose kernels for complex numbers are their analytic continuation, by the reason why they have one. Left out
# are those that conjugate or take moduli there (abs, sgn, norm, var, vdot, Cholesky, QR, SVD, slogdet), one that loses
# its digits near 0 (sinc), and those that torch does not record there (silu, embedding, dropout).
_CONTINUED = {
    "quotients of polynomials": """
        add sub rsub mul div neg reciprocal addcmul addcdiv lerp sum mean prod cumsum cumprod trace
        mm bmm mv dot addmm addmv addr baddbmm addbmm linalg_cross
        linalg_inv_ex _linalg_det _linalg_solve_ex linalg_solve_triangular""",
    "power series, and their inverses off the cut": """
        exp exp2 expm1 log log2 log10 log1p sqrt rsqrt pow ldexp sigmoid logaddexp logsumexp logcumsumexp
        sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh linalg_matrix_exp""",
    "elements are moved, added or written over": """
        view _unsafe_view _reshape_alias squeeze unsqueeze clone alias _to_copy t transpose permute expand repeat flip
        roll rot90 select slice diagonal diagonal_copy diag_embed tril triu unfold as_strided pixel_shuffle
        pixel_unshuffle im2col col2im constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d
        replication_pad1d replication_pad2d replication_pad3d cat stack block_diag split unsafe_split split_with_sizes
        unsafe_split_with_sizes unbind index gather index_select take masked_select where masked_fill copy fill
        scatter scatter_add index_add index_copy index_fill index_put masked_scatter diagonal_scatter""",
    "only the shape counts": "zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty",
}
ANALYTIC = frozenset(" ".join(_CONTINUED.values()).split())


def _off_the_cut(base: Any, exponent: Any) -> bool:
    """Torch multiplies out the small powers; every other one goes through a logarithm, which loses h behind 0."""
    if isinstance(exponent, (int, float)) and exponent in (-2, -1, 0, 1, 2, 3):
        return True
    return bool((base.real > 0).all()) if isinstance(base, Tensor) else base > 0


def _unrounded(numerator: Any, denominator: Any, rounding_mode: str | None = None) -> bool:
    return rounding_mode is None


CONDITIONS: Mapping[str, Callable[..., bool]] = {"pow": _off_the_cut, "div": _unrounded}


def ask(question: Question) -> Iterator[Check]:
    """Compares ⟨v, Im f(x + ihu)⟩ / h with ⟨G, u⟩, for a random direction u of each input."""
    names = list(question.names)
    for group in [names] if len(names) > MOST_ALONE else [[n] for n in names]:
        slope = _followed(question, group)
        yield from (_check(question, name, slope, len(group)) for name in group)


def _obstacle(trace: Trace) -> Unable | None:
    """Returns why the step cannot be taken, where the recorded graph shows it without a run."""
    tensors = (trace.value, *trace.inputs.values())
    if any(t.is_complex() for t in tensors):
        return Unable("complex")
    foreign = [str(t.layout) for t in tensors if t.layout != torch.strided]
    made_by = [_operator(n) for n in trace.nodes if n.leaf is None]
    foreign += [operator for operator in made_by if _name(operator) not in ANALYTIC]
    return Unable("not_analytic", {"operator": foreign[0]}) if foreign else None


def _operator(node: Node) -> str:
    """Returns what made a node: of a write into a view what wrote, of another look through the view the view."""
    if node.part is not None:
        return node.part.operator or "aten.as_strided.default"
    return node.operator or node.name


def _name(operator: object) -> str:
    """Returns `add` for `aten.add_.Tensor`."""
    return str(operator).removeprefix("aten.").partition(".")[0].rstrip("_") if operator else ""


# ---------------------------------------------------------------------------------------------------------- the step


@dataclass(frozen=True)
class _Slope:
    """What the step and the gradient say of one direction, and what rounding explains of their difference."""

    step: float
    claim: float
    bound: float


def _followed(question: Question, names: Sequence[str]) -> _Slope | Unable:
    replay = question.replay
    if isinstance(replay, Unable):
        return replay
    if obstacle := _obstacle(replay.trace):
        return obstacle
    generator = torch.Generator().manual_seed(11)
    claimed = {n: question.gradient(n) for n in names}
    u = {n: _direction(replay.trace.inputs[n], claimed[n], generator) for n in names}
    claim = sum(pair(claimed[n], d) for n, d in u.items())
    if not math.isfinite(claim):
        return Unable("gradient_not_finite")
    slope = _slope(question, replay, u, claim)
    if isinstance(slope, Unable):
        return slope
    return _Slope(slope, claim, _bound(question, replay, claimed, u, slope - claim))


def _slope(question: Question, replay: Replay, u: Mapping[str, Tensor], claim: float) -> float | Unable:
    """Returns ⟨v, Im f(x + ihu)⟩ / h, or why that is not the slope of f."""
    size = question.value + abs(claim)
    steps = torch.cat([d.abs().flatten() for d in u.values()])
    if not bool(((steps >= 1 / LARGEST_SQUARED) & (steps <= LARGEST_MOVED)).all()) or not (
        size == 0 or 1 / LARGEST_SQUARED <= size <= LARGEST_SQUARED
    ):
        return Unable("step_range")
    made = _continued(replay, u)
    if isinstance(made, Unable):
        return made
    if size == 0 and bool((made.abs() <= CURVED).all()):
        return 0.0
    if not _reproduces(replay, made.real, claim):
        return Unable("not_continued")
    slope = pair(replay.trace.cotangent, made.imag) / STEP
    # What does not shrink with the step was put there by a kernel's rounding.
    return slope if abs(slope) * STEP**0.5 <= size else Unable("not_continued")


def _reproduces(replay: Replay, real: Tensor, claim: float) -> bool:
    """Says whether the real part is f(x), but for what rounding makes of f and of its inputs."""
    y = replay.trace.value
    if real.shape != y.shape:
        return False
    away, size = (float(torch.linalg.vector_norm(t)) for t in (real - y, y))
    return away <= KERNEL_EPS * replay.eps * (size + abs(claim))


def _direction(x: Tensor, gradient: Tensor, generator: torch.Generator) -> Tensor:
    """Returns U[½, 1] in units of each element's size, with the gradient's own signs, so that nothing cancels."""
    scale = torch.where(x == 0, scales(x), scales(x).minimum(LARGEST_MOVED * x.abs()))
    size = torch.rand(x.shape, generator=generator, dtype=torch.float64).to(x.device) / 2 + 0.5
    signs = torch.randint(0, 2, x.shape, generator=generator).to(x) * 2 - 1
    return size * scale * torch.where(gradient == 0, signs, gradient.sgn())


def _bound(
    question: Question, replay: Replay, claimed: Mapping[str, Tensor], u: Mapping[str, Tensor], difference: float
) -> float:
    """What rounding explains: of each product, of the output's last digits and, where that is not enough, of G."""
    products = sum(float((claimed[n] * d).abs().sum()) for n, d in u.items())
    bound = replay.eps * (KERNEL_EPS * products + MARGIN / 2 * question.value)
    if abs(difference) <= bound:
        return bound
    return bound + MARGIN * sum(float((question.rounding(n) * d.abs()).sum()) for n, d in u.items())


def _continued(replay: Replay, u: Mapping[str, Tensor]) -> Tensor | Unable:
    """Returns f(x + ihu), or which operator is in the way."""
    own = replay.computation.leaf_values()
    moved = {n: torch.complex(x.detach(), STEP * u[n]) if n in u else _complex(x.detach()) for n, x in own.items()}
    values = {n: z.requires_grad_(own[n].requires_grad) for n, z in moved.items()}
    continuation = _continuation()
    try:
        with torch.enable_grad(), continuation:  # the output that is explained may be chosen by `requires_grad`
            made = replay.computation.output(values)
    except GradexplainError as fault:
        message = str(fault.__cause__ or fault).split("\n", 1)[0]
        failure = Unable("complex_failed", {"message": message})
        return continuation.refusal or failure
    lifted: Tensor = _complex(made.detach())
    return continuation.refusal or lifted


def _continuation() -> Any:
    """Returns a mode under which an operator that meets complex numbers must be one that continues its real self."""
    base: Any = internals().dispatch_mode

    class Continuation(base):  # type: ignore[misc]  # the base class is not typed
        refusal: Unable | None = None

        def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            keywords = kwargs or {}
            if not any(t.is_complex() for t in _tensors([*args, *keywords.values()])):
                return operator(*args, **keywords)
            if operator is torch.ops.aten.detach.default:  # where the gradient was stopped, the step stops, too
                return torch.complex(args[0].real, torch.zeros_like(args[0].real))
            if not _continues(operator, args, keywords):
                self.refusal = Unable("not_analytic", {"operator": str(operator)})
                raise ArithmeticError(operator)
            return operator(*_complex(args), **_complex(keywords))

    return Continuation()


def _continues(operator: Any, args: Sequence[Any], keywords: Mapping[str, Any]) -> bool:
    """What runs without recording has a gradient of the user's own making; a real tensor has no room for ih."""
    name, into = _name(operator), args[0] if operator._schema.is_mutable else None
    real = isinstance(into, Tensor) and not into.is_complex()
    cast = any(isinstance(v, torch.dtype) and v != torch.float64 for v in keywords.values())
    if name not in ANALYTIC or not torch.is_grad_enabled() or real or cast:
        return False
    return name not in CONDITIONS or CONDITIONS[name](*args, **keywords)


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _complex(value: Any) -> Any:
    """Returns a value with its floating tensors as complex ones: most operators want their arguments of one type."""
    if value is torch.float64:
        return torch.complex128
    if isinstance(value, Tensor):
        return value.to(torch.complex128) if value.is_floating_point() else value
    if type(value) in (list, tuple):
        return type(value)(_complex(v) for v in value)
    return {k: _complex(v) for k, v in value.items()} if type(value) is dict else value


# --------------------------------------------------------------------------------------------------------- the verdict


def _check(question: Question, name: str, slope: _Slope | Unable, joint: int) -> Check:
    if isinstance(slope, Unable):
        return Check(ORACLE, name, "cannot say", reason=slope.reason, data=slope.data)
    worst, resolution = abs(slope.step - slope.claim), slope.bound / question.scale(name)
    data: dict[str, object] = {"seen": slope.claim, "right": slope.step, "resolution": resolution, "joint": joint}
    verdict, reason = _verdict(question, name, worst <= slope.bound, resolution)
    return Check(ORACLE, name, verdict, worst, slope.bound, resolution, reason, data)


def _verdict(question: Question, name: str, explained: bool, resolution: float) -> tuple[Verdict, str | None]:
    if not math.isfinite(resolution):
        return "cannot say", "coarse"
    if not explained:
        return "differs", "complex_slope"
    return ("agrees", None) if resolution <= RESOLUTION else ("cannot say", question.blur(name))
