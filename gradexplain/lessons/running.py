"""Runs lessons: each from a seed and a type of its own, so that it is the same each time."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

import gradexplain.lessons.site
import gradexplain.lessons.telling  # noqa: F401  # registers how a lesson is told
from gradexplain.figures.parameters import checked_all
from gradexplain.lessons.contents import known
from gradexplain.lessons.parts import Lesson, Parts
from gradexplain.recording.computation import one_question


def function_of(name: str) -> Callable[..., Parts]:
    """Returns the function that runs the lesson; raises `InputError` where there is none of that name."""
    module = importlib.import_module(f"gradexplain.lessons.course.{known(name).replace('-', '_')}")
    return module.lesson  # type: ignore[no-any-return]


def run(name: str, **options: Any) -> Lesson:
    """Runs a lesson and returns what came of it; `options` are the lesson's own, such as `lr=1.01`.

    Random states, grad mode and default type are as before afterwards, and the lesson starts from a seed and a type of
    its own, so that it runs the same each time. Raises `InputError` for a lesson or an option that does not exist.
    """
    function = function_of(name)
    given = checked_all(function, options)
    with torch.random.fork_rng(devices=[]), one_question(), torch.enable_grad(), _float32():
        torch.manual_seed(0)
        return Lesson(name, given, tuple(function(**given)))


@contextmanager
def _float32() -> Iterator[None]:
    """Makes float32 the default type inside the block."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
