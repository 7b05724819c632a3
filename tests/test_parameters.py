"""Options read from a signature: what is offered, how texts become values, what is refused and how it is said."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import pytest

from gradexplain.errors import InputError
from gradexplain.figures.parameters import (
    Checked,
    Count,
    Range,
    checked,
    checked_all,
    parameters_of,
    read,
    written,
)
from gradexplain.locale.spelling import as_typed, options_spelled


def halved(value: int) -> None:
    if value % 2:
        raise InputError("parameter_whole", name="even", seen=value)


def run(
    expression: Annotated[str, "A function of x."] = "x**2",
    hidden: int = 3,
    *,
    steps: Annotated[int, "Steps.", Range(least=1, most=100)] = 50,
    lr: Annotated[tuple[float, ...], "Learning rates.", Range(above=0), Count(most=3)] = (0.1, 0.5),
    at: Annotated[float | None, "A point."] = None,
    method: Annotated[Literal["forward", "central"], "Which difference."] = "central",
    clear: Annotated[bool, "Clear the gradient."] = True,
    even: Annotated[int, "An even number.", Checked(halved)] = 2,
    size: Annotated[Literal["column", "page"] | tuple[float, ...] | None, "Words or numbers.", Count(2, 2)] = None,
    needed: Annotated[int, "Without a default."],
) -> None: ...


KNOWN = {p.name: p for p in parameters_of(run)}


def test_what_has_a_help_text_is_offered_in_order() -> None:
    assert list(KNOWN) == ["expression", "steps", "lr", "at", "method", "clear", "even", "size", "needed"]
    assert [KNOWN[n].option for n in ("expression", "lr")] == ["EXPRESSION", "--lr"]
    assert [KNOWN[n].metavar for n in ("steps", "lr", "method")] == ["N", "NUMBER,...", "forward|central"]
    assert [p.name for p in KNOWN.values() if p.required] == ["needed"]
    assert (KNOWN["at"].optional, KNOWN["expression"].positional, KNOWN["lr"].positional) == (True, True, False)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("steps", " 7 ", 7),
        ("lr", "0.1, 1e-3,2", (0.1, 0.001, 2.0)),
        ("at", "-3", -3.0),
        ("method", "forward", "forward"),
        ("expression", "x**3", "x**3"),
        ("clear", "false", False),
        ("size", "page", "page"),
        ("size", "4,3", (4.0, 3.0)),
    ],
)
def test_texts_become_values(name: str, text: str, value: Any) -> None:
    found = read(KNOWN[name], text)
    assert found == value
    assert type(found) is type(value)
    assert read(KNOWN[name], written(found)) == value


# name, text, what its value would be in Python, a word of the sentence
REFUSED: list[tuple[str, str, Any, str]] = [
    ("steps", "1.5", 1.5, "whole"),
    ("steps", "", "", "whole"),
    ("steps", "0", 0, "≥ 1, ≤ 100"),
    ("steps", "101", 101, "≤ 100"),
    ("lr", "0.1,,2", (0.1, "", 2), "several"),
    ("lr", "0", (0.0,), "> 0"),
    ("lr", "1,2,3,4", (1, 2, 3, 4), "from 1 to 3"),
    ("lr", "nan", (float("nan"),), "finite"),
    ("at", "inf", float("inf"), "finite"),
    ("at", "1e999", float("inf"), "finite"),
    ("method", "both", "both", "forward, central"),
    ("clear", "perhaps", "perhaps", "true or false"),
    ("even", "3", 3, "even cannot be 3"),
]


@pytest.mark.parametrize(("name", "text", "value", "word"), REFUSED)
def test_what_does_not_fit_is_refused_in_a_sentence(name: str, text: str, value: Any, word: str) -> None:
    tries: list[tuple[Callable[..., Any], Any, Callable[[str], str]]] = [(read, text, as_typed), (checked, value, str)]
    for way, given, spelling in tries:
        with pytest.raises(InputError) as caught:
            way(KNOWN[name], given)
        with options_spelled(spelling):
            said, chinese = caught.value.sentence(), caught.value.sentence("zh")
        assert word in said
        assert said.startswith(f"{spelling(name)} cannot be") or "items" in said
        assert any("\u4e00" <= c <= "\u9fff" for c in chinese)


def test_python_values_are_taken_as_they_are_meant() -> None:
    assert checked_all(run, {"lr": [1, 0.5], "at": None, "steps": 3}) == {"lr": (1.0, 0.5), "at": None, "steps": 3}
    for name, value in (("steps", True), ("steps", "3"), ("lr", 0.1), ("at", "3"), ("method", 3), ("steps", None)):
        with pytest.raises(InputError):
            checked(KNOWN[name], value)
    with pytest.raises(InputError, match=r"no option speed; there are: expression, steps, lr"):
        checked_all(run, {"speed": 3})
