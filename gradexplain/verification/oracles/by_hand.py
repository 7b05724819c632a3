"""By hand: a gradient that the user wrote down, evaluated in float64."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradexplain.rules.application import wide
from gradexplain.verification.oracles.answers import Check
from gradexplain.verification.oracles.elements import RESOLUTION
from gradexplain.verification.oracles.measures import allowance, epsilon, largest, unexplained
from gradexplain.verification.oracles.patterns import beside, pattern
from gradexplain.verification.oracles.question import Question

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
        changes = _change(formula, values, hand, eps) + question.rounding(name)
        beyond = unexplained(difference, changes, magnitude, eps)
    vanished = (torchs == 0) & (hand != 0)
    if bool(vanished.any()):  # what rounding did to torch's 0 is no excuse for it
        own = _change(formula, values, hand, eps)
        beyond |= vanished & (hand.abs() > allowance(own, hand.abs(), eps))
    bound = allowance(changes, magnitude, eps)
    worst, most = largest(difference), largest(bound)
    resolution = largest(bound * question.units[name]) / question.scale(name)
    if bool(beyond.any()):
        tensors = {n: t for n, t in values.items() if t.is_floating_point()} | {"cotangent": question.judged.cotangent}
        recognised = pattern(beside(hand, torchs, 4 * bound, beyond, tensors=tensors), hand.shape)
        data = {**recognised.data, "seen": recognised.data["right"], "hand": recognised.data["seen"]}
        return Check(ORACLE, name, "differs", worst, most, resolution, recognised.kind, data, recognised.place)
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


def _change(formula: Callable[..., Any], values: Mapping[str, Tensor], hand: Tensor, eps: float) -> Tensor:
    """Returns what one rounding error of the inputs makes of a gradient by hand."""
    moved = [_hand_at(formula, values, hand, 1 + eps), _hand_at(formula, values, hand, 1 - eps)]
    return torch.maximum(*((m - hand).abs().nan_to_num(0.0) for m in moved))


def _hand_at(formula: Callable[..., Any], values: Mapping[str, Tensor], hand: Tensor, factor: float) -> Tensor:
    moved = {n: t * factor if t.is_floating_point() else t for n, t in values.items()}
    try:
        shaped = _shaped(torch.as_tensor(_evaluated(formula, moved), dtype=hand.dtype), hand)
    except Exception:  # no number at a neighbouring point: no allowance from it
        return hand
    return hand if shaped is None else shaped
