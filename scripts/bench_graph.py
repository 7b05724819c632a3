"""Measures drawing graphs against the floor, a bare walk over `next_functions`, and against other drawers of graphs.

Every cell is a process of its own, which builds the graph, then takes the floor and the subject in turn (A B A B …); a
ratio is the median over the pairs. The other drawers take part where they are installed; torchviz is recursive
and gets a stack as large as it needs. What takes longer than a minute is given up.
"""

import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

_PATIENCE = 60
_STACK = 1 << 30
# What no other drawer can do in a minute, and what is too large to be drawn whole.
_ALONE, _DRAWABLE = ("chain 1e6",), 13_000


class Chain(nn.Module):
    """`length` multiplications and additions in a row."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.start = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        y = x * self.start
        for _ in range(self.length):
            y = y * 1.0001 + 0.1
        return y


class Unrolled(nn.Module):
    """A recurrent network, its weights shared by all steps, with a loss at every step."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.to_state, self.state, self.to_output = nn.Linear(4, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, loss = torch.zeros(len(x), 8), torch.zeros(())
        for _ in range(self.steps):
            h = torch.tanh(self.to_state(x) + self.state(h))
            loss = loss + nn.functional.cross_entropy(self.to_output(h), torch.zeros(len(x), dtype=torch.int64))
        return loss


def cases() -> Mapping[str, Callable[[], tuple[nn.Module, Tensor]]]:
    """Returns what is drawn, by name: a network and its input."""
    import models

    sys.path.append(str(Path(__file__).parent.parent / "tests"))
    from networks import ResNet18

    ids = partial(torch.randint, 0)
    return {
        "chain 1e3": lambda: (Chain(1000), torch.ones(())),
        "chain 1e4": lambda: (Chain(10_000), torch.ones(())),
        "chain 1e5": lambda: (Chain(100_000), torch.ones(())),
        "chain 1e6": lambda: (Chain(1_000_000), torch.ones(())),
        "ResNet-18": lambda: (ResNet18(), torch.randn(2, 3, 64, 64)),
        "GPT-2-small": lambda: (models.Transformer(), ids(50257, (1, 64))),
        "RNN, 60 steps": lambda: (Unrolled(60), torch.randn(2, 4)),
        "transformer, 190 blocks": lambda: (models.Transformer(24, 50, 190, 16), ids(50, (1, 8))),
    }


# ----------------------------------------------------------------------------------------------------- the subjects


def floor(root: Tensor) -> object:
    """A bare walk: every node's name, every edge."""
    start: Any = root.grad_fn
    seen, waiting = {start: 0}, [start]
    names, edges = [], []
    while waiting:
        node = waiting.pop()
        names.append((seen[node], node.name()))
        for child, output in node.next_functions:
            if child is None:
                continue
            if child not in seen:
                seen[child] = len(seen)
                waiting.append(child)
            edges.append((seen[node], seen[child], output))
    return names, edges


def by_gradexplain(net: nn.Module, x: Tensor, root: Tensor) -> object:
    import gradexplain as gx

    return gx.graph(root)


def by_torchviz(net: nn.Module, x: Tensor, root: Tensor) -> object:
    import torchviz

    return torchviz.make_dot(root, params=dict(net.named_parameters())).source


def by_torchview(net: nn.Module, x: Tensor, root: Tensor) -> object:
    import torchview

    drawn = torchview.draw_graph(net, input_data=x, depth=99, hide_module_functions=False, mode="train")
    return drawn.visual_graph.source


def by_torchlens(net: nn.Module, x: Tensor, root: Tensor) -> object:
    import torchlens

    return torchlens.trace(net, x)


SUBJECTS: Mapping[str, Callable[[nn.Module, Tensor, Tensor], object]] = {
    "gradexplain": by_gradexplain,
    "torchviz": by_torchviz,
    "torchview": by_torchview,
    "torchlens": by_torchlens,
}


# -------------------------------------------------------------------------------------------------------- one cell


def measured(case: str, subject: str) -> dict[str, object]:
    """Returns what one subject needs for one case."""
    torch.manual_seed(0)
    net, x = cases()[case]()
    root = net(x)
    floor(root)
    act = partial(SUBJECTS[subject], net, x, root)
    before = _peak()
    first = _seconds(act)
    found: dict[str, object] = {"megabytes": _peak() - before}
    pairs = [(_seconds(act), _seconds(partial(floor, root))) for _ in range(5 if first < 3 else 1)]
    found |= {"ratio": statistics.median(a / b for a, b in pairs), "floor": statistics.median(b for _, b in pairs)}
    return found | (_pictures(case, net, x, root) if subject == "gradexplain" else {})


def _pictures(case: str, net: nn.Module, x: Tensor, root: Tensor) -> dict[str, object]:
    """Returns how long SVG takes, folded and whole, and what a recorded run costs over a plain one."""
    import gradexplain as gx

    picture = gx.graph(root)
    found: dict[str, object] = {"nodes": len(picture.nodes), "drawn": len(picture.fold().nodes)}
    found["folded"] = _cpu(partial(picture.render, "svg"))
    if len(picture.nodes) <= _DRAWABLE:
        picture.render("svg", unfolded=True)
        found["whole"] = _cpu(partial(picture.render, "svg", unfolded=True))
    if "chain" not in case:
        pairs = [(_seconds(partial(gx.graph, net, [x])), _seconds(partial(net, x))) for _ in range(5)]
        found["recorded"] = statistics.median(a / b for a, b in pairs[1:])
    return found


def _seconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    kept = act()
    stop = time.perf_counter()
    del kept
    return stop - start


def _cpu(act: Callable[[], object]) -> float:
    start = time.process_time()
    act()
    return time.process_time() - start


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cell(case: str, subject: str) -> None:
    """Prints one cell as JSON. The process ends at once: torch may not survive taking a deep, walked graph apart."""
    import os

    warnings.simplefilter("ignore")
    if subject != "gradexplain":
        sys.setrecursionlimit(10**8)
    threading.stack_size(_STACK)
    worker = threading.Thread(target=lambda: sys.stdout.write(json.dumps(measured(case, subject)) + "\n"))
    worker.start()
    worker.join()
    sys.stdout.flush()
    os._exit(0)


# ------------------------------------------------------------------------------------------------------- the table


def bench_graph(only: str | None = None) -> None:
    """Prints the table of all cases and all subjects that are installed."""
    there = [name for name in SUBJECTS if importlib.util.find_spec(name) is not None]
    table = Table("graph", "nodes", "floor", *there, "peak", "drawn as", "SVG", "SVG, every node", "recorded")
    for case in cases():
        if only is None or only in case:
            table.add_row(*row(case, there))
    Console(width=160).print(table)


def row(case: str, subjects: list[str]) -> list[str]:
    cells = {s: run(case, s) for s in subjects if s == "gradexplain" or case not in _ALONE}
    own = cells["gradexplain"]
    ratios = [cells.get(s, {"fault": "–"}) for s in subjects]
    return [
        case,
        _text(own.get("nodes"), "{:,}"),
        _text(own.get("floor"), "{:.3g} s"),
        *(str(c.get("fault") or _text(c["ratio"], "{:.3g}")) for c in ratios),
        _text(own.get("megabytes"), "{:.0f} MB"),
        _text(own.get("drawn"), "{}"),
        _text(own.get("folded"), "{:.2g} s"),
        _text(own.get("whole"), "{:.2g} s"),
        _text(own.get("recorded"), "{:.2f}"),
    ]


def run(case: str, subject: str) -> dict[str, Any]:
    """Returns one cell, measured in a process of its own, or what went wrong."""
    command = [sys.executable, str(Path(__file__).with_name("bench.py")), "graph-cell", case, subject]
    patience = 600 if subject == "gradexplain" else _PATIENCE
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience)
    except subprocess.TimeoutExpired:
        return {"fault": f"> {patience} s"}
    try:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {"fault": last.split(":")[0][:20]}
    return found


def _text(value: object, form: str) -> str:
    return "" if value is None else form.format(value)
