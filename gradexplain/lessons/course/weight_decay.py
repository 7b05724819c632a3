"""The L2 term as it is often coded: its gradient, SGD's and AdamW's weight decay, its accumulator, and the biases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from gradexplain.api import explain
from gradexplain.figures.parameters import Range
from gradexplain.lessons.listings import attempt, run_listing
from gradexplain.lessons.measures import EPS, SINGLE, double, gradient, stepped, trained
from gradexplain.lessons.parts import Explained, Parts, Rows, claim, exercise, section, text

_AS_WRITTEN = """
def l2_regularization(model, lambda_reg):
    l2_loss = torch.tensor(0.)
    for param in model.parameters():
        l2_loss += torch.sum(param**2)
    return lambda_reg * l2_loss
"""
_ONE_LINE = """
def l2_penalty(model, lambda_reg):
    return lambda_reg * sum(p.abs().square().sum() for p in model.parameters())
"""
_GROUPS = """
weights = [p for p in model.parameters() if p.ndim > 1]
others = [p for p in model.parameters() if p.ndim <= 1]
optimizer = torch.optim.SGD(
    [{{"params": weights, "weight_decay": {decay}}}, {{"params": others, "weight_decay": 0}}], lr={lr}
)
"""
_PROOF = """
import sympy

w, g, lr, strength = sympy.symbols("w g lr lambda", real=True)
with_term = w - lr * (g + sympy.diff(strength * w**2, w))
weight_decay = 2 * strength
built_in = w - lr * (g + weight_decay * w)
difference = sympy.expand(with_term - built_in)
print(difference)
"""

Penalty = Callable[[nn.Module, float], Tensor]
Optimiser = Callable[[Any], torch.optim.Optimizer]


def lesson(
    *,
    strength: Annotated[float, "λ of the L2 term.", Range(least=0.001, most=0.5)] = 0.01,
    lr: Annotated[float, "The learning rate.", Range(least=0.001, most=0.2)] = 0.1,
    steps: Annotated[int, "Steps of the optimisers.", Range(least=1, most=50)] = 5,
) -> Parts:
    """Yields the lesson."""
    penalty: Penalty = run_listing(_AS_WRITTEN).names["l2_regularization"]
    yield from section("as-written", _gradients(penalty, strength))
    yield from section("sgd", _sgd(penalty, strength, lr, steps))
    yield from section("adam", _adam(penalty, strength, lr, steps))
    yield from section("accumulator", _accumulator(penalty, strength))
    yield from section("which", _which(penalty, strength, lr))
    yield exercise("ex-decay", 2 * strength, digits=4, strength=strength)
    yield exercise("ex-adamw", (1 - lr * 2 * strength) ** 2, digits=4, lr=lr, decay=2 * strength)


def _model(dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
    """Returns a small network, the same each time; its activation and normalisation keep gradients of order one."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)


def _penalised(penalty: Penalty, strength: float, model: nn.Module) -> dict[str, Tensor]:
    """Returns the gradient of the penalty alone by parameter."""
    penalty(model, strength).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def _by_rule(model: nn.Module, strength: float) -> dict[str, Tensor]:
    """Returns 2λw in double precision, or its complex counterpart."""
    return {name: 2 * strength * _wide(p) for name, p in model.named_parameters()}


def _wide(x: Tensor) -> Tensor:
    return x.detach().to(torch.complex128 if x.is_complex() else torch.float64)


def _farthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((_wide(one[name]) - _wide(other[name])).abs().max()) for name in one)


def _largest(tensors: dict[str, Tensor]) -> float:
    return max(float(_wide(t).abs().max()) for t in tensors.values())


# --------------------------------------------------------------------------------------------------------- as written


def _gradients(penalty: Penalty, strength: float) -> Parts:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0]]))
        model.bias.copy_(torch.tensor([3.0]))
    explanation = explain(lambda: penalty(model, strength), {}, target="l2_regularization(model, lambda_reg)")
    yield from attempt("the-code", _AS_WRITTEN)
    yield text("small", strength=strength)
    yield Explained(explanation, ("backward",))
    measured = [g.flatten() for g in explanation.gradients.values() if g is not None]
    # In float32 λ and one product are rounded, each by half an ε of the result.
    within = SINGLE * 2 * strength * 3
    expected = [[2 * strength * w for w in (1.0, -2.0)], [2 * strength * 3.0]]
    yield claim("two-lambda-w", measured, "≈", expected, "B29", within=within, strength=strength)
    larger = _model()
    away = _farthest(_penalised(penalty, strength, larger), _by_rule(larger, strength))
    # The accumulator and with it λ are float32, see below.
    size = _largest(_by_rule(larger, strength))
    yield claim("larger", away / size, "≈", 0.0, "B29", within=SINGLE, size=size)


# ----------------------------------------------------------------------------------------------------------- optimisers


def _data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 3, dtype=torch.float64, generator=generator)
    return x, torch.randn(8, 2, dtype=torch.float64, generator=generator)


def _trained(
    optimiser: Optimiser, steps: int, penalty: Callable[[nn.Module], Tensor] | None = None
) -> dict[str, Tensor]:
    """Returns the parameters of a linear model after so many steps on the same data."""
    torch.manual_seed(0)
    model, (x, t) = nn.Linear(3, 2).double(), _data()

    def loss() -> Tensor:
        return nn.functional.mse_loss(model(x), t) + (0 if penalty is None else penalty(model))

    trained(optimiser(model.parameters()), loss, steps)
    return {name: p.detach() for name, p in model.named_parameters()}


def _precise(strength: float) -> Callable[[nn.Module], Tensor]:
    """Returns the penalty in the model's own precision."""
    return lambda model: strength * torch.stack([(p**2).sum() for p in model.parameters()]).sum()


def _sgd(penalty: Penalty, strength: float, lr: float, steps: int) -> Parts:
    decay = 2 * strength
    term = _trained(lambda p: torch.optim.SGD(p, lr=lr), steps, _precise(strength))
    built_in = _trained(lambda p: torch.optim.SGD(p, lr=lr, weight_decay=decay), steps)
    halved = _trained(lambda p: torch.optim.SGD(p, lr=lr, weight_decay=strength), steps)
    coded = _trained(lambda p: torch.optim.SGD(p, lr=lr), steps, lambda model: penalty(model, strength))
    yield text("by-hand", decay=decay, steps=steps, lr=lr)
    away = {"weight_decay = 2λ": _farthest(term, built_in), "weight_decay = λ": _farthest(term, halved)}
    yield Rows(("compared", "farthest"), list(away.items()))
    # Both compute w − lr·(g + 2λw) and differ in the order of rounding alone: some twenty roundings a step, of numbers
    # no larger than 4. A step does not enlarge what is there: lr times the largest curvature is less than 2.
    bound = steps * 20 * 4 * EPS
    yield claim("curvature", lr * _largest_curvature(strength), "<", 2.0, "B29")
    yield claim("same", _farthest(term, built_in), "≈", 0.0, "B29", within=bound, decay=decay)
    yield claim("half-differs", _farthest(term, halved), ">", 1000 * bound, "B29", "B31", decay=strength, bound=bound)
    proof = yield from attempt("equal-steps", _PROOF)
    yield claim("difference-zero", proof.names["difference"], "=", "0", "B29")
    # In the code as written λ and the sum are float32: 2λ is wrong by half an ε of float32, in every step.
    single = bound + steps * lr * decay * 2.0**-24 * 4
    yield claim("coded-same", _farthest(coded, built_in), "≈", 0.0, "B29", "B30", within=single)


def _largest_curvature(strength: float) -> float:
    """Returns the greatest eigenvalue of the Hessian of loss and penalty, the same for each output, from the data."""
    x, _ = _data()
    columns = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    return float(torch.linalg.eigvalsh(columns.T @ columns)[-1] * 2 / (2 * len(x)) + 2 * strength)


def _adam(penalty: Penalty, strength: float, lr: float, steps: int) -> Parts:
    decay, w = 2 * strength, double([4.0, 1.0, -0.25])
    slopes = gradient(lambda w: strength * (w**2).sum(), w)
    nothing = torch.zeros_like(w)
    eps = 1e-8
    moved = {
        "SGD + L2": stepped(lambda p: torch.optim.SGD(p, lr=lr), w, slopes),
        "Adam + L2": stepped(lambda p: torch.optim.Adam(p, lr=lr, eps=eps), w, slopes),
        "Adam(weight_decay=2λ)": stepped(lambda p: torch.optim.Adam(p, lr=lr, eps=eps, weight_decay=decay), w, nothing),
        "AdamW(weight_decay=2λ)": stepped(lambda p: torch.optim.AdamW(p, lr=lr, weight_decay=decay), w, nothing),
    }
    yield text("one-step", w=w)
    yield Rows(("optimiser", "after", "change"), [(name, after, after - w) for name, after in moved.items()])
    gradients = [decay * e for e in w.tolist()]
    # Adam's first averages, freed of their bias, are g and g²; some ten roundings of numbers no larger than 4 follow.
    within = 10 * 4 * EPS
    by_adam = [e - lr * g / (abs(g) + eps) for e, g in zip(w.tolist(), gradients, strict=True)]
    yield claim("adam-sign", moved["Adam + L2"], "≈", by_adam, "B29", within=within, lr=lr)
    yield claim("adam-decay", moved["Adam(weight_decay=2λ)"], "≈", by_adam, "B29", within=within)
    factor = 1 - lr * decay
    decayed = [factor * e for e in w.tolist()]
    yield claim("adamw", moved["AdamW(weight_decay=2λ)"], "≈", decayed, "B29", within=within, factor=factor)
    yield claim("sgd-factor", moved["SGD + L2"], "≈", decayed, "B29", within=within)
    yield text("why-adam")
    term = _trained(lambda p: torch.optim.Adam(p, lr=lr), steps, _precise(strength))
    coupled = _trained(lambda p: torch.optim.Adam(p, lr=lr, weight_decay=decay), steps)
    decoupled = _trained(lambda p: torch.optim.AdamW(p, lr=lr, weight_decay=decay), steps)
    # Rounding moves g by about 1e-15, and Adam divides by its size, here above 1e-3, at every step.
    bound = steps * lr * 1e-12
    yield claim("adam-same", _farthest(term, coupled), "≈", 0.0, "B29", within=bound, steps=steps)
    yield claim("adamw-differs", _farthest(term, decoupled), ">", 1000 * bound, "B29", steps=steps)


# ---------------------------------------------------------------------------------------------------------- accumulator


def _tried(penalty: Penalty, strength: float, model: nn.Module) -> tuple[str, str, float | None, str]:
    """Returns the penalty's type, the error, how far the gradient is from 2λw, relative to that, and the message."""
    kind = "–"
    try:
        value = penalty(model, strength)
        kind = str(value.dtype).removeprefix("torch.") if isinstance(value, Tensor) else type(value).__name__
        value.backward()
    except (RuntimeError, AttributeError) as fault:
        return kind, type(fault).__name__, None, str(fault).split("\n", 1)[0]
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    rule = _by_rule(model, strength)
    return kind, "–", _farthest(gradients, rule) / _largest(rule), ""


def _cells(tried: dict[str, Any]) -> list[tuple[Any, ...]]:
    labels = {"empty": text("empty")}
    return [(labels.get(n, n), kind, error, "–" if off is None else off) for n, (kind, error, off, _) in tried.items()]


_KINDS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64)


def _accumulator(penalty: Penalty, strength: float) -> Parts:
    better = run_listing(_ONE_LINE)
    names = [str(kind).removeprefix("torch.") for kind in _KINDS]
    models = {name: nn.Linear(3, 2, dtype=kind) for name, kind in zip(names, _KINDS, strict=True)} | {
        "empty": nn.Tanh()
    }
    as_written = {name: _tried(penalty, strength, model) for name, model in models.items()}
    for model in models.values():
        model.zero_grad()
    one_line = {name: _tried(better.names["l2_penalty"], strength, model) for name, model in models.items()}
    yield text("starts-float32")
    yield Rows(("model", "result", "error", "gradient-off"), _cells(as_written))
    yield claim("always-float32", [as_written[name][0] for name in names[:4]], "=", ["float32"] * 4, "B30")
    off = as_written["float64"][2]
    assert off is not None
    exact = abs(float(torch.tensor(strength)) / strength - 1)
    # λ is rounded to float32 once; what follows is in double precision.
    yield claim("lambda-rounded", off, "≈", exact, "B30", within=4 * EPS, strength=strength)
    for key, name in (("complex-fails", "complex64"), ("empty-fails", "empty")):
        yield claim(key, as_written[name][1], "=", "RuntimeError", "B30", message=as_written[name][3])
    yield text("one-line")
    yield better
    yield Rows(("model", "result", "error", "gradient-off"), _cells(one_line))
    yield claim("own-type", [one_line[name][0] for name in names], "=", [*names[:4], "float32"], "B30")
    # Two products and λ itself, each rounded by half an ε of the type.
    units = [torch.finfo(kind).eps for kind in _KINDS]
    worst = [one_line[name][2] for name in names]
    yield claim("exact-enough", [w / u for w, u in zip(worst, units, strict=True) if w is not None], "<", 4.0, "B30")
    yield claim("no-tensor", one_line["empty"][:2], "=", ("float", "AttributeError"), "B30")
    with torch.device("meta"):
        elsewhere = nn.Linear(3, 2)
    yield text("other-devices")
    devices = [f(elsewhere, strength).device.type for f in (penalty, better.names["l2_penalty"])]
    yield claim("devices", devices, "=", ["cpu", "meta"], "B30", written=devices[0], one_line=devices[1])


# ---------------------------------------------------------------------------------------------------------- which ones


def _which(penalty: Penalty, strength: float, lr: float) -> Parts:
    model = _model(torch.float32)
    gradients, rule = _penalised(penalty, strength, model), _by_rule(model, strength)
    yield text("all-of-them")
    rows = [(name, list(p.shape), gradients[name].norm(), rule[name].norm()) for name, p in model.named_parameters()]
    yield (table := Rows(("parameter", "shape", "pulled", "by-rule"), rows))
    # In float32 λ and one product are rounded; the norm adds at most 12 squares.
    within = 8 * SINGLE * max(map(float, table["by-rule"]))
    yield claim("biases-too", table["pulled"], "≈", table["by-rule"], "B31", within=within)
    yield text("not-wanted")
    yield from _half(strength)
    names = {"model": model, "torch": torch}
    model.zero_grad()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    ran = yield from attempt("groups", _GROUPS.format(decay=2 * strength, lr=lr), names)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    ran.names["optimizer"].step()
    after = dict(model.named_parameters())
    ratios = {name: _ratio(after[name].detach(), before[name]) for name in before}
    yield Rows(("parameter", "multiplied"), list(ratios.items()))
    factor = 1 - lr * 2 * strength
    matrices = [ratios[name] for name, p in before.items() if p.ndim > 1]
    changes = [(after[name].detach() - p).abs().max() for name, p in before.items() if p.ndim <= 1]
    # Three operations in float32.
    yield claim("matrices-decay", matrices, "≈", [factor] * len(matrices), "B31", within=4 * SINGLE)
    yield claim("vectors-stay", changes, "=", [0.0] * len(changes), "B31")


def _ratio(after: Tensor, before: Tensor) -> float:
    """Returns by what a tensor was multiplied, or 1 where it is 0 before and after."""
    size = float((_wide(before) ** 2).sum())
    return float((_wide(after) * _wide(before)).sum()) / size if size else 1.0 + float(after.norm())


def _half(strength: float) -> Parts:
    w = double([3.0])
    by_sgd = stepped(lambda p: torch.optim.SGD(p, lr=1.0, weight_decay=strength), w, torch.zeros_like(w))
    pulls = {
        "λ·w²": gradient(lambda w: strength * w**2, w).item(),
        "½·λ·w²": gradient(lambda w: strength * w**2 / 2, w).item(),
        "SGD(weight_decay=λ)": 3.0 - by_sgd.item(),
    }
    yield text("half")
    yield Rows(("term", "gradient"), list(pulls.items()))
    expected = [2 * strength * 3.0, strength * 3.0, strength * 3.0]
    # The last is the difference of two numbers near 3.
    yield claim("convention", list(pulls.values()), "≈", expected, "B31", within=8 * EPS, w=3.0)
