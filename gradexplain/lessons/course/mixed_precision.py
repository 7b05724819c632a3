"""What half precision loses of a gradient, how scaling the loss gets it back, and where that overflows."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from gradexplain.figures.parameters import Range
from gradexplain.lessons.computations import explained
from gradexplain.lessons.listings import attempt, run_listing
from gradexplain.lessons.measures import SINGLE, double, grad
from gradexplain.lessons.parts import Explained, Parts, Rows, claim, columns, exercise, section, text

_FACTORS = (1e-5, 1e-4)
_LOST = """
x = torch.tensor([1.], dtype=torch.float16, requires_grad=True)
(x * 1e-5 * 1e-4).sum().backward()
print(x.grad)
"""
_SCALED = """
x = torch.tensor([1.], dtype=torch.float16, requires_grad=True)
loss = (x * 1e-5 * 1e-4).sum()
(loss * scale).backward()
print(x.grad, x.grad.float() / scale)
"""
_SCALER = """
w = torch.tensor([1.], requires_grad=True)
optimizer = torch.optim.SGD([w], lr=1e6)
scaler = torch.amp.GradScaler("cpu", init_scale=65536.)
seen = []
for _ in range(3):
    optimizer.zero_grad()
    loss = (w.half() * 1e-5 * 1e-4).sum()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    seen.append((w.item(), scaler.get_scale()))
print(seen)
"""
_TYPES = (torch.float16, torch.bfloat16, torch.float32)
_HALF = torch.finfo(torch.float16)
_TINY = _HALF.smallest_normal * _HALF.eps


def lesson(*, power: Annotated[int, "The loss is scaled by 2 to this power.", Range(least=0, most=20)] = 15) -> Parts:
    """Yields the lesson."""
    yield from section("limits", _limits())
    yield from section("lost", _lost())
    yield from section("scaling", _scaling(power))
    yield from section("network", _network())
    yield from section("scaler", _scaler())
    yield from section("bfloat", _bfloat())
    gradient = math.prod(_FACTORS)
    yield exercise("ex-least", 2 ** math.floor(math.log2(_TINY / 2 / gradient) + 1), gradient=gradient)
    yield exercise("ex-most", 2 ** math.floor(math.log2(_HALF.max)))


def _rounded(x: float, dtype: torch.dtype = torch.float16) -> float:
    """Returns `x` as the type holds it: rounded to a multiple of the spacing there, half to even, or infinite."""
    if x in (0, math.inf):
        return x
    info = torch.finfo(dtype)
    spacing = info.eps * max(2.0 ** math.floor(math.log2(x)), info.smallest_normal)
    nearest = round(x / spacing) * spacing
    return nearest if nearest <= info.max else math.inf


# ------------------------------------------------------------------------------------------------------------- limits


def _limits() -> Parts:
    yield text("formats")
    infos = list(map(torch.finfo, _TYPES))
    rows = [(i.dtype, i.bits, i.smallest_normal * i.eps, i.smallest_normal, i.max, i.eps) for i in infos]
    yield (table := Rows(("type", "bits", "smallest", "normal", "largest", "spacing"), rows))
    by_bits = [torch.tensor(1, dtype=torch.int16).view(dtype).item() for dtype in _TYPES[:2]]
    yield claim("by-bits", by_bits, "=", table["smallest"][:2], "A38")
    around = [torch.tensor(factor * _TINY, dtype=torch.float16).item() for factor in (0.5, 0.51)]
    yield claim("half", around, "=", [0.0, _TINY], "A38", tiny=_TINY)
    yield text("mixed")


def _lost() -> Parts:
    true = math.prod(_FACTORS)
    tried = yield from attempt("true", _LOST, gradient=true)
    yield claim("zero", tried.names["x"].grad, "=", [_rounded(_rounded(_FACTORS[1]) * _FACTORS[0])], "A38")
    yield text("where")
    yield Explained(explained("x * 1e-5 * 1e-4", {"x": torch.tensor(1.0, dtype=torch.float16)}), ("backward",))
    yield claim("below", true, "<", _TINY / 2, "A38", limit=_TINY / 2)


# ------------------------------------------------------------------------------------------------------------ scaling


def _scaling(power: int) -> Parts:
    true = math.prod(_FACTORS)
    powers = sorted({0, 5, 10, 15, 16, power})
    yield from attempt("idea", _SCALED, {"torch": torch, "scale": 2.0**power}, scale=2**power)
    arrived = {p: run_listing(_SCALED, {"torch": torch, "scale": 2.0**p}).names["x"].grad.item() for p in powers}
    rows = [(2**p, g, g / 2**p, abs(g / 2**p - true) / true) for p, g in arrived.items()]
    yield text("all-scales")
    yield Rows(("scale", "arrives", "divided", "error"), rows)
    # float16 rounds three times: the scale that enters, and both products.
    foretold = [_rounded(_rounded(_rounded(2.0**p) * _FACTORS[1]) * _FACTORS[0]) for p in powers]
    yield claim("foretold", list(arrived.values()), "=", foretold, "A38")
    best = rows[powers.index(15)]
    # Half a spacing at the end, among the subnormal numbers, and half an eps for each rounding before.
    yield claim("recovered", best[3], "<", _TINY / 2 / best[1] + _HALF.eps, "A38", scale=best[0], gradient=best[2])
    over = rows[powers.index(16)]
    yield claim("overflow", over[1], "=", _rounded(float(over[0])), "A38", scale=over[0], largest=_HALF.max)


def _network() -> Parts:
    gradient, scales = _gradients(), [2**p for p in (0, 10, 20, 30, 36)]
    size = gradient.abs()
    kinds = [_kinds((gradient * s).half()) for s in scales]
    yield text("spread", count=len(gradient), least=size.min(), middle=size.median(), most=size.max())
    yield from _histogram(gradient)
    yield text("scaled-up")
    rows = [(s, *f) for s, f in zip(scales, kinds, strict=True)]
    yield Rows(("scale", "zeros", "subnormal", "normal-share", "infinite"), rows)
    # A kind begins half a spacing below its smallest number; from half a spacing above the largest, all is infinite.
    limits = [_TINY / 2, _HALF.smallest_normal - _TINY / 2, _HALF.max * (1 + _HALF.eps / 4)]
    bounds = double(limits)
    counts = [torch.bucketize(size.double() * s, bounds).bincount(minlength=4).tolist() for s in scales]
    yield claim("shares", kinds, "=", counts, "A38")
    yield text("choose")


def _histogram(gradient: Tensor) -> Parts:
    """The gradients by size, two powers of two in a row, in rows that end where float16 begins to hold something."""
    size = gradient.double().abs()
    powers = size[size > 0].log2().ceil().long()
    limit = round(math.log2(_TINY / 2))  # what is no larger is zero
    rows = [-(-(int(p) - limit) // 2) for p in powers.tolist()]
    counted = {row: rows.count(row) for row in range(min(rows), max(rows) + 1)}
    each = max(counted.values()) / 30
    yield Rows(
        ("up-to", "gradients", "share", "becomes"),
        [
            (2.0 ** (limit + 2 * row), n, "█" * math.ceil(n / each), text("zeros" if row <= 0 else "subnormal"))
            for row, n in counted.items()
        ],
    )
    below = sum(n for row, n in counted.items() if row <= 0) + len(size) - len(rows)
    yield claim("below-limit", below, "=", int((gradient.half() == 0).sum()), "A38", limit=2.0**limit)
    normal = int((gradient.half().abs() >= _HALF.smallest_normal).sum())
    yield claim("none-normal", normal, "=", 0, "A38", normal=_HALF.smallest_normal)


def _gradients() -> Tensor:
    """Returns all gradients of a small network in float32, whose loss is small as it is late in training."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32, 16, generator=generator)
    weights = [torch.randn(s, generator=generator).div(4).requires_grad_() for s in ((16, 64), (64, 64), (64, 1))]
    h = torch.tanh(torch.tanh(x @ weights[0]) @ weights[1]) @ weights[2]
    loss = (1e-3 * h).pow(2).mean()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])


def _kinds(half: Tensor) -> list[int]:
    """Returns how many numbers are zero, subnormal, normal, and infinite."""
    size = half.abs()
    zero, infinite, small = size == 0, size.isinf(), size < _HALF.smallest_normal
    return [int(mask.sum()) for mask in (zero, small & ~zero, ~small & ~infinite, infinite)]


# -------------------------------------------------------------------------------------------------- scaler, bfloat16


def _scaler() -> Parts:
    tried = yield from attempt("automatic", _SCALER)
    weights, scales = zip(*tried.names["seen"], strict=True)
    first = 65536.0
    # Half the scale after an overflow, and no step; then steps with the gradient of float16, divided in float32.
    gradient = _rounded(_rounded(_rounded(first / 2) * _FACTORS[1]) * _FACTORS[0]) / (first / 2)
    yield claim("halved", list(scales), "=", [first / 2] * 3, "A38", first=first)
    steps = [1.0, 1 - 1e6 * gradient, 1 - 2 * 1e6 * gradient]
    # some roundings of float32 of numbers of size 1
    yield claim("skipped", list(weights), "≈", steps, "A38", within=4 * SINGLE)
    yield text("grows", interval=tried.names["scaler"].get_growth_interval())


def _bfloat() -> Parts:
    true = math.prod(_FACTORS)
    gradients, updates = [], []
    for dtype in _TYPES:
        x = torch.tensor(1.0, dtype=dtype, requires_grad=True)
        (x * _FACTORS[0] * _FACTORS[1]).backward()
        gradients.append(grad(x).item())
        updates.append((x.detach() - 0.001).item())
    yield text("range")
    names = [torch.finfo(dtype).dtype for dtype in _TYPES]
    yield columns({"type": names, "gradient": gradients, "update": updates})
    wide = torch.finfo(torch.bfloat16).eps
    yield claim("kept", abs(gradients[1] - true) / true, "<", 2 * wide, "A38", spacing=wide)
    yield claim("coarse", updates[:2], "=", [_rounded(1 - 0.001, dtype) for dtype in _TYPES[:2]], "A38",
                bfloat=updates[1])  # fmt: skip
    yield text("so")
