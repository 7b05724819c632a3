"""Measures gradexplain against the floor and against its peers, side by side in one run, and prints ratios.

    .venv/bin/python scripts/bench.py explain            # all of it, some minutes
    .venv/bin/python scripts/bench.py explain --small    # the 12-layer transformer at an eighth of its width
    .venv/bin/python scripts/bench.py graph              # graphs, against torchviz, torchview and torchlens
    .venv/bin/python scripts/bench.py run                # trainings under watch, against detect_anomaly and hooks
    .venv/bin/python scripts/bench.py compare            # pairs, equal and planted, beside assert_close
    .venv/bin/python scripts/bench.py pages              # pages in chromium, and an edit in play

Every pair of figures is taken in turn (A B A B …), and the median of the pairwise ratios is printed: the machine's
speed may drift, the ratio does not.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence

import bench_compare
import bench_graph
import bench_pages
import bench_run
import bench_verify
import torch
from models import Perceptron, Transformer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

import gradexplain as gx
from gradexplain.recording.computation import Computation, computation_of
from gradexplain.recording.tracing import record, trace

Row = tuple[str, str, float, float, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    commands = parser.add_subparsers(required=True)
    explain = commands.add_parser("explain", help="recording, explaining and starting up")
    explain.add_argument("--small", action="store_true", help="a narrower transformer")
    explain.add_argument("--runs", type=int, default=5, help="pairs of each measurement")
    explain.set_defaults(run=lambda a: bench_explain(small=a.small, runs=a.runs))
    bench_verify.add_to(commands)
    bench_run.add_to(commands)
    bench_compare.add_to(commands)
    bench_pages.add_to(commands)
    graph = commands.add_parser("graph", help="drawing graphs, beside other drawers that are installed")
    graph.add_argument("--only", help="the cases whose name holds this")
    graph.set_defaults(run=lambda a: bench_graph.bench_graph(a.only))
    one = commands.add_parser("graph-cell", help="one figure of it, as JSON")
    one.add_argument("case")
    one.add_argument("subject")
    one.set_defaults(run=lambda a: bench_graph.cell(a.case, a.subject))
    arguments = parser.parse_args()
    arguments.run(arguments)


def bench_explain(*, small: bool, runs: int) -> None:
    """Prints what recording, explaining and starting cost."""
    rows = [*network_rows(small=small, runs=runs), *start_rows(runs)]
    table = Table("measured", "over", "ratio", "of", "target")
    for measured, over, ratio, floor, target in rows:
        table.add_row(measured, over, f"{ratio:.2f}", f"{floor:.3g} s", target)
    Console().print(table)


def network_rows(*, small: bool, runs: int) -> list[Row]:
    torch.manual_seed(0)
    width = 96 if small else 768
    networks: list[tuple[str, nn.Module, list[Tensor]]] = [
        ("3-layer MLP, batch 128", Perceptron(), [torch.randn(128, 784), torch.randint(0, 10, (128,))]),
        (f"12-layer transformer, width {width}", Transformer(width), [torch.randint(0, 50257, (1, 64))]),
    ]
    rows: list[Row] = []
    for name, network, inputs in networks:
        plain = plain_pass(network, inputs)
        for what, act, target in (
            ("record", recording(network, inputs), "≤ 1.5"),
            ("record and join", tracing(network, inputs), ""),
            ("detect_anomaly", anomaly(network, inputs), ""),
            ("explain, checks and text", explaining(network, inputs), "≤ 4" if "transformer" in name else ""),
        ):
            ratio, floor = paired(act, plain, runs, f"{name}: {what}")
            rows.append((what, f"forward + backward of the {name}", ratio, floor, target))
    return rows


def plain_pass(network: nn.Module, inputs: Sequence[Tensor]) -> Callable[[], object]:
    parameters = list(network.parameters())
    return lambda: torch.autograd.grad(network(*inputs), parameters)


def same_pass(network: nn.Module, inputs: Sequence[Tensor]) -> Computation:
    """Returns the computation of `plain_pass`: by the parameters alone, not also by the input."""
    return computation_of(network, inputs, wrt=[name for name, _ in network.named_parameters()])


def recording(network: nn.Module, inputs: Sequence[Tensor]) -> Callable[[], object]:
    return lambda: record(same_pass(network, inputs))


def tracing(network: nn.Module, inputs: Sequence[Tensor]) -> Callable[[], object]:
    return lambda: trace(same_pass(network, inputs))


def explaining(network: nn.Module, inputs: Sequence[Tensor]) -> Callable[[], object]:
    return lambda: gx.explain(network, inputs).render("text")


def anomaly(network: nn.Module, inputs: Sequence[Tensor]) -> Callable[[], object]:
    plain = plain_pass(network, inputs)

    def run() -> None:
        with warnings.catch_warnings(), torch.autograd.detect_anomaly():
            warnings.simplefilter("ignore")
            plain()

    return run


def start_rows(runs: int) -> list[Row]:
    command = [sys.executable, "-m", "gradexplain"]
    rows: list[Row] = []
    for measured, arguments, floor, target in (
        ('explain "sum(x**2)" x=1,2,3', ["explain", "sum(x**2)", "x=1,2,3"], "import torch", "≤ 1.3"),
        ("--help", ["--help"], "import typer, rich", "≤ 1.5"),
    ):
        own, other = process([*command, *arguments]), process([sys.executable, "-c", floor])
        ratio, seconds = paired(own, other, 3 * runs, measured)
        rows.append((f"gradexplain {measured}", f'python -c "{floor}"', ratio, seconds, target))
    return rows


def process(arguments: Sequence[str]) -> Callable[[], object]:
    """Runs a command; Python may keep its compiled modules, as it does where nobody forbids it."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return lambda: subprocess.run(arguments, check=True, capture_output=True, env=environment)


def paired(act: Callable[[], object], floor: Callable[[], object], runs: int, name: str) -> tuple[float, float]:
    """Returns the median of the ratios act/floor, taken in turn after one warm-up, and the floor's median seconds.

    What takes milliseconds is taken up to a hundred times: a single pair of it says little.
    """
    seconds(floor)
    runs = max(runs, min(100, int(1 / seconds(act))))
    pairs = [
        (seconds(act), seconds(floor))
        for _ in track(range(runs), description=name, console=Console(stderr=True), transient=True)
    ]
    return statistics.median(a / b for a, b in pairs), statistics.median(b for _, b in pairs)


def seconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
