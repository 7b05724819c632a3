"""The docstrings of what is public: whole, and their examples run."""

import doctest
import importlib
import inspect
import re
from collections.abc import Callable

import pytest

import gradexplain as gx

VERBS = [gx.explain, gx.verify, gx.assert_gradients, gx.graph, gx.check_receipt]
FOLDERS = [gx.lessons, gx.figures]
HOLDING_EXAMPLES = [
    "gradexplain.api",
    "gradexplain.documents.shown",
    "gradexplain.explanation.explanation",
    "gradexplain.figures",
    "gradexplain.graphs.picture",
    "gradexplain.lessons",
    "gradexplain.receipts.answer",
    "gradexplain.verification.verdicts",
]


@pytest.mark.parametrize("name", HOLDING_EXAMPLES)
def test_the_examples_of_docstrings_run_and_give_what_they_say(
    name: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert found.failed == 0
    assert found.attempted > 0


@pytest.mark.parametrize("verb", VERBS, ids=lambda v: v.__name__)
def test_a_docstring_speaks_of_every_argument_and_shows_an_example(verb: Callable[..., object]) -> None:
    doc = inspect.getdoc(verb) or ""
    for parameter in inspect.signature(verb).parameters.values():
        assert parameter.kind is parameter.VAR_KEYWORD or f"`{parameter.name}" in doc, parameter.name
    assert ">>> " in doc
    assert "aises" in doc


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.__name__)
def test_every_function_of_a_public_folder_says_what_it_does(folder: object) -> None:
    for name in dir(folder):
        doc = inspect.getdoc(getattr(folder, name)) or ""
        assert re.match(r"[A-Z][^\n]+", doc), name


@pytest.mark.parametrize("kind", [gx.Explanation, gx.Report, gx.Picture], ids=lambda k: k.__name__)
def test_every_public_method_of_a_result_says_what_it_gives(kind: type) -> None:
    assert ">>> " in (inspect.getdoc(kind) or "")
    for name, member in inspect.getmembers(kind):
        if not name.startswith("_") and (callable(member) or isinstance(member, property)):
            assert inspect.getdoc(member), name
