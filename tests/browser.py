"""A real browser, headless."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install chromium)")


def chromium(*arguments: str) -> str:
    """Returns what the browser prints."""
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120).stdout


class Window:
    """A page open in a browser: what it wrote on its console and what it asked the network for are faults."""

    def __init__(self, page: Any) -> None:
        self.page, self.faults = page, list[str]()
        page.on("console", lambda message: self.faults.append(message.text))
        page.on("pageerror", lambda fault: self.faults.append(str(fault)))
        page.on("request", lambda request: self.asked(request.url))

    def asked(self, url: str) -> None:
        if not url.startswith(("file:", "about:", "data:")):
            self.faults.append(url)


@contextmanager
def opened(browser: Any, content: str, folder: Path, **options: Any) -> Iterator[Window]:
    """Opens a page from the disk, in a window of its own; there is nothing on the console and no request when done."""
    path = folder / f"page{len(list(folder.iterdir()))}.html"
    path.write_text(content, encoding="utf-8")
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce", **options})
    try:
        window = Window(context.new_page())
        window.page.goto(f"file://{path}")
        yield window
        assert window.faults == []
    finally:
        context.close()
