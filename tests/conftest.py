"""What several test files use."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import pytest
from typer.testing import CliRunner


@dataclass(frozen=True)
class Run:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str


@cache
def in_process(arguments: tuple[str, ...]) -> Run:
    from gradexplain.cli.app import app

    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Run(result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def command() -> Callable[..., Run]:
    """Runs `gradexplain …` in this process; the same command twice is run once."""
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
