"""Where Σx² is met again: the mean squared error with its n, the L2 term, and what it does to parameters."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from gradexplain.api import explain, verify
from gradexplain.errors import InputError
from gradexplain.figures.parameters import Count, Range
from gradexplain.lessons.listings import attempt
from gradexplain.lessons.measures import EPS, curvatures, double, gradient, stepped, trained
from gradexplain.lessons.parts import Explained, Parts, Rows, claim, columns, exercise, section, text, verdict

_NONE = """
p = torch.tensor({p}, requires_grad=True)
t = torch.tensor({t})
loss = torch.nn.functional.mse_loss(p, t, reduction="none")
print(loss)
loss.backward()
"""
# Two inputs of which the second is nearly the first, so that the data alone hardly tell their weights apart.
_A = ((1, 1), (1, 2), (2, 2), (1, 0))
_B = (3, 5, 6, 1)
_STRENGTHS = (0, 1, 4, 16)
_STEPS = 400

_Numbers = tuple[float, ...]


def lesson(
    *,
    p: Annotated[_Numbers, "The predictions.", Range(-100, 100), Count(2, 6)] = (2.0, 3.0, 5.0),
    t: Annotated[_Numbers, "The targets, as many.", Range(-100, 100), Count(2, 6)] = (1.0, 1.0, 2.0),
    strength: Annotated[float, "λ, which weighs the L2 term.", Range(least=0.01, most=10)] = 0.5,
) -> Parts:
    """Yields the lesson."""
    if len(p) != len(t):
        raise InputError("parameter_count", name="t", seen=len(t), least=len(p), most=len(p))
    yield from section("mse", _mse(p, t))
    yield from section("reductions", _reductions(p, t))
    yield from section("term", _term(p, t, strength))
    yield from section("effect", _effect())
    yield from section("undecided", _undecided(strength))
    n = len(p)
    yield exercise("ex-mean", 2 * (p[0] - t[0]) / (4 * n), digits=4, p=p[0], t=t[0], batch=n, outputs=4)
    yield exercise("ex-shrink", (1 - 2 * 0.1 * strength) ** 2, digits=4, strength=strength, lr=0.1)


def _expected(p: Sequence[float], t: Sequence[float], n: int) -> list[float]:
    """Returns 2(p − t)/n, exact and then rounded once."""
    return [float(2 * (Fraction(a) - Fraction(b)) / n) for a, b in zip(p, t, strict=True)]


def _rounding(p: Sequence[float], t: Sequence[float]) -> float:
    """Returns what 2(p − t)/n may round by: the difference, the quotient 1/n and two products, each by half an ε."""
    return 4 * EPS * max(1e-300, *(abs(a - b) for a, b in zip(p, t, strict=True)))


# ------------------------------------------------------------------------------------------------- mean squared error


def _mse(p: Sequence[float], t: Sequence[float]) -> Parts:
    n = len(p)
    explanation = explain(lambda p, t: ((p - t) ** 2).mean(), {"p": double(p), "t": double(t)}, wrt="p", target="MSE")
    yield text("squares-again", n=n)
    yield Explained(explanation, ("forward", "backward"))
    yield claim("with-n", explanation.gradients["p"], "≈", _expected(p, t, n), "B26", within=_rounding(p, t), n=n)
    torchs = gradient(lambda p: mse_loss(p, double(t)), double(p))
    yield claim("mse-loss", torchs, "≈", _expected(p, t, n), "B26", within=_rounding(p, t))
    inputs = {"input": double(p), "target": double(t)}
    by_hand = {"input": lambda input, target: 2 * (input - target) / n}
    report = verify(mse_loss, inputs, wrt="input", by_hand=by_hand)
    yield text("verified")
    yield from verdict("verdict", report, "agrees", "B26")
    if any(_expected(p, t, n)):
        without = verify(mse_loss, inputs, wrt="input", by_hand={"input": lambda input, target: 2 * (input - target)})
        yield claim("without-n", without.verdict, "=", "differs", "B26")
    yield from _several(p, t)


def _several(p: Sequence[float], t: Sequence[float]) -> Parts:
    """A batch with several outputs: n is how many numbers there are, not how many examples."""
    batch, outputs = len(p), 4
    inputs, targets = (double(x)[:, None].repeat(1, outputs) for x in (p, t))
    slopes = gradient(lambda x: mse_loss(x, targets), inputs)
    numbers = batch * outputs
    yield text("which-n", batch=batch, outputs=outputs)
    column = _expected(p, t, numbers)
    yield claim("all-numbers", slopes[:, 0], "≈", column, "B26", within=_rounding(p, t), n=numbers, batch=batch)


def _reductions(p: Sequence[float], t: Sequence[float]) -> Parts:
    n = len(p)
    reductions = ("mean", "sum")
    losses = [partial(mse_loss, target=double(t), reduction=reduction) for reduction in reductions]
    slopes = [gradient(loss, double(p)) for loss in losses]
    yield text("two-reductions")
    yield columns({"reduction": reductions, "loss": [loss(double(p)) for loss in losses], "gradient": slopes})
    yield claim("sum-gradient", slopes[1], "≈", _expected(p, t, 1), "B26", within=_rounding(p, t))
    yield claim("n-times", slopes[1], "≈", n * slopes[0], "B26", within=n * _rounding(p, t), n=n)
    tried = yield from attempt("none", _NONE.format(p=list(map(float, p)), t=list(map(float, t))))
    yield claim("refused", tried.fault, "=", "RuntimeError", "B26")
    weights = [1.0] + [0.0] * (n - 1)
    weighed = gradient(lambda p: mse_loss(p, double(t), reduction="none"), double(p), double(weights))
    one = [e * w for e, w in zip(_expected(p, t, 1), weights, strict=True)]
    yield claim("weighed", weighed, "≈", one, "B26", within=_rounding(p, t), weights=weights)


# -------------------------------------------------------------------------------------------------------- the L2 term


def _term(p: Sequence[float], t: Sequence[float], strength: float) -> Parts:
    def loss(w: Tensor, t: Tensor) -> Tensor:
        return ((w - t) ** 2).mean() + strength * (w**2).sum()

    inputs = {"w": double(p), "t": double(t)}
    explanation = explain(loss, inputs, wrt="w", target="MSE + L2")
    (by_w,) = explanation.by_input
    yield text("added", strength=strength)
    yield Explained(explanation, ("gradients",))
    alone = gradient(lambda w: strength * (w**2).sum(), double(p))
    by_rule = [float(2 * Fraction(strength) * Fraction(w)) for w in p]
    # Two products, each rounded by half an ε of the result.
    size = 2 * strength * max(map(abs, p))
    yield claim("two-lambda-w", alone, "≈", by_rule, "B25", within=2 * EPS * size, strength=strength)
    assert by_w.value is not None
    both = [a + b for a, b in zip(_expected(p, t, len(p)), by_rule, strict=True)]
    yield claim("adds", by_w.value.tensor, "≈", both, "B25", within=4 * EPS * size + 2 * _rounding(p, t))
    yield claim("routes", len(by_w.uses), "=", 2, "B25")
    yield text("same-function")


# -------------------------------------------------------------------------------------------- what it does to weights


def _ridge(strength: float) -> list[Fraction]:
    """Returns the weights that minimise Σ(Aw − b)² + λΣw², from (AᵀA + λI)w = Aᵀb by Cramer's rule in fractions."""
    rows = list(zip(_A, _B, strict=True))
    (p, q, s) = (Fraction(sum(a[i] * a[j] for a in _A)) for i, j in ((0, 0), (0, 1), (1, 1)))
    (u, v) = (Fraction(sum(a[i] * b for a, b in rows)) for i in (0, 1))
    p, s = p + Fraction(strength), s + Fraction(strength)
    determinant = p * s - q * q
    return [(u * s - q * v) / determinant, (p * v - q * u) / determinant]


def _data_loss(w: Tensor) -> Tensor:
    return ((double(_A) @ w - double(_B)) ** 2).sum()


def _descended(strength: float) -> tuple[Tensor, float]:
    """Returns where gradient descent with SGD ends, and by which factor a step at least shrinks what is missing."""

    def loss(w: Tensor) -> Tensor:
        return _data_loss(w) + strength * (w**2).sum()

    low, high = curvatures(loss, double([0, 0]))
    w = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=float(2 / (low + high)))
    trained(optimizer, lambda: loss(w), _STEPS)
    return w.detach(), float((high - low) / (high + low))


def _effect() -> Parts:
    rows, bounds, factors = [], [], []
    for strength in _STRENGTHS:
        w, factor = _descended(strength)
        factors.append(factor)
        exact = _ridge(strength)
        size = max(map(abs, map(float, exact)))
        # What is missing shrinks by the factor each step; rounding, some εs a step, is shrunk by the next steps too.
        bounds.append(factor**_STEPS * 2 * size + 64 * EPS * size / (1 - factor))
        rows.append((strength, w, list(map(float, exact)), float(_data_loss(w)), w.norm()))
    yield text("ridge", steps=_STEPS)
    yield (table := Rows(("lambda", "descended", "exact", "data-loss", "norm"), rows))
    yield claim("descended-right", table["descended"], "≈", table["exact"], "B28", "B25", within=max(bounds))
    norms, losses = table["norm"], table["data-loss"]
    yield claim("shrinks", norms[1:], "<", norms[:-1], "B28")
    yield claim("price", losses[1:], ">", losses[:-1], "B28")
    yield claim("faster", factors[1:], "<", factors[:-1], "B28", factors=factors)
    yield text("not-to-zero")
    places = [1.0, 1e-3, 1e-6]
    pulls = [gradient(f, double(w)) for f in (torch.square, torch.abs) for w in places]
    yield columns({"weights": places, "pull-square": pulls[:3], "pull-absolute": pulls[3:]})
    yield claim("fades", pulls, "=", [2 * w for w in places] + [1.0] * 3, "B28", squares=pulls[:3], absolute=pulls[3:])
    sizes = [abs(e) for w in table["descended"] for e in w.tolist()]
    # what descent and rounding may leave of a weight that is zero in truth
    yield claim("never-zero", sizes, ">", max(bounds), "B28", least=min(sizes))


def _undecided(strength: float) -> Parts:
    """Two inputs that are always equal: only the sum of their weights matters to the data."""
    x, b = double([1, 2, 3]), double([2, 4, 6])

    def data(w: Tensor) -> Tensor:
        return ((x * w[0] + x * w[1] - b) ** 2).sum()

    def loss(w: Tensor) -> Tensor:
        return data(w) + strength * (w**2).sum()

    plain, regular = (curvatures(f, double([0, 0])) for f in (data, loss))
    equal = [[2.0, 0.0], [0.0, 2.0], [1.0, 1.0], [-3.0, 5.0]]
    rows = [(w, data(double(w)), loss(double(w))) for w in equal]
    yield text("twins")
    yield (table := Rows(("weights", "data-loss", "with-term"), rows))
    yield claim("data-silent", table["data-loss"], "=", [0.0] * len(rows), "B28")
    least = min(rows, key=lambda row: float(row[2]))
    yield claim("shares", least[0], "=", [1.0, 1.0], "B28", cost=least[2])
    # The eigenvalues of a matrix of size 4Σx² + 2λ are found to some roundings of that size.
    within = 16 * EPS * float(4 * (x**2).sum() + 2 * strength)
    yield claim("flat", plain[0], "≈", 0.0, "B28", within=within)
    yield claim("curved", regular[0], "≈", 2 * strength, "B28", within=within, strength=strength)
    yield text("decided")
    step = 0.1
    w = double([1.0, -2.0])
    slopes = gradient(lambda w: strength * (w**2).sum(), w)
    after = stepped(lambda w: torch.optim.SGD(w, lr=step), w, slopes)
    factor = 1 - 2 * step * strength
    yield claim("one-step", after, "≈", [factor, -2 * factor], "B28", within=16 * EPS, lr=step, factor=factor)
