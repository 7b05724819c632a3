"""What `gradexplain run` costs a training: beside the plain run, hooks on every module, and detect_anomaly.

Time is that of the processor, from the first step on, in turn with the plain run (`gx.watch()` is the watch of the
command); memory is the most that a process of its own holds, torch and all, run by the command where it is ours.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from operator import truediv
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

# How long a run is at least, in seconds of the plain training; and how many steps show what memory is held.
LEAST, MEMORY_STEPS = 0.5, 20
Step = Callable[[], None]


class Words(nn.Module):
    """An embedding, a body that gives back the state of each place, and scores of the words."""

    def __init__(self, body: nn.Module, width: int, words: int = 500) -> None:
        super().__init__()
        self.embedding, self.body, self.out = nn.Embedding(words, width), body, nn.Linear(width, words)

    def forward(self, words: Tensor) -> Tensor:
        h = self.body(self.embedding(words))
        return self.out(h[0] if isinstance(h, tuple) else h).flatten(0, 1)


def networks() -> dict[str, tuple[nn.Module, Tensor, Tensor]]:
    """Returns networks of ordinary sizes and one toy, each with a batch and its labels."""
    words, labels = torch.randint(0, 500, (16, 32)), torch.randint(0, 500, (16 * 32,))
    layer = nn.TransformerEncoderLayer(128, 4, 256, batch_first=True)
    convolutions = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(64 * 12 * 12, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip
    perceptron = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )
    toy = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    pictures, classes = torch.randn(64, 1, 28, 28), torch.randint(0, 10, (64,))
    return {
        "MLP": (perceptron, pictures, classes),
        "CNN": (convolutions, pictures, classes),
        "transformer": (Words(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), 128), words, labels),
        "LSTM": (Words(nn.LSTM(128, 128, batch_first=True), 128), words, labels),
        "toy": (toy, torch.randn(32, 8), torch.randint(0, 4, (32,))),
    }


OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.01),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
}


def stepper(name: str, optimizer: str) -> tuple[nn.Module, Step]:
    torch.manual_seed(0)
    model, given, labels = networks()[name]
    stepping = OPTIMIZERS[optimizer](model.parameters())

    def step() -> None:
        loss = nn.functional.cross_entropy(model(given), labels)
        stepping.zero_grad()
        loss.backward()
        stepping.step()

    return model, step


@contextmanager
def hooked(model: nn.Module) -> Iterator[None]:
    """Looks with a hook at every output of every module, as is done by hand."""

    def look(module: nn.Module, given: object, output: object) -> None:
        if isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
            raise AssertionError(module)

    handles = [m.register_forward_hook(look) for m in model.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def watching(model: nn.Module) -> AbstractContextManager[object]:
    import gradexplain as gx

    return gx.watch(quiet=True)


WAYS: dict[str, Callable[[nn.Module], AbstractContextManager[object]]] = {
    "gradexplain": watching,
    "hooks": hooked,
    "detect_anomaly": lambda model: torch.autograd.set_detect_anomaly(True),
}


def seconds(name: str, optimizer: str, way: str | None, steps: int) -> float:
    """Returns how long the processor works for so many steps, from the first on."""
    model, step = stepper(name, optimizer)
    with WAYS[way](model) if way else nullcontext():
        if way == "detect_anomaly":
            torch.set_anomaly_enabled(True)
        started = time.process_time()
        for _ in range(steps):
            step()
        taken = time.process_time() - started
    torch.set_anomaly_enabled(False)
    return taken


def megabytes(name: str, optimizer: str, way: str | None, steps: int) -> float:
    """Returns the most memory that a process holds which trains for so many steps."""
    cell = [__file__, name, optimizer, str(steps), way or ""]
    command = ["-m", "gradexplain", "run", *cell[:-1]] if way == "gradexplain" else cell
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def cell(name: str, optimizer: str, steps: str, way: str = "") -> None:
    """Trains and prints the most memory that this process has held: by the kernel's own count, since it began."""
    seconds(name, optimizer, way or None, int(steps))
    held = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    print(int(held[1]) / 1024 if held else float("nan"))


def bench_run(*, steps: int, runs: int, only: str | None) -> None:
    """Prints the medians of the ratios to the plain run, taken in turn, and the ratios of memory."""
    table = Table("training", "optimizer", "plain, a step", *WAYS, "plain", *WAYS)
    names = [name for name in networks() if only in (None, name)]
    for name in track(names, transient=True, console=Console(stderr=True)):
        for optimizer in OPTIMIZERS:
            _, warm = (seconds(name, optimizer, None, 10) / 10 for _ in range(2))
            count = max(steps, int(LEAST / warm))
            taken: dict[str | None, list[float]] = {None: [], **{way: [] for way in WAYS}}
            for _ in range(runs):
                for way, times in taken.items():
                    times.append(seconds(name, optimizer, way, count))
            ratios = [statistics.median(map(truediv, taken[way], taken[None])) for way in WAYS]
            held = megabytes(name, optimizer, None, MEMORY_STEPS)
            memory = [megabytes(name, optimizer, way, MEMORY_STEPS) / held for way in WAYS]
            cells = [f"{1000 * statistics.median(taken[None]) / count:.2f} ms", *(f"{ratio:.2f}" for ratio in ratios)]
            table.add_row(name, optimizer, *cells, f"{held:.0f} MB", *(f"{ratio:.2f}" for ratio in memory))
    Console(width=120).print(table)


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    run = commands.add_parser("run", help="what a watched training costs")
    run.add_argument("--steps", type=int, default=20, help="at least so many in each run")
    run.add_argument("--runs", type=int, default=3, help="of each, in turn")
    run.add_argument("--only", help="one of the networks")
    run.set_defaults(run=lambda a: bench_run(steps=a.steps, runs=a.runs, only=a.only))


if __name__ == "__main__":
    cell(*sys.argv[1:])
