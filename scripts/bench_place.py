"""Whether the wrong node is named: networks of many operators, one of them with a wrong backward."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from operator_database import Case, case_of
from planted import KINDS, Mutant, mutants_of, wrapped
from rich.console import Console
from rich.progress import track
from sheets import Sheet
from torch import Tensor

import gradexplain as gx
from gradexplain.verification.verdicts import Report

SIZES = (20, 50, 100, 200)
SHAPE = (4, 5)
# Every so many operators, one is a custom Function that is right.
DECOYS = 5
# An error is planted where it changes the whole gradient by more than this part of it.
REACHES = 1e-6

WEIGHT = torch.randn(5, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64) / 2

# Operators that keep the shape and the size of the numbers, on one value or on two.
OPERATORS: Mapping[str, tuple[int, Callable[..., Tensor]]] = {
    "tanh": (1, torch.tanh),
    "sin": (1, torch.sin),
    "gelu": (1, F.gelu),
    "softmax": (1, lambda a: a.softmax(-1)),
    "layer_norm": (1, lambda a: F.layer_norm(a, SHAPE[1:])),
    "flip": (1, lambda a: a.flip(0)),
    "linear": (1, lambda a: F.linear(a, WEIGHT.to(a.dtype))),
    "roll": (1, lambda a: a.roll(1, 1)),
    "lerp": (2, lambda a, b: torch.lerp(a, b, 0.3)),
    "add": (2, lambda a, b: torch.add(a, b, alpha=-0.5)),
    "addcmul": (2, lambda a, b: torch.addcmul(a, a, b, value=0.2)),
}


@dataclass(frozen=True)
class Step:
    """An operator, and which of the values so far it is applied to."""

    operator: str
    sources: tuple[int, ...]


@dataclass(frozen=True)
class Network:
    """Steps from one value to the sum of all that they make; `custom` has the steps that run as custom Functions."""

    steps: Sequence[Step]
    custom: Mapping[int, Mutant] = field(default_factory=dict)

    def values(self, x: Tensor) -> list[Tensor]:
        """Returns x and what each step makes."""
        found = [x]
        for number, step in enumerate(self.steps):
            run = self.custom.get(number, OPERATORS[step.operator][1])
            found.append(run(*(found[source] for source in step.sources)))
        return found

    def __call__(self, x: Tensor) -> Tensor:
        return torch.stack(self.values(x)[1:]).sum(0)

    def case(self, number: int, x: Tensor) -> Case:
        """Returns one step as a case, at the values that reach it."""
        values, step = self.values(x), self.steps[number]
        inputs = [values[source].detach().requires_grad_() for source in step.sources]
        return case_of(step.operator, OPERATORS[step.operator][1], inputs)


def network(size: int, seed: int) -> Network:
    """Returns a network of `size` operators that are chosen at random, each applied to one of the last three values."""
    draw = torch.Generator().manual_seed(seed)

    def below(count: int) -> int:
        return int(torch.randint(0, count, (1,), generator=draw))

    steps: list[Step] = []
    for number in range(size):
        name = list(OPERATORS)[below(len(OPERATORS))]
        sources = tuple(number - below(min(3, number + 1)) for _ in range(OPERATORS[name][0]))
        steps.append(Step(name, sources))
    return Network(steps)


def start(seed: int) -> Tensor:
    """Returns the value that a network starts from."""
    draw = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return draw.requires_grad_()


def planted(size: int, kind: str, seed: int) -> tuple[Network, int]:
    """Returns a network with decoys and one wrong backward, and which of the custom Functions is the wrong one."""
    plain, x = network(size, seed), start(seed)
    decoys = {number: wrapped(plain.case(number, x)) for number in range(seed % DECOYS, size, DECOYS)}
    for number in torch.randperm(size, generator=torch.Generator().manual_seed(seed + 1)).tolist():
        mutant = dict(mutants_of([plain.case(number, x)]))[kind]
        if mutant is not None:
            found = replace(plain, custom=dict(sorted({**decoys, number: mutant}.items())))
            if _reaches(found, plain, x):
                return found, list(found.custom).index(number)
    raise AssertionError(f"no operator of this network can have a gradient that is {kind}")


def _reaches(wrong: Network, plain: Network, x: Tensor) -> bool:
    v = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    seen, right = (torch.autograd.grad(chosen(x), x, v)[0] for chosen in (wrong, plain))
    return bool((seen - right).abs().max() > REACHES * right.abs().max())


def blamed(report: Report) -> list[int | str]:
    """Returns the nodes called wrong: custom Functions by their number in the forward pass, others by operator."""
    custom = [operation for operation in report.operations if operation.node.name == "PlantedBackward"]
    wrong = [operation for operation in report.operations if operation.verdict == "differs"]
    return [custom.index(o) if o in custom else str(o.node.operator) for o in wrong]


# -------------------------------------------------------------------------------------------------------- table


def part(quick: bool, workers: int) -> Iterator[Sheet]:
    """Gives the table of networks; quick takes the two smaller sizes."""
    kinds = [kind for kind in KINDS if kind != "broadcast not summed"]
    sizes = SIZES[:2] if quick else SIZES
    jobs = [(size, kind, seed) for size in sizes for seed, kind in enumerate(kinds)]
    shown = track(jobs, "place", console=Console(stderr=True), transient=True)
    found = [(size, _found(size, kind, seed)) for size, kind, seed in shown]
    rows = [_row(size, [f for s, f in found if s == size]) for size in sizes]
    columns = ["operators", "networks", "seen", "the wrong node named", "and no other", "time each"]
    yield Sheet("One wrong backward in a network", columns, rows)


def _found(size: int, kind: str, seed: int) -> tuple[bool, bool, bool, float]:
    chosen, wrong = planted(size, kind, seed)
    begun = time.perf_counter()
    report = gx.verify(chosen, [start(seed)])
    named = blamed(report)
    return report.verdict == "differs", wrong in named, named == [wrong], time.perf_counter() - begun


def _row(size: int, found: Sequence[tuple[bool, bool, bool, float]]) -> list[str]:
    n = len(found)
    marks = [f"{sum(f[i] for f in found)} of {n}" for i in range(3)]
    return [str(size), str(n), *marks, f"{sum(f[3] for f in found) / n:.2f} s"]
