"""What a verdict costs as the inputs grow, and whether one wrong entry among ten thousand is seen and named."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from checkers import CHECKERS, FAST, OURS, SLOW
from operator_database import case_of
from planted import Mutant, Target, element, spoiled
from rich.console import Console
from rich.progress import track
from sheets import Sheet
from torch import Tensor

import gradexplain as gx

SIZES = (10, 100, 1_000, 10_000)
# The full Jacobian of more outputs than this takes gradcheck slow minutes and gigabytes.
DENSE = 1_000
NEEDLES = 10
# Seconds after which nothing is timed again.
LONG = 4.0


@dataclass
class Counted:
    """A function that counts how often it is run, and how often its output is differentiated."""

    function: Callable[..., Tensor]
    evaluations: int = 0
    backwards: int = 0

    def __call__(self, *inputs: Tensor) -> Tensor:
        self.evaluations += 1
        output = self.function(*inputs)
        if output.requires_grad:
            output.register_hook(self.differentiated)
        return output

    def differentiated(self, _: Tensor) -> None:
        """Counts one backward pass."""
        self.backwards += 1


def _summed(n: int) -> Callable[[Tensor], Tensor]:
    w = _normal(n, seed=n)
    return lambda x: (x.tanh() * w).sum()


def _each(n: int) -> Callable[[Tensor], Tensor]:
    w = _normal(n, seed=n)
    return lambda x: x.tanh() * w


def _normal(n: int, seed: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


FUNCTIONS: Mapping[str, Callable[[int], Callable[[Tensor], Tensor]]] = {
    "sum(tanh(x) w), to one number": _summed,
    "tanh(x) w, to as many": _each,
}


def inputs(n: int) -> Tensor:
    """Returns n random numbers."""
    return _normal(n, seed=n + 1).requires_grad_()


# --------------------------------------------------------------------------------------------------------- cost


def part(quick: bool, workers: int) -> Iterator[Sheet]:
    """Gives the table of what a verdict costs."""
    sizes = SIZES[:3] if quick else SIZES
    jobs = [(name, n) for name in FUNCTIONS for n in sizes]
    shown = track(jobs, "cost", console=Console(stderr=True), transient=True)
    rows = [row for name, n in shown for row in _rows(name, n)]
    columns = [
        "function",
        "inputs",
        "checker",
        "verdict",
        "evaluations",
        "backward passes",
        "time",
        "of gradcheck slow's",
    ]
    yield Sheet("Cost of a verdict, float64", columns, rows)


def _rows(name: str, n: int) -> Iterator[list[str]]:
    base: float | None = None
    for checker in (SLOW, FAST, OURS):
        counted = Counted(FUNCTIONS[name](n))
        if checker == SLOW and n > DENSE and counted.function(inputs(n)).numel() > DENSE:
            continue
        seconds, verdict = _timed(checker, counted, n)
        base = seconds if checker == SLOW else base
        ratio = "" if base is None else f"{seconds / base:.3g}"
        counts = [str(counted.evaluations), str(counted.backwards)]
        yield [name, f"{n:,}", checker, verdict, *counts, f"{1e3 * seconds:.1f} ms", ratio]


def _timed(checker: str, counted: Counted, n: int) -> tuple[float, str]:
    """Returns the seconds of one verdict, the least of three where that is not too long; only the first is counted."""
    times: list[float] = []
    verdict = ""
    while len(times) < 3 and sum(times) < LONG:
        subject = counted if not times else counted.function
        start = time.perf_counter()
        verdict = CHECKERS[checker](subject, [inputs(n)]).verdict
        times.append(time.perf_counter() - start)
    return min(times), verdict


# ------------------------------------------------------------------------------------------------------- needle


def needle(quick: bool, workers: int) -> Iterator[Sheet]:
    """Gives the table of one wrong entry among many."""
    n = 1_000 if quick else 10_000
    wrong = {"1 % off": element(1.01), "zeroed": element(0.0)}
    jobs = [(name, kind) for name in FUNCTIONS for kind in wrong]
    shown = track(jobs, "needle", console=Console(stderr=True), transient=True)
    rows = [_searched(name, kind, wrong[kind], n) for name, kind in shown]
    columns = ["function", "one entry", "seen by gradcheck fast", "seen", "named", "most evaluations"]
    yield Sheet(f"One wrong entry of {n:,}, at {NEEDLES} places", columns, rows)


def _searched(name: str, kind: str, change: Callable[[Tensor, int], Tensor], n: int) -> list[str]:
    places = torch.randperm(n, generator=torch.Generator().manual_seed(5))[:NEEDLES].tolist()
    case = case_of(name, FUNCTIONS[name](n), [inputs(n)])
    fast = seen = named = most = 0
    for place in places:
        mutant = Counted(Mutant(case, kind, spoiled(change), Target(0, place)))
        fast += CHECKERS[FAST](mutant.function, [inputs(n)]).verdict == "differs"
        report = gx.verify(mutant, [inputs(n)])
        seen += report.verdict == "differs"
        named += any(check.verdict == "differs" and check.place == (place,) for check in report.checks)
        most = max(most, mutant.evaluations)
    return [name, kind, *(f"{count} of {len(places)}" for count in (fast, seen, named)), str(most)]
