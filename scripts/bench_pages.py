"""Pages in a real browser: how large they are, how long they take to open and to step, and an edit in `play`.

.venv/bin/python scripts/bench.py pages
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from models import Transformer
from sheets import Sheet, show

import gradexplain as gx
import gradexplain.api  # registers how results are told
from gradexplain.explanation.explanation import explain_trace
from gradexplain.recording.computation import computation_of
from gradexplain.recording.tracing import traced
from gradexplain.verification.verdicts import Report

ROOT = Path(__file__).parent.parent
# Steps that are taken, spread over all: the table names the median and the slowest.
_STEPS = 60
_STEPPED = """steps => steps.map(s => {
  const start = performance.now(); slider.value = s;
  slider.dispatchEvent(new Event("input")); document.body.getBoundingClientRect();
  return (performance.now() - start) / 1000; })"""
_DRAWN = "() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))"


def add_to(commands: Any) -> None:
    """Adds the subcommand `pages`."""
    command = commands.add_parser("pages", help="pages in chromium, and an edit in play")
    command.add_argument("--runs", type=int, default=5, help="how often each page is opened")
    command.add_argument("--markdown", action="store_true", help="tables in Markdown")
    command.set_defaults(run=bench_pages)


def transformer() -> gx.Explanation:
    """Returns an explanation without its checks, which take longest and are not what is measured."""
    torch.manual_seed(0)
    computation = computation_of(Transformer(96, tokens=1000), [torch.randint(0, 1000, (1, 32))])
    return explain_trace(traced(computation), Report(()), target="transformer")


# What is shown, with the most bytes, seconds to open and seconds a step that are aimed at.
PAGES: Mapping[str, tuple[Callable[[], gx.Explanation], int, float, float]] = {
    "sum(x**2 * sin(x))": (
        lambda: gx.explain("sum(x**2 * sin(x))", {"x": torch.tensor([1.0, 2.0, 3.0])}), 300_000, 2.0, 0.05
    ),
    "12-layer transformer, width 96": (transformer, 2_000_000, 2.0, 0.05),
}  # fmt: skip


def bench_pages(arguments: argparse.Namespace) -> None:
    """Prints the tables."""
    show([opened(arguments.runs), edited(arguments.runs)], markdown=arguments.markdown)


def opened(runs: int) -> Sheet:
    from playwright.sync_api import sync_playwright

    sys.path.append(str(ROOT / "tests"))
    from browser import CHROMIUM

    columns = ("page", "size", "target", "opens", "target", "a step", "slowest", "target", "load")
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        rows = [list(row(browser, Path(folder), name, runs)) for name in PAGES]
        browser.close()
    return Sheet("Pages in chromium", columns, rows)


def row(browser: Any, folder: Path, name: str, runs: int) -> Iterator[str]:
    make, most, opens, steps = PAGES[name]
    path = folder / "page.html"
    make().save(path)
    found, stepped = [], list[float]()
    for _ in range(runs):
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        start = time.perf_counter()
        page.goto(f"file://{path}")
        page.evaluate(_DRAWN)
        found.append(time.perf_counter() - start)
        last = int(page.get_attribute("#slider", "max"))
        stepped += page.evaluate(_STEPPED, list(range(1, last + 1, max(1, last // _STEPS))))
        page.close()
    yield from (name, f"{path.stat().st_size / 1000:,.0f} kB", f"≤ {most // 1000:,} kB")
    yield from (f"{statistics.median(found):.2f} s", f"≤ {opens:g} s")
    yield from (
        f"{1000 * statistics.median(stepped):.1f} ms",
        f"{1000 * max(stepped):.0f} ms",
        f"≤ {1000 * steps:g} ms",
    )
    yield f"{os.getloadavg()[0]:.1f}"


def edited(runs: int) -> Sheet:
    """Edits an expression as a reader does, half a second apart, each with another number."""
    command = [sys.executable, "-m", "gradexplain", "play", "x**2 + 2*x", "x=3", "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        try:
            assert server.stdout is not None
            address = re.search(r"(http://\S+)/\?token=(\S+)", server.stdout.readline())
            assert address is not None
            asked(*address.groups(), 0)  # waits until a process is ready
            time.sleep(3)
            found = [asked(*address.groups(), edit) for edit in range(1, 4 * runs + 1)]
        finally:
            server.terminate()
    cells = (f"{1000 * statistics.median(found):.0f} ms", f"{1000 * max(found):.0f} ms", "≤ 200 ms")
    return Sheet(
        "An edit in play: from the question to the whole page",
        ("edited", "edits", "median", "slowest", "target", "load"),
        [["x**2 + 2*x", f"{len(found)}", *cells, f"{os.getloadavg()[0]:.1f}"]],
    )


def asked(host: str, token: str, edit: int) -> float:
    """Returns how long one answer took, and rests afterwards."""
    sent = {"target": "x**2 + 2*x", "inputs": {"x": f"{3 + edit / 8}"}, "options": {}}
    headers = {"Authorization": f"Bearer {token}", "X-Page": "bench"}
    request = urllib.request.Request(f"{host}/answer", json.dumps(sent).encode(), headers)
    start = time.perf_counter()
    with urllib.request.urlopen(request) as response:
        told = json.loads(response.read())
    taken = time.perf_counter() - start
    assert "page" in told, told
    time.sleep(0.5)
    return taken
