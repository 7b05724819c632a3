"""What a verdict costs as the inputs grow, whether one wrong entry among ten thousand is seen, and a large model."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch
from checkers import CHECKERS, FAST, OURS, SLOW, prepare
from models import Transformer
from operator_database import case_of
from planted import Mutant, Target, element, spoiled
from rich.console import Console
from rich.progress import track
from sheets import Sheet
from torch import Tensor, nn

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


# -------------------------------------------------------------------------------------------------------- large


def _perceptron() -> tuple[nn.Module, list[Tensor]]:
    layers = [nn.Linear(784, 2500), nn.GELU(), nn.Linear(2500, 2500), nn.GELU(), nn.Linear(2500, 700)]
    return nn.Sequential(*layers), [torch.randn(256, 784)]


def _transformer(batch: int) -> tuple[nn.Module, list[Tensor]]:
    return Transformer(384, 6144, 4, 64), [torch.randint(0, 6144, (batch, 64))]


MODELS: Mapping[str, Callable[[], tuple[nn.Module, list[Tensor]]]] = {
    "perceptron, batch 256": _perceptron,
    "transformer of 4 layers, 8 sequences of 64": lambda: _transformer(8),
    "transformer of 4 layers, 32 sequences of 64": lambda: _transformer(32),
}


def large(quick: bool, workers: int) -> Iterator[Sheet]:
    """Gives the table of right models of some 10 million parameters, beside their own forward and backward pass."""
    names = list(MODELS)[:1] if quick else list(MODELS)
    shown = track(names, "large", console=Console(stderr=True), transient=True)
    columns = ["model", "parameters", "verdict", "forward and backward", "time", "of both", "memory", "of both's"]
    yield Sheet(
        "A right model in float32, one thread; memory is the most that a process held", columns, map(_of, shown)
    )


def _of(name: str) -> list[str]:
    plain, whole = (_alone(task, name) for task in (_passes, _verdict))
    times, memory = (whole[i] / plain[i] for i in (0, 1))
    count = sum(p.numel() for p in MODELS[name]()[0].parameters())
    own = [f"{plain[0]:.2f} s", f"{whole[0]:.1f} s", f"{times:.1f}", f"{whole[1]:.0f} MB", f"{memory:.1f}"]
    return [name, f"{count / 1e6:.1f} M", whole[2], *own]


def _alone(task: Callable[[str], tuple[float, float, str]], name: str) -> tuple[float, float, str]:
    """Runs a task in a process of its own, as the most memory that a process held is never given back."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=prepare) as pool:
        return pool.submit(task, name).result()


def _passes(name: str) -> tuple[float, float, str]:
    model, inputs = MODELS[name]()
    times = []
    for _ in range(4):
        start = time.process_time()
        output = model(*inputs)
        output.backward(torch.ones_like(output))
        times.append(time.process_time() - start)
        model.zero_grad()
    return min(times[1:]), _most_memory(), ""


def _verdict(name: str) -> tuple[float, float, str]:
    model, inputs = MODELS[name]()
    start = time.process_time()
    report = gx.verify(model, inputs)
    return time.process_time() - start, _most_memory(), report.verdict


def _most_memory() -> float:
    """Returns the most that this process held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
