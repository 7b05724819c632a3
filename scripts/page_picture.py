"""Makes README's first picture, `tests/baseline/page.png`: the page of an explanation in chromium, at one step.

.venv/bin/python scripts/page_picture.py
"""

import sys
import tempfile
from pathlib import Path

import torch
from playwright.sync_api import sync_playwright

import gradexplain as gx

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tests"))

# The step at which the second contribution arrives at x and is added to the first.
STEP = 10


def main() -> None:
    from browser import CHROMIUM
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        path, shot = Path(folder) / "page.html", Path(folder) / "page.png"
        gx.explain("sum(x**2 * sin(x))", {"x": torch.tensor([1.0, 2.0, 3.0])}).save(path)
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1180, "height": 900}, reduced_motion="reduce")
        page.goto(f"file://{path}")
        page.evaluate("s => { slider.value = s; slider.dispatchEvent(new Event('input')); }", STEP)
        page.locator("#board").screenshot(path=shot)
        browser.close()
        with Image.open(shot) as image:  # a drawing of few colours
            image.convert("RGB").quantize(64).save(ROOT / "tests" / "baseline" / "page.png", optimize=True)


if __name__ == "__main__":
    main()
