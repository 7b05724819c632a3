"""Options in sentences: as the command line has them to who typed a command, as Python has them to who called us."""

import inspect
import re
from collections.abc import Callable, Iterator
from string import Formatter
from typing import Any

import pytest
import torch

import gradexplain as gx
from gradexplain.errors import InputError
from gradexplain.figures.design import designs
from gradexplain.lessons.contents import names
from gradexplain.lessons.running import function_of
from gradexplain.locale.catalogue import LANGUAGES, say, sentences
from gradexplain.locale.spelling import Option, as_typed, options_spelled, spaced

TYPED = re.compile(r"(?<![-\w])--[a-z][-a-z]*")

# Without the sentences of the command line alone, and the names of formulas.
TEMPLATES = {
    (language, key): template
    for language in LANGUAGES
    for chapter in ("", "lessons")
    for key, template in sentences(language, chapter).items()
    if not key.startswith(("usage.", "formulas."))
}


def options_of(template: str) -> Iterator[str]:
    """Yields what a template names by `{option:…}`, the places within it as they stand."""
    return (spelled or "" for _, place, spelled, _ in Formatter().parse(template) if place == "option")


NAMING = {place: list(options_of(template)) for place, template in TEMPLATES.items() if "{option" in template}


def test_no_sentence_of_both_worlds_has_an_option_as_it_is_typed() -> None:
    raw = {place: TYPED.findall(t) for place, t in TEMPLATES.items() if not re.search(r"gradexplain \w+ .*--", t)}
    assert len(raw) > 2000
    assert not {place: found for place, found in raw.items() if found}


def test_every_option_that_a_sentence_names_is_there_in_python_and_on_the_command_line() -> None:
    import typer

    from gradexplain.cli.app import app

    verbs = (gx.explain, gx.verify, gx.compare, gx.Explanation.to_json, gx.lessons.judge)
    figures, lessons = (design.compute for design in designs().values()), map(function_of, names())
    called = {name for f in (*verbs, *figures, *lessons) for name in inspect.signature(f).parameters}
    root: Any = typer.main.get_command(app)
    context = typer.Context(root)
    groups = [root, root.get_command(context, "figure"), root.get_command(context, "lesson")]
    commands = [group.get_command(context, name) for group in groups for name in group.list_commands(context)]
    typed = {option for command in commands for parameter in command.params for option in parameter.opts}
    named = {option.partition("=")[0] for options in NAMING.values() for option in options} - {"{name}"}
    assert len(named) > 8
    assert named <= called
    assert {as_typed(name) for name in named} <= typed


def test_both_languages_name_the_same_options() -> None:
    first, *others = (
        {key: [o.partition("=")[0] for o in named] for (spoken, key), named in NAMING.items() if spoken == language}
        for language in LANGUAGES
    )
    assert len(first) > 15
    assert all(other == first for other in others)


@pytest.mark.parametrize(
    ("given", "typed"),
    [
        ("wrt", "--wrt"),
        ("max_nodes=3", "--max-nodes 3"),
        ("module='net.0'", "--module net.0"),
        ("module=NAME", "--module NAME"),
        ("full=True", "--full"),
        ("lr=(0.5, 2)", "--lr 0.5,2"),
    ],
)
def test_an_option_is_spelled_as_its_reader_gives_it(given: str, typed: str) -> None:
    assert format(Option(), given) == given
    with options_spelled(as_typed):
        assert format(Option(), given) == typed
        with options_spelled(str):
            assert format(Option(), given) == given
        assert format(Option(), given) == typed
    assert format(Option(), given) == given


Call = Callable[[], object]
CALLS: list[tuple[Call, str, str, str]] = [
    (lambda: gx.figures.curve("x**2", at=30.0), "figure curve x**2 --at 30 --output a.svg", "at=30", "--at 30"),
    (lambda: gx.figures.curve("x", ends=(2.0, 1.0)), "figure curve x --ends 2,1 --output a.svg", "ends ", "--ends"),
    (lambda: gx.figures.surface(at=(9.0, 0.0)), "figure surface --at 9,0 --output a.svg", "at=9", "--at 9"),
    (lambda: gx.figures.surface(x_ends=(1.0, 0.0)), "figure surface --x-ends 1,0 --output a.svg", "x_ends", "--x-ends"),
    (lambda: gx.figures.descent(lr=(0.0,)), "figure descent --lr 0 --output a.svg", "lr cannot", "--lr cannot"),
    (lambda: gx.figures.descent(lr=0.1), "figure descent --lr 0.1,, --output a.svg", "lr=(0.5, 2)", "--lr 0.5,2"),
    (lambda: gx.explain(torch.sin, [torch.ones(())], order=9), "explain sin(x) x=1 --order 9", "order=2", "--order 2"),
    (
        lambda: gx.explain(lambda x, n: x * n, [torch.ones(()), torch.tensor(2)], wrt="n"),
        "explain x*n x=1 n=2:int64 --wrt n",
        "out of wrt",
        "out of --wrt",
    ),
    (lambda: gx.graph(torch.sin, [torch.ones(())], view="up"), "graph sin(x) x=1 --view up", "view", "--view"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "line", "called", "typed"), CALLS, ids=[line for _, line, *_ in CALLS])
def test_a_fault_is_told_in_the_words_of_the_caller(
    call: Call, line: str, called: str, typed: str, command: Callable[..., Any], tmp_path: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        call()
    assert called in str(caught.value)
    assert not TYPED.search(str(caught.value))
    said = command(*line.split())
    assert said.code == 2
    assert typed in said.err


def test_a_page_advises_in_the_words_of_its_reader() -> None:
    net = torch.nn.Sequential(*[torch.nn.Linear(3, 3) for _ in range(30)])
    explanation = gx.explain(lambda x: net(x).sum(), {"x": torch.ones(2, 3)})
    page = explanation.render("text", width=200)
    assert "module=NAME opens one, for example module='" in page
    assert not TYPED.search(page)
    with options_spelled(as_typed):
        assert "--module NAME opens one" in explanation.render("text", width=200)


def test_a_record_has_the_same_words_wherever_it_was_made() -> None:
    explanation = gx.explain(torch.sin, [torch.ones(())], effort=1e-9)
    record = explanation.to_json()
    assert "A larger effort does it" in record
    with options_spelled(as_typed):
        assert "A larger --effort does it" in explanation.render("text", width=200)
        assert explanation.to_json() == record


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("apart", [1e-2, 3e-10, 2.0**-40, 2.0**-52])
def test_two_numbers_that_differ_are_never_written_alike(language: str, apart: float) -> None:
    numbers = {"seen": 1.0 + apart, "right": 1.0}
    said = say("verdicts.slope", language, **numbers)
    told = [float(n) for n in re.findall(r"\d+\.\d+|\b1\b", said)]
    assert len({*told}) == 2
    assert max(told) - 1 == pytest.approx(apart, rel=0.5)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"count": 1, "size": "1"}, "1 parameter, 1 number"),
        ({"count": 2, "size": "1,024"}, "2 parameters, 1,024 numbers"),
        ({"count": 0, "size": 0}, "0 parameters, 0 numbers"),
    ],
)
def test_a_noun_agrees_with_its_count(data: dict[str, object], said: str) -> None:
    assert say("explanation.parameters_count", **data) == said


@pytest.mark.parametrize(
    ("template", "data", "said"),
    [
        ("的{name}不同", "梯度 x", "的梯度 x 不同"),
        ("的{name}不同", "x[3]", "的 x[3] 不同"),
        ("的 {name} 不同", "梯度", "的梯度不同"),
        ("在 {name} 处", "(0, 3)", "在 (0, 3) 处"),
        ("即{name}。", "n2变量", "即 n2变量。"),
        ("（{name}）：{name}", "x", "（x）：x"),
        ("形状   {name}", "数", "形状   数"),
        ("共 {name:.2f} 个", 0.5, "共 0.50 个"),
    ],
)
def test_chinese_has_one_space_beside_letters_and_none_beside_itself(template: str, data: object, said: str) -> None:
    assert spaced(template, {"name": data}) == said


def test_a_chinese_sentence_is_spaced() -> None:
    data = {"name": "梯度 x", "times": "3", "relative": "0.1"}
    assert say("comparison.differs", "zh", **data).startswith("A 与 B 的梯度 x 不同：")
