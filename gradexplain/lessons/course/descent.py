"""Gradient descent on x² + 2x: every step against the closed form, with a bound for what rounding can do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch

from gradexplain.figures.parameters import Range
from gradexplain.lessons.listings import attempt
from gradexplain.lessons.measures import SINGLE, grad, gradient, stepped
from gradexplain.lessons.parts import Drawn, Parts, Rows, claim, columns, exercise, section, text

_WRITTEN = """
x = torch.tensor([1.0], requires_grad=True)
optimizer = torch.optim.SGD([x], lr=0.1)

for _ in range(100):
    optimizer.zero_grad()
    y = x**2 + 2*x
    y.backward()
    optimizer.step()
"""
_FORGOTTEN = _WRITTEN.replace("    optimizer.zero_grad()\n", "")
_RATES = (0.1, 0.5, 0.99, 1.0, 1.01)
_SHOWN = 4
# Rounding to float32 changes a number by at most this part of it.
_U = SINGLE / 2
# The bounds are of first order in _U; this covers the rest.
_ROOM = 1.01


@dataclass(frozen=True)
class Walk:
    """A descent in float32: the points, and what stood in `.grad` at each step."""

    lr: float
    points: tuple[float, ...]
    held: tuple[float, ...]

    @property
    def steps(self) -> int:
        return len(self.points) - 1


def lesson(
    *,
    lr: Annotated[float, "The learning rate.", Range(1e-6, 1.9)] = 0.1,
    steps: Annotated[int, "How many steps.", Range(1, 500)] = 100,
    x0: Annotated[float, "Where the descent starts.", Range(-100, 100)] = 1.0,
) -> Parts:
    """Yields the lesson."""
    yield from section("written", _as_written())
    yield from section("formula", _closed(lr, steps, x0))
    yield from section("stall", _stalled(lr, x0))
    yield from section("rate", _rates(lr, steps, x0))
    yield from section("forgotten", _forgotten(lr, steps, x0))
    yield from section("squares", _squares(lr))
    yield exercise("ex-two", _exact(0.25, 1.0, 2), lr=0.25, steps=2, x0=1)
    yield exercise("ex-limit", _limit())


def _walk(lr: float, steps: int, x0: float, *, clear: bool = True) -> Walk:
    """Runs the loop with torch's optimiser in float32, as far as the numbers are finite."""
    x = torch.tensor([x0], requires_grad=True)
    optimizer = torch.optim.SGD([x], lr=lr)
    points, held = [x.item()], []
    for _ in range(steps):
        if clear:
            optimizer.zero_grad()
        (x**2 + 2 * x).backward()
        slope = grad(x).item()
        optimizer.step()
        if not math.isfinite(x.item()):
            break
        points.append(x.item())
        held.append(slope)
    return Walk(lr, tuple(points), tuple(held))


def _exact(lr: float, x0: float, k: int) -> float:
    """Returns x_k by mathematics: x + 1 is multiplied by 1 − 2lr in every step."""
    return -1 + (x0 + 1) * (1 - 2 * lr) ** k


def _bounds(walk: Walk) -> list[float]:
    """Returns, for each point, how far rounding can have carried it from the closed form.

    One step rounds the sum 2x + 2, the rate lr, their product and the difference: at most u·(3·lr·|g| + |x′|). What
    was wrong before is multiplied by |1 − 2lr|, as the distance itself is.
    """
    bounds, factor = [_U * abs(walk.points[0])], abs(1 - 2 * walk.lr)
    for g, x in zip(walk.held, walk.points[1:], strict=True):
        bounds.append(factor * bounds[-1] + _U * (3 * walk.lr * abs(g) + abs(x)))
    return [_ROOM * bound for bound in bounds]


def _limit() -> float:
    """Returns the learning rate below which the descent comes closer: two over the second derivative."""
    x = torch.zeros((), requires_grad=True)
    (slope,) = torch.autograd.grad(x**2 + 2 * x, x, create_graph=True)
    (bend,) = torch.autograd.grad(slope, x)
    return 2 / bend.item()


# ------------------------------------------------------------------------------------------------------- its sections


def _as_written() -> Parts:
    written = yield from attempt("tutorial", _WRITTEN)
    yield claim("silent", (written.fault, written.printed), "=", ("", ""), "A29")
    bound = _bounds(_walk(0.1, 100, 1.0))[-1]
    distance = written.names["x"].item() + 1
    yield claim("arrives", distance, "≈", _exact(0.1, 1.0, 100) + 1, "A29", within=bound)


def _closed(lr: float, steps: int, x0: float) -> Parts:
    walk = _walk(lr, steps, x0)
    yield text("derivation", lr=lr, factor=1 - 2 * lr)
    exact = [_exact(lr, x0, k) for k in range(walk.steps + 1)]
    rows = [
        (k, walk.points[k], walk.held[k], lr * walk.held[k], walk.points[k + 1] + 1, exact[k + 1] + 1)
        for k in _ends(walk.steps)
    ]
    yield Rows(("k", "x", "g", "move", "distance", "exact-distance"), rows)
    if walk.steps < steps:
        yield text("left", steps=walk.steps)
    slopes = [2 * x + 2 for x in walk.points[:-1]]
    yield claim("slopes", walk.held, "≈", slopes, "A29", within=_U * max(map(abs, slopes)))
    bounds = _bounds(walk)
    apart = [abs(x - e) / b for x, e, b in zip(walk.points, exact, bounds, strict=True) if b]
    yield claim("every-step", max(apart, default=0.0), "<", 1.0, "A29", steps=walk.steps, most=max(bounds))
    yield text("why-bound")


def _ends(steps: int) -> list[int]:
    """Returns the first and the last steps, which are shown."""
    return [k for k in range(steps) if k < _SHOWN or k >= steps - _SHOWN // 2]


def _stalled(lr: float, x0: float) -> Parts:
    walk = _walk(lr, 500, x0)
    pairs = zip(walk.points, walk.points[1:], strict=False)
    still = next((k for k, (a, b) in enumerate(pairs) if a == b), None)
    if still is None:
        yield text("never-still", steps=walk.steps, lr=lr)
        return
    x, move = walk.points[still], lr * abs(walk.held[still])
    spacing = float(np.spacing(np.float32(abs(x))))
    yield text("still", k=still, lr=lr)
    told = {"x": x, "distance": abs(x + 1), "spacing": spacing}
    # A move of just half the spacing may be rounded either way.
    yield claim("too-small", move, "<", _ROOM * spacing / 2, "A29", **told)
    yield claim("exact-goes-on", _exact(lr, x0, still) + 1, "≈", x + 1, "A29", within=_bounds(walk)[still], k=still)


def _rates(lr: float, steps: int, x0: float) -> Parts:
    rates = tuple(sorted({lr, *_RATES}))
    walks = [_walk(rate, steps, x0) for rate in rates]
    yield text("factor")
    ends, exact = [w.points[-1] for w in walks], [_exact(w.lr, x0, w.steps) for w in walks]
    signed = [1 - 2 * rate for rate in rates]
    regimes = [text(_regime(rate)) for rate in rates]
    yield columns({"lr": rates, "signed": signed, "size": list(map(abs, signed)), "end": ends, "exact": exact,
                   "regime": regimes})  # fmt: skip
    apart = [abs(a - b) / (_bounds(w)[-1] or 1) for a, b, w in zip(ends, exact, walks, strict=True)]
    yield claim("all-ends", max(apart), "<", 1.0, "A30", steps=steps)
    half = _walk(0.5, 1, x0)
    yield claim("half", half.points[-1] + 1, "≈", 0.0, "A30", within=_bounds(half)[-1], x0=x0)
    one = _walk(1.0, 2, x0)
    yield claim("swings", one.points, "≈", [x0, -2 - x0, x0], "A30", within=_bounds(one)[-1])
    yield text("limit")
    yield Drawn("figure", "descent", {"lr": rates, "steps": min(steps, 50), "start": float(x0)})


def _regime(lr: float) -> str:
    signed = 1 - 2 * lr
    if abs(signed) < 1:
        return "lands" if signed == 0 else "creeps" if signed > 0 else "jumps"
    return "oscillates" if abs(signed) == 1 else "flies"


def _forgotten(lr: float, steps: int, x0: float) -> Parts:
    tried = yield from attempt("without", _FORGOTTEN)
    walk = _walk(0.1, 100, 1.0, clear=False)
    end = tried.names["x"].item()
    yield claim("not-there", end, "≈", _pendulum(0.1, 1.0, 100), "A30", within=_pendulum_bound(walk), lr=0.1)
    yield text("why-pendulum")
    walk = _walk(lr, steps, x0, clear=False)
    distances = [abs(x + 1) for x in walk.points]
    half = max(len(distances) // 2, 1)
    yield Rows(("part", "largest"), [(text("first-half"), max(distances[:half])),
                                      (text("second-half"), max(distances[half:]))])  # fmt: skip
    expected = _pendulum(lr, x0, walk.steps)
    yield claim("pendulum", walk.points[-1], "≈", expected, "A30", within=_pendulum_bound(walk), lr=lr, k=walk.steps)


def _pendulum(lr: float, x0: float, k: int) -> float:
    """Returns x_k where nothing is cleared.

    With d = x + 1 the gradients add up, so d″ = d′ + (d′ − d) − 2lr·d′, whose roots have the product 1 and lie on the
    unit circle at the angles ±θ with cos θ = 1 − lr: d_k = d₀·(cos kθ − lr/sin θ · sin kθ), sin θ = √(lr(2 − lr)).
    """
    angle = 2 * math.asin(math.sqrt(lr / 2))  # acos(1 - lr), also where lr is small
    return -1 + (x0 + 1) * (math.cos(k * angle) - math.sqrt(lr / (2 - lr)) * math.sin(k * angle))


def _pendulum_bound(walk: Walk) -> float:
    """Returns how far rounding can have carried the last point where nothing is cleared.

    A step maps (d, G) to M(d, G) and rounds: G by u·(|g| + |G′|), the point as in `_bounds`. Each of these is carried
    on by a power of M, none of which is larger than the largest.
    """
    matrix = np.array([[1 - 2 * walk.lr, -walk.lr], [2.0, 1.0]])
    power, largest = np.eye(2), 1.0
    local = _U * abs(walk.points[0])
    for held, x, before in zip(walk.held, walk.points[1:], walk.points, strict=False):
        power = matrix @ power
        largest = max(largest, float(np.linalg.norm(power, 2)))
        slope = abs(2 * before + 2)
        local += _U * ((slope + abs(held)) * (1 + walk.lr) + 2 * walk.lr * abs(held) + abs(x))
    return _ROOM * largest * local


def _squares(lr: float) -> Parts:
    start = torch.tensor([1.0, 2.0, 3.0])
    after = stepped(lambda x: torch.optim.SGD(x, lr=lr), start, gradient(torch.square, start))
    yield text("same-law", lr=lr)
    expected = (1 - 2 * lr) * start.double()
    # As in `_bounds`: the rate, the product and the difference are rounded.
    within = _ROOM * _U * (2 * lr * 2 * 3 + float(expected.abs().max()))
    yield claim("shrinks", after, "≈", expected, "B27", within=within, factor=1 - 2 * lr, start=start)
