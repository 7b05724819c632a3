"""The course: `lessons.run("chain-rule")` runs a lesson, `lessons.save_course("course")` writes them all.

What is offered here is loaded when it is first used; of what lists the lessons, nothing loads torch.

>>> import gradexplain as gx
>>> lesson = gx.lessons.run("descent", lr=1.01, steps=50)
>>> lesson.holds, gx.lessons.judge(gx.lessons.run("accumulation"), "8", 1)[0]
(True, True)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradexplain.lessons.answers import judge as judge
    from gradexplain.lessons.contents import listing as listing
    from gradexplain.lessons.contents import names as names
    from gradexplain.lessons.contents import told as told
    from gradexplain.lessons.contents import topics as topics
    from gradexplain.lessons.parts import Lesson as Lesson
    from gradexplain.lessons.running import function_of as function_of
    from gradexplain.lessons.running import run as run
    from gradexplain.lessons.writing import save as save
    from gradexplain.lessons.writing import save_course as save_course

_HOMES = {
    "Lesson": "parts", "function_of": "running", "judge": "answers", "listing": "contents", "names": "contents",
    "run": "running", "save": "writing", "save_course": "writing", "told": "contents", "topics": "contents",
}  # fmt: skip
__all__ = ["Lesson", "function_of", "judge", "listing", "names", "run", "save", "save_course", "told", "topics"]


if not TYPE_CHECKING:  # a checker would take every name for one of ours

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'gradexplain.lessons' has no attribute '{name}'")
        return getattr(importlib.import_module(f"gradexplain.lessons.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
