"""What several test files use."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import CHROMIUM
from typer.testing import CliRunner


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="Write what the tests compare with; read the diff.")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Marks the cases of a test that is `sampled` as thorough, but for each nth of them."""
    marker = item.get_closest_marker("sampled")
    if marker is not None:
        (every,) = marker.args
        cases = _CASES.setdefault((item.path, getattr(item, "originalname", item.name)), count())
        if next(cases) % every:
            item.add_marker(pytest.mark.thorough)


_CASES: dict[tuple[Path, str], Iterator[int]] = {}


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Lets what a test draws hang on no test that ran before it in the same process."""
    torch.manual_seed(0)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """Asserts that a file holds a text; with --update-golden, writes it there."""

    def check(path: Path, text: str) -> None:
        if request.config.getoption("--update-golden"):
            path.write_text(text, encoding="utf-8")
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is stale: ./scripts/test --update-golden"

    return check


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A browser that tests drive step by step."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
    if CHROMIUM is None:
        pytest.skip("needs chromium (apt-get install chromium)")
    with api.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@dataclass(frozen=True)
class Run:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str


@cache
def in_process(arguments: tuple[str, ...]) -> Run:
    from gradexplain.cli.app import app

    if arguments[:1] == ("run",):  # it forks, which this process with its threads cannot
        done = subprocess.run([sys.executable, "-m", "gradexplain", *arguments], capture_output=True, text=True)
        return Run(done.returncode, done.stdout, done.stderr)
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Run(result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def command() -> Callable[..., Run]:
    """Runs `gradexplain …`, in this process where that is possible; the same command twice is run once."""
    return lambda *arguments: in_process(arguments)


@pytest.fixture
def process() -> Callable[[Sequence[str]], Run]:
    """Runs `python -m gradexplain …` as a process of its own."""

    def run(arguments: Sequence[str], **environment: str) -> Run:
        done = subprocess.run(
            [sys.executable, "-m", "gradexplain", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, **environment},
        )
        return Run(done.returncode, done.stdout, done.stderr)

    return run
