"""The gradient checkers that are measured side by side, each a function from a function and its inputs to an answer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import gradcheck

import gradexplain as gx
from gradexplain.verification.verdicts import Check, Report

OURS, SLOW, FAST = "gradexplain", "gradcheck slow", "gradcheck fast"


@dataclass(frozen=True)
class Answer:
    """A verdict and, where it is not "agrees", what it rests on in a few words."""

    verdict: str
    reasons: tuple[str, ...] = ()


Checker = Callable[[Callable[..., Any], Sequence[Tensor]], Answer]


def by_gradcheck(*, fast: bool) -> Checker:
    """Returns torch's gradcheck as its users call it: with every default."""

    def ask(function: Callable[..., Any], inputs: Sequence[Tensor]) -> Answer:
        passed = gradcheck(function, tuple(inputs), fast_mode=fast, raise_exception=False)
        return Answer("agrees" if passed else "differs")

    return ask


def by_us(function: Callable[..., Any], inputs: Sequence[Tensor]) -> Answer:
    """Asks `gradexplain.verify`, with every default."""
    report = gx.verify(function, list(inputs))
    return Answer(report.verdict, reasons(report))


def reasons(report: Report) -> tuple[str, ...]:
    """Returns what keeps a report from agreeing, as "oracle: reason", without repetition."""
    unsettled = [name for name in report.inputs if report.of(name) != "agrees"]
    found = [_weightiest([c for c in report.checks if c.input == name]) for name in unsettled]
    return tuple(dict.fromkeys(f"{c.oracle}: {c.reason}" for c in found))


def _weightiest(checks: Sequence[Check]) -> Check:
    """A check that differs; without, the first that says why it cannot judge (finite differences are asked first)."""
    return next(c for v in ("differs", "cannot say", "agrees") for c in checks if c.verdict == v)


CHECKERS: Mapping[str, Checker] = {SLOW: by_gradcheck(fast=False), FAST: by_gradcheck(fast=True), OURS: by_us}


def prepare() -> None:
    """Makes a process ready to measure: one thread, no warnings, and loaded what the first call would load."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # gradcheck warns of every type but float64
    for ask in CHECKERS.values():
        for function in (torch.sin, torch.sum):
            ask(function, [torch.ones(2, dtype=torch.float64, requires_grad=True)])
