"""The four claims with which the first tutorial ends, each tried out."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor, nn

from gradexplain.api import verify
from gradexplain.figures.parameters import Range
from gradexplain.lessons.contents import names
from gradexplain.lessons.listings import run_listing
from gradexplain.lessons.measures import EPS, Counted, forward_differences, grad, gradient, operators, trained
from gradexplain.lessons.parts import Other, Parts, Ran, Rows, Verified, claim, exercise, section, text

# Where each of the four is shown at length.
_LESSONS = {
    "simplifies": ("training-step", "accumulation"),
    "efficient": ("cost", "memory"),
    "optimises": ("descent", "gradient-flow"),
    "convenient": ("differentiable", "higher-derivatives"),
}
_ROOT = """
def root(a):
    x, before = a, 0 * a
    while abs(x - before) > 1e-12 * x:
        x, before = (x + a / x) / 2, x
    return x

y = root(a)
y.backward()
print(y.item(), a.grad.item())
"""
_STEP = 2.0**-20


def lesson(*, a: Annotated[float, "Whose square root is taken by a loop.", Range(1e-3, 1e6)] = 2.0) -> Parts:
    """Yields the lesson."""
    yield text("four")
    yield Rows(("claim", "lessons", "also"), [(text(key), *map(Other, names)) for key, names in _LESSONS.items()])
    yield claim("linked", _missing(), "=", [], "A39")
    yield from section("simplifies", _simplifies())
    yield from section("efficient", _efficient())
    yield from section("optimises", _optimises())
    yield from section("convenient", _convenient(a))
    yield exercise("ex-differences", _runs(50), n=50)
    yield exercise("ex-root", _slope_of_root(4.0), digits=6, a=4)


def _missing() -> list[str]:
    """Returns the lessons named above that there are not."""
    return sorted({name for own in _LESSONS.values() for name in own} - {*names()})


def _simplifies() -> Parts:
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1)]
    inputs, target = torch.tensor(pairs, dtype=torch.float32), torch.tensor([[float(p ^ q)] for p, q in pairs])
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))

    def loss(x: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(net(x), target)

    report = verify(loss, {"x": inputs}, target="loss(net(x), xor)")
    losses = trained(torch.optim.Adam(net.parameters(), lr=0.05), lambda: loss(inputs), 200)
    said = (net(inputs) > 0).int()[:, 0]
    size = sum(p.numel() for p in net.parameters())
    yield text("exclusive-or", size=size)
    rows = [(p, q, p ^ q, answer) for (p, q), answer in zip(pairs, said.tolist(), strict=True)]
    yield Rows(("p", "q", "wanted", "answered"), rows)
    yield claim("learnt", said, "=", [p ^ q for p, q in pairs], "A39", first=losses[0], last=losses[-1])
    yield Verified(report)
    parameters = [name for name in report.inputs if name != "x"]
    yield claim("covered", len(parameters), "=", len(list(net.parameters())), "A39")
    yield claim("verified", report.verdict, "=", "agrees", "A39", size=size)


def _efficient() -> Parts:
    rows, apart = [], []
    for n in (10, 100, 1000):
        x = torch.linspace(1, 2, n, dtype=torch.float64, requires_grad=True)
        counted, f = operators(_squares(x).backward), Counted(_squares)
        apart.append(float((grad(x) - forward_differences(f, x.detach(), _STEP)).abs().max()))
        rows.append((n, counted.total(), f.runs))
    yield text("any-number")
    yield (table := Rows(("inputs", "operators", "runs"), rows))
    yield claim("same-count", table["operators"], "=", table["operators"][:1] * len(rows), "A39")
    # A forward difference of x² is off by the step, and by the rounding of the sums, at most one eps a term, over it.
    n, largest = rows[-1][0], 4 * rows[-1][0]
    yield claim("all-slopes", max(apart), "<", _STEP + 2 * n * EPS * largest / _STEP, "A39", n=n)


def _squares(x: Tensor) -> Tensor:
    return torch.sum(x**2)


def _runs(n: int) -> int:
    """Returns how often the function runs for its slopes by forward differences."""
    f = Counted(_squares)
    forward_differences(f, torch.ones(n), _STEP)
    return f.runs


def _optimises() -> Parts:
    point = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
    start = point.tolist()
    optimizer = torch.optim.LBFGS(
        [point], max_iter=200, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = _valley(point)
        value.backward()
        return value

    optimizer.step(closure)
    runs = optimizer.state[point]["func_evals"]
    yield text("valley", start=start)
    # Near the minimum the distance is the gradient over the curvature, at least 0.39 there: below 3 gradients.
    within = 3 * float(gradient(_valley, point).norm()) + 8 * EPS
    yield claim("arrives", point.detach(), "≈", [1.0, 1.0], "A39", within=max(within, 1e-9), runs=runs)


def _valley(p: Tensor) -> Tensor:
    """Returns Rosenbrock's function, whose minimum is at (1, 1)."""
    return (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2


def _convenient(a: float) -> Parts:
    ran = _rooted(a)
    yield text("loop", a=a)
    yield ran
    slope = ran.names["a"].grad.item()
    expected = 0.5 * a**-0.5
    # When the loop stops, x was already right to 1e-12, and what is wrong with the slope is of that order.
    yield claim("slope", slope, "≈", expected, "A39", within=4e-12 * expected)
    yield text("limits")


def _rooted(a: float) -> Ran:
    return run_listing(_ROOT, {"a": torch.tensor(a, dtype=torch.float64, requires_grad=True)})


def _slope_of_root(a: float) -> Any:
    return _rooted(a).names["a"].grad.item()
