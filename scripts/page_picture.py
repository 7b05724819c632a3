"""Makes the pictures of pages again, in `tests/baseline/`: README's first, `page.png`, and small ones to compare with.

.venv/bin/python scripts/page_picture.py
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

import gradexplain as gx

ROOT = Path(__file__).parent.parent
BASELINE = ROOT / "tests" / "baseline"
KEPT = BASELINE / "pages"
sys.path.append(str(ROOT / "tests"))

# The step at which the second contribution arrives at x and is added to the first.
STEP = 10
# Of the small pictures, so many dots of a page make one.
COARSE = 4
# The letters of the small pictures: of one width on every machine, so that lines break alike.
_LETTERS = '*{font-family:"DejaVu Sans Mono",monospace!important;line-height:1.5!important}'
_STEPPED = "s => { if (window.slider) { slider.value = s; slider.dispatchEvent(new Event('input')); } }"


@cache
def used_twice() -> gx.Explanation:
    return gx.explain("sum(x**2 * sin(x))", {"x": torch.tensor([1.0, 2.0, 3.0])})


@cache
def wrong() -> gx.Explanation:
    from mistakes import loss

    inputs = {"x": torch.tensor([1.0, 2.0, 3.0, 4.0]), "w": torch.ones(4)}
    return gx.explain(loss, inputs, target="a backward that is wrong")


@cache
def drawn() -> gx.Picture:
    from models import Transformer

    net = Transformer(width=24, tokens=100, layers=3)
    return gx.graph(net, [torch.arange(8).reshape(1, 8)], title="three layers")


class Shot(NamedTuple):
    """A page as a picture: how wide the window is, in which scheme, and at which step or the last."""

    page: Callable[[], gx.Explanation | gx.Picture]
    width: int
    scheme: str
    step: int = 0


SHOTS: Mapping[str, Shot] = {
    f"{name}-{width}-{scheme}": Shot(page, width, scheme, step)
    for name, page, step in (("steps", used_twice, STEP), ("wrong", wrong, 99), ("graph", drawn, 0))
    for width, scheme in ((360, "light"), (1024, "dark"), (1920, "light"))
}


def shot(browser: Any, shot: Shot, *, style: str = "") -> Image.Image:
    """Returns the window of a page, small and grey; `style` is laid over the page's own."""
    height = {360: 740, 1024: 768, 1920: 1080}[shot.width]
    with opened(browser, shot.page().render("html"), shot.width, height, shot.scheme) as page:
        page.add_style_tag(content=_LETTERS + style)
        page.evaluate(_STEPPED, shot.step)
        return Image.open(io.BytesIO(page.screenshot())).convert("L").reduce(COARSE)


def readme_picture(browser: Any) -> Image.Image:
    """Returns README's first picture, a drawing of few colours."""
    with opened(browser, used_twice().render("html"), 1180, 900, "light") as page:
        page.evaluate(_STEPPED, STEP)
        return Image.open(io.BytesIO(page.locator("#board").screenshot())).convert("RGB").quantize(64)


@contextmanager
def opened(browser: Any, content: str, width: int, height: int, scheme: str) -> Iterator[Any]:
    """Opens a page in a window of its own."""
    size = {"width": width, "height": height}
    context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce")
    try:
        page = context.new_page()
        page.set_content(content)
        yield page
    finally:
        context.close()


def made_with(browser: Any) -> dict[str, str]:
    """Returns what the dots of a picture depend on."""
    fonts = {}
    for name in ("system-ui", "monospace", "DejaVu Sans Mono"):
        found = subprocess.run(["fc-match", name, "file"], capture_output=True, text=True, check=False)
        fonts[name] = found.stdout.strip()
    return {"chromium": browser.version, "torch": torch.__version__, **fonts}


def main() -> None:
    from browser import CHROMIUM
    from playwright.sync_api import sync_playwright

    KEPT.mkdir(exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        readme_picture(browser).save(BASELINE / "page.png", optimize=True)
        for name, one in SHOTS.items():
            shot(browser, one).save(KEPT / f"{name}.png", optimize=True)
        (KEPT / "made_with.json").write_text(json.dumps(made_with(browser), indent=1) + "\n", encoding="utf-8")
        browser.close()


if __name__ == "__main__":
    main()
