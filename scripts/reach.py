"""A plugin for pytest: writes which lines of a package each test reaches, and how many seconds it takes.

    REACH_PACKAGE=/clone/gradexplain REACH_FILE=reach.json pytest -p reach tests/test_ladders.py

The file has for each test, by its id, `[seconds, {file: [lines]}]`. What runs in another process is not seen.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest


class Reach:
    """The lines that the test now running has reached, and those that the tests before it reached."""

    def __init__(self, package: str, file: Path) -> None:
        self.package, self.file = package + os.sep, file
        self.lines: defaultdict[str, set[int]] = defaultdict(set)
        self.tests: dict[str, tuple[float, dict[str, list[int]]]] = {}

    def called(self, frame: FrameType, event: str, argument: Any) -> Any:
        """Traces the functions of the package, line by line, and no other."""
        return self.ran if frame.f_code.co_filename.startswith(self.package) else None

    def ran(self, frame: FrameType, event: str, argument: Any) -> Any:
        self.lines[frame.f_code.co_filename].add(frame.f_lineno)
        return self.ran

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self.lines.clear()
        began = time.monotonic()
        sys.settrace(self.called)
        threading.settrace(self.called)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]
            files = {name.removeprefix(self.package): sorted(lines) for name, lines in self.lines.items()}
            self.tests[item.nodeid] = time.monotonic() - began, files

    def pytest_sessionfinish(self) -> None:
        self.file.write_text(json.dumps(self.tests), encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Reach(os.environ["REACH_PACKAGE"], Path(os.environ["REACH_FILE"])))
