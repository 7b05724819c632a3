"""The function that torch differentiates: at the point it is what ran, and near it its slope is torch's gradient."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gradexplain.errors import RunError
from gradexplain.recording.branches import symmetric_steps, with_branches
from gradexplain.recording.computation import computation_of
from gradexplain.recording.frozen import Frozen, as_computation, frozen
from gradexplain.recording.join import Run
from gradexplain.recording.tracing import generic, record

POINT = torch.tensor([0.3, -1.2, 2.1, 0.7], dtype=torch.float64)
ROWS = torch.linspace(-2.0, 2.5, 20, dtype=torch.float64).reshape(5, 4).sin() * 1.5


class Softplus(torch.autograd.Function):
    """Right, and computed where torch does not look: under no_grad, by way of numpy."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.from_numpy((1 + x.detach().exp()).log().numpy())

    @staticmethod
    def backward(ctx, g):
        return g * torch.sigmoid(ctx.saved_tensors[0])


def _under_no_grad(x):
    with torch.no_grad():
        weight = 2 * x
    return x * weight


def _averaged(x):
    average = torch.zeros(4, dtype=x.dtype)
    with torch.no_grad():
        average.mul_(0.9).add_(x.mean(0), alpha=0.1)
    return (x - average) ** 2


def _edited(x):
    y = x * x
    y.data.mul_(0.5)
    return y * x


def _clamped(x):
    y = x * 3
    with torch.no_grad():
        y.clamp_(max=1.5)
    return y.sin()


def _written_in_parts(x):
    rows = torch.ones(3, 4, dtype=x.dtype)
    rows[1] = x * x
    rows[2, :2] = x[:2].sin()
    return (rows * rows).sum(0)


def _written_into_the_real_part(x):
    z = torch.complex(x, x.detach()) * (2 + 1j)
    z.real.mul_(3 * x)
    return z.abs()


def _conjugated(x):
    z = torch.complex(x.sin(), x.detach())
    return (z.conj() * (1 + 2j) * z).imag + (torch.outer(z, z).mH @ z).abs()


def _branching(x):
    return x**3 * x[0].item() if x.sum().item() > 0 else x


def _steps(x):
    w = x.clone()
    for _ in range(3):
        leaf = w.detach().requires_grad_()
        (slope,) = torch.autograd.grad((leaf**2).sum(), leaf)
        w = w - 0.1 * slope
    return w * x


STOPS = {
    "detach": lambda x: x * x.detach(),
    "no_grad": _under_no_grad,
    "item": lambda x: x**2 * x.sum().item(),
    "float": lambda x: x**2 / float(x.max()),
    "tolist": lambda x: sum(v * x for v in x.tolist()),
    "numpy": lambda x: x * torch.from_numpy(x.detach().numpy() ** 2),
    "copy": lambda x: x * torch.tensor([float(v) ** 2 for v in x], dtype=x.dtype),
    "new leaf": lambda x: nn.Parameter(x * 2) * x,
    "data": _edited,
    "write under no_grad": _clamped,
    "buffer": lambda x: _averaged(torch.outer(x, x)),
    "parts": _written_in_parts,
    "real part": lambda x: (torch.complex(x, x.detach()) ** 2).real,
    "pairs": lambda x: torch.view_as_complex(torch.outer(x, x)[:, :2].contiguous()).abs() * x.detach(),
    "write into the real part": _written_into_the_real_part,
    "conjugates": _conjugated,
    "negative": lambda x: torch.complex(x, x * x.detach()).conj().imag.exp(),
    "expanded": lambda x: x.expand(3, 4).sin().sum(0) * x.detach(),
    "branch": _branching,
    "inner steps": _steps,
    "straight through": lambda x: (x + (x.round() - x).detach()) ** 2,
    "softmax": lambda x: (x - x.max().detach()).exp(),
    "argmax": lambda x: x[x.argmax()] ** 2 + x.sum(),
    "dropout": lambda x: functional.dropout(x.sin(), 0.5) ** 2,
    "gumbel": lambda x: functional.gumbel_softmax(torch.outer(x, x), hard=True),
    "mask": lambda x: torch.outer(x, x).masked_fill(torch.outer(x, x) > 1, 0.5),
    "checkpoint": lambda x: torch.utils.checkpoint.checkpoint(lambda t: t.sin() * t.detach(), x, use_reentrant=False),
    "Function": lambda x: Softplus.apply(x * 2) * x,
    "penalty": lambda x: torch.autograd.grad((x**3).sum(), x, create_graph=True)[0] * x.detach(),
    "view and write": lambda x: (x * 1).view(2, 2).t().mul_(torch.ones(2, 2, dtype=x.dtype) * 3).sin(),
}

KINKS = {
    "relu": lambda x: x.relu() * 3 + x,
    "abs": lambda x: x.abs() * x.cos(),
    "clamp": lambda x: (x + 1).clamp(0, 1) * 2,
    "fmax": lambda x: torch.fmax(x, torch.zeros_like(x)) + x,
    "prelu": lambda x: functional.prelu(x, torch.tensor([0.25], dtype=x.dtype)),
    "hardtanh": lambda x: functional.hardtanh(x - 1) + x,
    "max": lambda x: x.max() + x.sum(),
    "amax": lambda x: x.amax() * x,
    "norm": lambda x: x.norm() + (x - x.detach()).norm(),
    "sort": lambda x: x.sort().values * torch.arange(1.0, 5.0, dtype=x.dtype),
    "two": lambda x: (x.relu() - x.abs()).relu() + x,
    "in place": lambda x: (x * 1).relu_() * 3 + x,
    "pool": lambda x: functional.max_pool1d(x[None], 2)[0] ** 2,
}


def _frozen(function, x: Tensor) -> tuple[Run, Frozen]:
    computation = computation_of(function, [x])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = record(computation, generic, again=True)
    return run, frozen(run, computation)


def _slope(function: Frozen, run: Run, direction: Tensor) -> float:
    """The slope of ⟨seed, G⟩ along a direction, by central differences with three extrapolations."""

    def pairing(h: float) -> float:
        ((name, x),) = run.inputs.items()
        return float((function.replayed({name: x.detach() + h * direction}) * run.seed).sum())

    rows = [[(pairing(h) - pairing(-h)) / (2 * h) for h in (4e-3, 2e-3, 1e-3, 5e-4)]]
    for power in (4, 16, 64):
        rows.append([(power * b - a) / (power - 1) for a, b in zip(rows[-1], rows[-1][1:], strict=False)])
    return rows[-1][0]


def _compared(function, x: Tensor, *, branches: bool = False) -> tuple[float, float, bool]:
    run, replayed = _frozen(function, x)
    ((name, gradient),) = run.gradients.items()
    assert gradient is not None
    direction = torch.tensor([1.0, -0.7, 0.6, 0.9], dtype=torch.float64)
    values = {name: run.inputs[name].detach()}
    same = torch.equal(replayed.replayed(values), run.output.detach())
    if branches:
        replayed = with_branches(replayed, values, {name: direction})
    return _slope(replayed, run, direction), float((gradient * direction).sum()), same


@pytest.mark.parametrize("name", STOPS)
def test_its_slope_is_the_gradient_that_torch_computes(name):
    slope, claim, same = _compared(STOPS[name], POINT)
    assert same
    assert slope == pytest.approx(claim, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", ["detach", "no_grad", "item", "float", "tolist", "new leaf", "data", "copy"])
def test_a_stop_makes_it_another_function_than_the_one_that_was_written(name):
    _, replayed = _frozen(STOPS[name], POINT)
    moved = {"x": POINT * 1.01}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = STOPS[name](moved["x"].clone().requires_grad_()).detach()
    assert not torch.allclose(replayed.replayed(moved), written, rtol=1e-6)


@pytest.mark.parametrize("name", KINKS)
def test_at_a_kink_it_goes_along_the_branch_that_torch_takes(name):
    tied = torch.tensor([0.0, 2.0, -1.0, 2.0], dtype=torch.float64)
    slope, claim, same = _compared(KINKS[name], tied, branches=True)
    assert same
    assert slope == pytest.approx(claim, rel=1e-9, abs=1e-12)


class WrongRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.relu()

    @staticmethod
    def backward(ctx, g):
        return g * torch.where(ctx.saved_tensors[0] >= 0, 1.5, 0.0)


def test_a_slope_that_no_side_of_a_kink_has_is_not_followed():
    slope, claim, _ = _compared(WrongRelu.apply, torch.zeros(4, dtype=torch.float64), branches=True)
    assert abs(slope - claim) > 0.3 * abs(claim)


def test_an_operator_that_reads_a_symmetric_matrix_follows_its_symmetric_change():
    """Cholesky reads one triangle; torch's gradient is shared between an element and its mirror image."""
    matrix, direction = torch.tensor([[[2.0, 0.3], [0.3, 1.0]], [[1.0, -0.7], [0.6, 0.9]]], dtype=torch.float64)
    run, replayed = _frozen(torch.linalg.cholesky, matrix)
    claim = float((next(iter(run.gradients.values())) * direction).sum())
    bent = dict(symmetric_steps(replayed, lambda operator: "cholesky" in str(operator)))
    assert _slope(replace(replayed, bent=bent), run, direction) == pytest.approx(claim, rel=1e-9)
    assert abs(_slope(replayed, run, direction) - claim) > 0.1 * abs(claim)


def test_a_wrong_backward_does_not_show_in_it():
    slope, claim, _ = _compared(lambda x: WrongRelu.apply(x) * x.detach(), POINT.abs())
    assert slope == pytest.approx(claim / 1.5, rel=1e-9)


def test_memory_that_no_operator_wrote_is_refused():
    def replaced(x):
        y = x * 2
        y.data = torch.ones_like(x)
        return y * x

    _, function = _frozen(replaced, POINT)
    with pytest.raises(RunError, match="memory"):
        function.replayed({"x": POINT})


def test_memory_that_numpy_wrote_shows_at_the_point_itself():
    def rewritten(x):
        y = x * 2
        y.detach().numpy()[0] = 7.0
        return y * x

    run, function = _frozen(rewritten, POINT)
    assert not torch.equal(function.replayed({"x": POINT}), run.output.detach())


def test_it_is_differentiated_by_forward_mode_as_it_is():
    _, function = _frozen(STOPS["detach"], POINT)
    computation = as_computation(computation_of(STOPS["detach"], [POINT]), function)
    tangent = torch.linspace(1, 2, 4, dtype=torch.float64)
    with torch.autograd.forward_ad.dual_level():
        made = computation.output({"x": torch._VF._make_dual(POINT, tangent, level=0)})
        carried = torch._VF._unpack_dual(made, level=0)[1]
    torch.testing.assert_close(carried, POINT * tangent)
