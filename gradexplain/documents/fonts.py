"""The fonts with Chinese letters that matplotlib can draw with on this machine."""

from __future__ import annotations

from functools import cache
from pathlib import Path

# Upright faces for text; a collection shows under its first name (JP) where matplotlib reads only the first of it.
CHINESE = (
    "Noto Sans CJK SC", "Source Han Sans SC", "Noto Sans Mono CJK SC", "WenQuanYi Zen Hei", "SimHei",
    "Noto Sans CJK JP",
)  # fmt: skip


@cache
def chinese() -> tuple[str, ...]:
    """Returns the names of the fonts with Chinese letters, the best first; none where the machine has none."""
    from matplotlib import font_manager

    return _listed() or (_added(font_manager.findSystemFonts()) and _listed())


def _listed() -> tuple[str, ...]:
    from matplotlib import font_manager

    there = {font.name for font in font_manager.fontManager.ttflist}
    return tuple(name for name in CHINESE if name in there)


def _added(paths: list[str]) -> tuple[str, ...]:
    """Adds the fonts that were installed after matplotlib made its list, which it keeps for good."""
    from matplotlib import font_manager

    starts = {name.removesuffix(" SC").removesuffix(" JP").replace(" ", "").lower() for name in CHINESE}
    files = [path for path in sorted(paths) if Path(path).name.lower().startswith(tuple(starts))]
    for path in files:
        font_manager.fontManager.addfont(path)
    return tuple(files)
