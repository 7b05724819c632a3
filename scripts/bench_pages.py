"""Pages in a real browser: how large they are, how long they take to make, open and step, and an edit in `play`.

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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from models import Perceptron, Transformer
from sheets import Sheet, show

import gradexplain as gx

ROOT = Path(__file__).parent.parent
# Steps that are taken, spread over all: the table names the median and the slowest.
_STEPS = 60
_STEPPED = """steps => steps.map(s => {
  const start = performance.now(); slider.value = s;
  slider.dispatchEvent(new Event("input")); document.body.getBoundingClientRect();
  return (performance.now() - start) / 1000; })"""
_UNFOLDED = """() => { for (let fold; (fold = document.querySelector("#stage .opens")); )
  fold.dispatchEvent(new MouseEvent("click", {bubbles: true})); }"""
_DRAWN = "() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))"


def add_to(commands: Any) -> None:
    """Adds the subcommand `pages`."""
    command = commands.add_parser("pages", help="pages in chromium, and an edit in play")
    command.add_argument("--runs", type=int, default=3, help="how often each page is opened")
    command.add_argument("--slow", action="store_true", help="transformers as well, whose checks take many minutes")
    command.add_argument("--markdown", action="store_true", help="tables in Markdown")
    command.set_defaults(run=bench_pages)


def transformer(width: int, tokens: int) -> gx.Explanation:
    torch.manual_seed(0)
    return gx.explain(Transformer(width, tokens=tokens), [torch.randint(0, tokens, (1, 32))], target="transformer")


def perceptron() -> gx.Explanation:
    torch.manual_seed(0)
    return gx.explain(Perceptron(), [torch.randn(8, 784), torch.randint(0, 10, (8,))], target="perceptron")


class Page(NamedTuple):
    """A page as a user gets it, checks and all, and the most bytes that are aimed at; `slow` to make with checks."""

    name: str
    make: Callable[[], gx.Explanation]
    most: int
    slow: bool = False


PAGES = (
    Page("sum(x**2)", lambda: gx.explain("sum(x**2)", {"x": torch.tensor([1.0, 2.0, 3.0])}), 300_000),
    Page("784-512-512-10 perceptron", perceptron, 2_000_000),
    Page("12-layer transformer, width 96", lambda: transformer(96, 1000), 2_000_000, slow=True),
    Page("GPT-2-small: width 768, 50,257 tokens", lambda: transformer(768, 50257), 2_000_000, slow=True),
)
_OPENS, _STEP = 2.0, 0.05  # seconds that are aimed at


def bench_pages(arguments: argparse.Namespace) -> None:
    """Prints the tables."""
    pages = [page for page in PAGES if arguments.slow or not page.slow]
    show([opened(pages, arguments.runs), edited(arguments.runs)], markdown=arguments.markdown)


def opened(pages: Sequence[Page], runs: int) -> Sheet:
    from playwright.sync_api import sync_playwright

    sys.path.append(str(ROOT / "tests"))
    from browser import CHROMIUM

    with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        rows = [row for page in pages for row in measured(browser, Path(folder), page, runs)]
        browser.close()
    return Sheet("Pages in chromium", ("page", "", "measured", "target", "load"), rows)


def measured(browser: Any, folder: Path, page: Page, runs: int) -> Iterator[list[str]]:
    path = folder / "page.html"
    start = time.perf_counter()
    explanation = page.make()
    explained = time.perf_counter()
    explanation.save(path)
    written = time.perf_counter()
    opens, shut, open_ = [], list[list[float]](), list[list[float]]()
    for _ in range(runs):
        window = browser.new_page(viewport={"width": 1280, "height": 900})
        began = time.perf_counter()
        window.goto(f"file://{path}")
        window.evaluate(_DRAWN)
        opens.append(time.perf_counter() - began)
        last = int(window.get_attribute("#slider", "max"))
        steps = list(range(1, last + 1, max(1, last // _STEPS)))
        shut.append(window.evaluate(_STEPPED, steps))
        window.evaluate(_UNFOLDED)
        open_.append(window.evaluate(_STEPPED, steps))
        window.close()
    load = f"{os.getloadavg()[0]:.1f}"
    yield [page.name, "explained, with its checks", f"{explained - start:.1f} s", "", load]
    yield ["", "written", f"{written - explained:.1f} s", "", load]
    yield ["", "size", f"{path.stat().st_size / 1000:,.0f} kB", f"≤ {page.most // 1000:,} kB", load]
    yield ["", "opens", f"{statistics.median(opens):.2f} s", f"≤ {_OPENS:g} s", load]
    yield ["", "a step", stepped(shut), f"≤ {1000 * _STEP:g} ms", load]
    yield ["", "a step, every fold open", stepped(open_), f"≤ {1000 * _STEP:g} ms", load]


def stepped(found: Sequence[Sequence[float]]) -> str:
    """Returns the median of the steps and the slowest; of each step its median over the runs counts."""
    each = [statistics.median(times) for times in zip(*found, strict=True)]
    return f"{1000 * statistics.median(each):.1f} ms, slowest {1000 * max(each):.0f}"


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
