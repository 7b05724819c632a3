"""By hand: a gradient that the user wrote down, evaluated in float64, and what an error in it looks like."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from gradexplain.oracles.question import (
    RESOLUTION,
    Check,
    Question,
    allowance,
    epsilon,
    index_of,
    largest,
    plain,
    scales,
    unexplained,
    wide,
)

ORACLE = "by hand"


def ask(question: Question) -> Iterator[Check]:
    """Compares each gradient that was written by hand with torch's."""
    for name, formula in question.by_hand.items():
        if name in question.names:
            yield _check(question, name, formula)


def _check(question: Question, name: str, formula: Callable[..., Any]) -> Check:
    torchs = wide(question.gradient(name))
    values = {n: wide(t) for n, t in question.judged.inputs.items()}
    try:
        written = torch.as_tensor(_evaluated(formula, values), dtype=torchs.dtype)
    except Exception as fault:  # the user's own formula: its failure is reported, not raised
        return Check(ORACLE, name, "cannot say", reason="hand_failed", data={"message": str(fault).split("\n", 1)[0]})
    hand = _shaped(written, torchs)
    if hand is None:
        data = {"seen": tuple(torchs.shape), "hand_shape": tuple(written.shape)}
        return Check(ORACLE, name, "differs", reason="hand_shape", data=data)
    return _compared(question, name, formula, values, torchs, hand)


def _compared(
    question: Question,
    name: str,
    formula: Callable[..., Any],
    values: Mapping[str, Tensor],
    torchs: Tensor,
    hand: Tensor,
) -> Check:
    eps = epsilon(question.judged)
    difference, magnitude = (hand - torchs).abs(), torch.maximum(hand.abs(), torchs.abs())
    beyond = unexplained(difference, 0.0, magnitude, eps)
    changes: Tensor | float = 0.0
    if bool(beyond.any()):
        changes = _change(question, name, formula, values, hand, eps)
        beyond = unexplained(difference, changes, magnitude, eps)
    bound = allowance(changes, magnitude, eps)
    worst, most = largest(difference), largest(bound)
    resolution = largest(bound * scales(question.judged.inputs[name])) / question.scale(name)
    if bool(beyond.any()):
        reason, data, place = _pattern(torchs, hand, beyond, difference, bound)
        return Check(ORACLE, name, "differs", worst, most, resolution, reason, data, place)
    if not bool(hand.isfinite().all()):
        return Check(ORACLE, name, "cannot say", worst, most, resolution, "hand_not_finite")
    coarse = not resolution <= RESOLUTION
    data = {"resolution": resolution}
    return Check(
        ORACLE,
        name,
        "cannot say" if coarse else "agrees",
        worst,
        most,
        resolution,
        question.blur(name) if coarse else None,
        data,
    )


def _evaluated(formula: Callable[..., Any], values: Mapping[str, Tensor]) -> Any:
    """Calls a formula with the inputs that it asks for: those in its `inputs`, or the names of its parameters."""
    wanted: Sequence[str] | None = getattr(formula, "inputs", None)
    if wanted is None:
        parameters = inspect.signature(formula).parameters.values()
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return formula(**values)
        wanted = [p.name for p in parameters if p.name in values or p.default is p.empty]
    return formula(**{n: values[n] for n in wanted})


def _shaped(written: Tensor, like: Tensor) -> Tensor | None:
    try:
        return written.expand(like.shape)
    except RuntimeError:
        return written.mT if written.dim() == 2 and written.mT.shape == like.shape else None


def _change(
    question: Question,
    name: str,
    formula: Callable[..., Any],
    values: Mapping[str, Tensor],
    hand: Tensor,
    eps: float,
) -> Tensor:
    """Returns what one rounding error of the inputs makes of both gradients."""
    moved = [_hand_at(formula, values, hand, 1 + eps), _hand_at(formula, values, hand, 1 - eps)]
    return torch.maximum(*((m - hand).abs().nan_to_num(0.0) for m in moved)) + question.rounding(name)


def _hand_at(formula: Callable[..., Any], values: Mapping[str, Tensor], hand: Tensor, factor: float) -> Tensor:
    moved = {n: t * factor if t.is_floating_point() else t for n, t in values.items()}
    try:
        shaped = _shaped(torch.as_tensor(_evaluated(formula, moved), dtype=hand.dtype), hand)
    except Exception:  # no number at a neighbouring point: no allowance from it
        return hand
    return hand if shaped is None else shaped


# ------------------------------------------------------------------------------------------------------- patterns


def _pattern(
    torchs: Tensor, hand: Tensor, beyond: Tensor, difference: Tensor, bound: Tensor
) -> tuple[str, dict[str, object], tuple[int, ...] | None]:
    """Returns what the error looks like: a factor, a sign, a transposed matrix, an added constant, or some elements."""
    position = int(beyond.flatten().int().argmax())
    place = index_of(position, torchs.shape)
    data: dict[str, object] = {
        "count": int(beyond.sum()),
        "total": beyond.numel(),
        "place": place,
        "seen": plain(torchs.flatten()[position]),
        "hand": plain(hand.flatten()[position]),
    }
    slack = 4 * bound + 1e-10 * torch.maximum(torchs.abs(), hand.abs())

    def near(one: Tensor, other: Tensor) -> bool:
        return bool(((one - other).abs() <= slack).all())

    if near(hand, -torchs):
        return "sign", data, place
    factor = _factor(torchs, hand)
    if factor is not None and near(hand, factor * torchs):
        return "factor", data | {"factor": _shown(factor), "ratio": factor}, place
    if torchs.dim() == 2 and torchs.shape[0] == torchs.shape[1] and near(hand.mT, torchs):
        return "transposed", data, place
    offset = plain((hand - torchs).flatten()[0])
    if torchs.numel() > 1 and near(hand, torchs + offset):
        return "offset", data | {"offset": offset}, place
    return "elements", data, place


def _factor(torchs: Tensor, hand: Tensor) -> float | None:
    """Returns hand / torch where that could be one number: at the largest element of torch's gradient."""
    if torchs.is_complex() or not bool(torchs.isfinite().all() & hand.isfinite().all()):
        return None
    position = int(torchs.abs().argmax())
    seen = float(torchs.flatten()[position])
    return float(hand.flatten()[position]) / seen if seen != 0.0 else None


def _shown(factor: float) -> str:
    simple = Fraction(factor).limit_denominator(1000)
    return str(simple) if abs(float(simple) - factor) <= 1e-10 * abs(factor) else f"{factor:.6g}"
