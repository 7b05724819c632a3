"""Verifying, measured beside torch's gradcheck: what is called wrong that is right, what is missed, and what it costs.

    .venv/bin/python scripts/bench.py verify                     # all of it, about a quarter of an hour on two cores
    .venv/bin/python scripts/bench.py verify --part operators    # one part
    .venv/bin/python scripts/bench.py verify --quick             # a small sample of each part
"""

from __future__ import annotations

import multiprocessing
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

import torch
from operator_database import Case, able_in, cases_of, left_out, operators
from planted import CONTROL, KINDS, Mutant, Target, mutants_of
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.autograd import gradcheck

Answer = tuple[str, tuple[str, ...]]
Checker = Callable[[Callable[..., Any], Sequence[torch.Tensor]], Answer]

# How many of an operator's samples are checked as they are; mutants are made of the first.
SAMPLES = 3
TYPES = (torch.float64, torch.float32, torch.bfloat16)
RIGHT, WRAPPED = "as it is", "wrapped, nothing planted"


# ---------------------------------------------------------------------------------------------------- the checkers


def by_gradcheck(fast: bool) -> Checker:
    """Returns torch's gradcheck as its users call it, with all defaults."""

    def ask(function: Callable[..., Any], inputs: Sequence[torch.Tensor]) -> Answer:
        passed = gradcheck(function, tuple(inputs), fast_mode=fast, raise_exception=False)
        return ("agrees" if passed else "differs"), ()

    return ask


def ours(function: Callable[..., Any], inputs: Sequence[torch.Tensor]) -> Answer:
    """Asks gradexplain; what kept it from agreeing is noted, a reason for each oracle."""
    from gradexplain.computation import computation_of
    from gradexplain.tracing import trace
    from gradexplain.verification import verify_trace

    def joined(*given: torch.Tensor) -> torch.Tensor:
        found = function(*given)
        return torch.cat([y.flatten() for y in found]) if isinstance(found, tuple) else found

    computation = computation_of(joined, list(inputs))
    output = computation.output({})
    generator = torch.Generator().manual_seed(77)
    cotangent = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
    report = verify_trace(trace(computation, cotangent=cotangent), computation)
    if report.verdict == "agrees":
        return "agrees", ()
    notes = [f"{c.input} {c.oracle}: {c.verdict} {c.reason} worst={c.worst} bound={c.bound} res={c.resolution} {dict(c.data)}" for c in report.checks]
    return report.verdict, tuple(notes)


CHECKERS: Mapping[str, Checker] = {
    "gradcheck slow": by_gradcheck(fast=False),
    "gradcheck fast": by_gradcheck(fast=True),
    "gradexplain": ours,
}


# --------------------------------------------------------------------------------------------- the operators' part


@dataclass(frozen=True)
class Outcome:
    """What one checker said of one case, and how long it took."""

    operator: str
    number: int
    kind: str
    dtype: torch.dtype
    checker: str
    verdict: str
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Survey:
    """What came of one operator: outcomes, or why there are none; and mutants that would have changed nothing."""

    operator: str
    outcomes: Sequence[Outcome] = ()
    without: str = ""
    equivalent: Sequence[str] = field(default=())


def surveyed(name: str, types: Sequence[torch.dtype] = TYPES, kinds: Iterable[str] = KINDS) -> Survey:
    """Asks every checker about an operator's cases as they are, and about its mutants."""
    op = operators()[name]
    if left_out(op):
        return Survey(name, without="torch's own gradient test skips it, or expects it to fail")
    try:
        cases = cases_of(name)
        mutants = dict(mutants_of(cases)) if cases else {}
    except Exception as fault:
        return Survey(name, without=f"its samples do not run: {_line(fault)}")
    if not cases:
        return Survey(name, without="no sample is small, real and differentiable")
    asked: list[tuple[str, Case | Mutant]] = [(RIGHT, case) for case in cases[:SAMPLES]]
    asked.append((WRAPPED, Mutant(cases[0], WRAPPED, CONTROL, Target(0, 0))))
    asked += [(kind, mutant) for kind, mutant in mutants.items() if mutant is not None and kind in kinds]
    outcomes = [
        outcome
        for dtype in types
        if able_in(op, dtype)
        for kind, subject in asked
        for outcome in _asked(name, kind, subject.to(dtype), dtype)
    ]
    return Survey(name, outcomes, equivalent=[kind for kind, mutant in mutants.items() if mutant is None])


def _asked(name: str, kind: str, subject: Case | Mutant, dtype: torch.dtype) -> Iterator[Outcome]:
    case = subject.case if isinstance(subject, Mutant) else subject
    for checker, ask in CHECKERS.items():
        start = time.perf_counter()
        try:
            verdict, notes = ask(subject, subject.inputs)
        except Exception as fault:
            verdict, notes = "error", (_line(fault),)
        yield Outcome(name, case.number, kind, dtype, checker, verdict, time.perf_counter() - start, notes)


def _line(fault: BaseException) -> str:
    return f"{type(fault).__name__}: {fault}".split("\n", 1)[0]


def survey(names: Sequence[str], workers: int = 2) -> list[Survey]:
    """Surveys operators in `workers` processes of one thread each."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=prepare) as pool:
        tasks = [pool.submit(surveyed, name) for name in names]
        done = track(as_completed(tasks), "operators", len(tasks), console=Console(stderr=True), transient=True)
        return sorted((task.result() for task in done), key=lambda found: found.operator)


def prepare() -> None:
    """Makes a process ready: one thread, no warnings, and everything loaded that the first call would load."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for ask in CHECKERS.values():
        ask(lambda x: x.sin(), [torch.ones(2, dtype=torch.float64, requires_grad=True)])
