"""The lessons: every claim is checked, every row of the tutorials is settled, and a wrong claim is caught."""

import html
import json
import re
import shlex
import string
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from gradexplain import lessons
from gradexplain.errors import InputError
from gradexplain.figures.style import dark_rules
from gradexplain.lessons.answers import exercise_of, is_right
from gradexplain.lessons.claims import Claim, plain
from gradexplain.lessons.listings import run_listing
from gradexplain.lessons.parts import Drawn, Lesson, Pictured
from gradexplain.lessons.pictures import pictures
from gradexplain.locale.catalogue import LANGUAGES, sentences
from gradexplain.mathematics.terms import number_text

# The rows of the two tutorials: A1 to A39, B1 to B35.
ROWS = {f"A{k}" for k in range(1, 40)} | {f"B{k}" for k in range(1, 36)}
NAMES = lessons.names()


@cache
def ran(name: str) -> Lesson:
    return lessons.run(name)


# ------------------------------------------------------------------------------------------------------- what is true


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", NAMES)
def test_every_claim_of_a_lesson_is_true(name: str) -> None:
    assert [c for c in ran(name).claims if not c.holds] == []
    assert ran(name).claims


def test_every_row_of_the_tutorials_is_settled_by_a_lesson() -> None:
    settled = {row for name in NAMES for claim in ran(name).claims for row in claim.rows}
    assert settled == ROWS


def altered(value: object) -> object:
    """Returns a value that is wrong wherever `value` is right."""
    value = plain(value)
    if isinstance(value, list):
        return [altered(item) for item in value] if value else [1]
    if isinstance(value, dict):
        return {key: altered(item) for key, item in value.items()}
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value * 2 + 1 if abs(value) < 1e300 else 0.0
    return f"not {value}"


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", NAMES)
def test_a_planted_wrong_claim_is_seen(name: str) -> None:
    for number, claim in enumerate(ran(name).claims):
        match claim.relation:
            case "=" | "≈":
                wrong = replace(claim, measured=altered(claim.measured))
            case "≠":
                wrong = replace(claim, measured=claim.expected)
            case _:
                wrong = replace(claim, measured=claim.expected, expected=claim.expected)
        parts = tuple(wrong if part is claim else part for part in ran(name).parts)
        planted = replace(ran(name), parts=parts)
        assert not planted.holds, (number, claim.key)
        assert "✗" in planted.render("text")


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_a_lesson_notices_gradients_that_are_wrong(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every gradient that torch returns is made one part in a hundred too large: some claim, or the run, must fail."""
    true = torch.autograd.graph._engine_run_backward

    def wrong(outputs: object, grads: object, *arguments: object, **options: object) -> object:
        return true(outputs, tuple(None if g is None else g * 1.01 for g in grads), *arguments, **options)  # type: ignore

    monkeypatch.setattr("torch.autograd.graph._engine_run_backward", wrong)
    monkeypatch.setattr("torch.autograd._engine_run_backward", wrong)
    try:
        held = lessons.run(name).holds
    except (AssertionError, ValueError, RuntimeError, InputError):
        held = False
    assert not held


def test_a_lesson_is_one_line_in_a_console_and_a_page_in_a_notebook() -> None:
    lesson = ran("accumulation")
    claims = sum(line.startswith("  ✓ ") for line in str(lesson).splitlines()) - 1  # the last says that they hold
    assert repr(lesson) == f"<Lesson accumulation: {claims} of {claims} claims hold>"
    assert all("__builtins__" not in repr(part) for name in NAMES for part in ran(name).parts)
    assert re.search("<main>(.*?)<section>", lesson.render("html"), re.S)[1].strip() in html.unescape(
        lesson._repr_html_()
    )
    assert lessons.told("accumulation", "title") in lesson._repr_html_()


@pytest.mark.parametrize("name", NAMES)
def test_a_lesson_is_data_in_json(name: str) -> None:
    def refused(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    record = json.loads(ran(name).render("json"), parse_constant=refused)
    assert [claim["holds"] for claim in record["claims"]] == [True] * len(ran(name).claims)
    page = " ".join(ran(name).render("markdown", width=200).replace("\\", "").split())
    assert all(" ".join(claim["text"].replace("\\", "").split()) in page for claim in record["claims"])
    assert len(record["exercises"]) == len(ran(name).exercises)
    assert not any("answer" in exercise for exercise in record["exercises"])


def test_the_course_has_every_lesson_once_and_offers_its_public_names() -> None:
    files = {file.stem for file in (Path(lessons.__file__).parent / "course").glob("[!_]*.py")}
    assert sorted(NAMES) == sorted(stem.replace("_", "-") for stem in files)
    assert sorted(dir(lessons)) == sorted(lessons.__all__)
    assert all(getattr(lessons, name) is not None for name in lessons.__all__)
    with pytest.raises(AttributeError, match="'lesson'"):
        lessons.lesson  # noqa: B018


def test_nan_is_in_no_relation_to_a_number() -> None:
    nan = float("nan")
    for relation in ("=", "≈", "<", ">"):
        assert not Claim("", nan, relation, 1.0, 9.0).holds
        assert not Claim("", [1.0, nan], relation, [1.0, 1.0], 9.0).holds
    assert Claim("", nan, "=", nan).holds


def test_a_claim_knows_how_far_off_it_is() -> None:
    assert Claim("", [1.0, 2.5], "≈", [1.0, 2.0], 1.0).off == 0.5
    for claim in (Claim("", [1.0], "=", [2.0]), Claim("", torch.ones(2), "≈", torch.ones(3), 1.0)):
        assert claim.off != claim.off  # nan: there is no such number


@pytest.mark.parametrize("relation", ["≈", "<", ">"])
def test_a_claim_about_no_number_at_all_is_refused(relation: str) -> None:
    with pytest.raises(AssertionError, match="no number"):
        assert Claim("", [], relation, [], 1.0).holds  # type: ignore[arg-type]


def test_claims_compare_shapes_as_well() -> None:
    assert not Claim("", torch.ones(1), "=", torch.tensor(1.0)).holds
    assert not Claim("", torch.ones(2, 1), "≈", torch.ones(2), 1.0).holds
    assert not Claim("", torch.ones(3), "≈", torch.ones(2), 1.0).holds
    assert Claim("", torch.ones(2), "≈", torch.ones(2) + 0.5, 0.5).holds


# ------------------------------------------------------------------------------------------------------- the words


def fixed(template: str) -> str:
    """Returns what a sentence says by itself: without its data, code, and names and formulas that have digits."""
    plain_text = "".join(
        literal + "∎" * (field is not None) for literal, field, *_ in string.Formatter().parse(template)
    )
    without_code = CODE.sub("", plain_text)
    return re.sub(r"\w*[A-Za-zΣ]\w*", "", without_code, flags=re.ASCII)


CODE = re.compile(r"`[^`]*`")


def keys(language: str) -> dict[str, str]:
    return sentences(language, "lessons")


def test_both_languages_say_the_same() -> None:
    english, chinese = keys("en"), keys("zh")
    assert english.keys() == chinese.keys()
    for key, template in english.items():
        fields = [
            Counter(f for _, f, *_ in string.Formatter().parse(t) if f is not None) for t in (template, chinese[key])
        ]
        assert fields[0] == fields[1], key
        assert Counter(CODE.findall(template)) == Counter(CODE.findall(chinese[key])), key


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_number_is_typed_into_a_lesson(language: str) -> None:
    assert {k: t for k, t in keys(language).items() if re.search(r"\d", fixed(t))} == {}


def test_a_typed_number_is_seen() -> None:
    assert re.search(r"\d", fixed("The gradient is 8 at x = {x}."))
    assert not re.search(r"\d", fixed("x², 2x, float32, log2 and `x + 1` at {x}"))


def test_every_sentence_of_a_lesson_is_used_and_chinese_is_chinese() -> None:
    untold = [
        k for k, t in keys("zh").items() if not re.search(r"[\u4e00-\u9fff]", t) and re.search(r"[a-z]{4}", fixed(t))
    ]
    assert untold == []
    code = {name: Path(lessons.__file__).parent / "course" / f"{name.replace('-', '_')}.py" for name in NAMES}
    for key in keys("en"):
        name, _, own = key.partition(".")
        of_every = own in ("title", "question", "remember")
        assert of_every or f'"{own.removesuffix("-hint")}"' in code[name].read_text(), key


NUMBER = r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.])"


def numbers(page: str) -> Counter[str]:
    return Counter(re.findall(NUMBER, re.sub(r"[，。；：（）、,;:()\[\]|]+", " ", re.sub(r"\.(?=\s|$)", " ", page))))


@pytest.mark.parametrize("name", NAMES)
def test_both_languages_show_the_same_numbers(name: str) -> None:
    en, zh = (ran(name).render("markdown", language=language, width=110) for language in ("en", "zh"))
    assert numbers(en) == numbers(zh)


@pytest.mark.parametrize("name", NAMES)
def test_a_lesson_is_shown_in_every_format(name: str) -> None:
    for format in ("text", "terminal", "html"):
        assert lessons.told(name, "title").split()[0] in ran(name).render(format)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_wider_than_the_page_but_code(name: str) -> None:
    from rich.cells import cell_len

    for language in LANGUAGES:
        page = ran(name).render("text", language=language, width=100)
        assert [line for line in page.splitlines() if cell_len(line) > 100] == []


# --------------------------------------------------------------------------------------------------------- exercises


def typed(answer: object, digits: int | None) -> str:
    """Returns an answer as somebody types it."""
    answer = plain(answer)
    if isinstance(answer, list):
        return "[" + ",".join(typed(item, digits) for item in answer) + "]"
    if isinstance(answer, str):
        return answer
    return repr(answer) if digits is None else number_text(float(answer), digits)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_the_answers_of_the_exercises_are_judged(name: str) -> None:
    assert 1 <= len(ran(name).exercises) <= 3
    for exercise in ran(name).exercises:
        assert is_right(exercise, typed(exercise.answer, exercise.digits))
        assert not is_right(exercise, typed(altered(exercise.answer), exercise.digits))
        for language in LANGUAGES:
            assert f"{exercise.key}-hint" in {k.partition(".")[2] for k in keys(language) if k.startswith(f"{name}.")}


def test_an_answer_is_not_right_by_being_near() -> None:
    exercise = exercise_of(ran("accumulation"), 1)
    assert is_right(exercise, "8.0")
    assert not is_right(exercise, "8.001")
    assert not is_right(exercise, "8,8")
    with pytest.raises(InputError, match="no number"):
        is_right(exercise, "ones(1)")


# ------------------------------------------------------------------------------------------------------------ running


def state() -> Iterator[object]:
    yield torch.random.get_rng_state().tolist()
    yield torch.is_grad_enabled()
    yield torch.get_default_dtype()
    yield torch.get_num_threads()
    yield torch.is_anomaly_enabled()


@pytest.mark.thorough
def test_lessons_leave_everything_as_it_was() -> None:
    before = list(state())
    for name in NAMES:
        lessons.run(name)
    assert list(state()) == before


def test_a_lesson_runs_the_same_whatever_the_default_type_is() -> None:
    usual = ran("weight-decay").render("text")
    torch.set_default_dtype(torch.float64)
    try:
        assert lessons.run("weight-decay").render("text") == usual
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_listing_keeps_what_its_code_did() -> None:
    found = run_listing("a = 1\nprint(a)\nimport warnings; warnings.warn('careful')\nb = a / 0\nprint('never')")
    assert (found.printed, found.fault, found.warnings) == ("1\n", "ZeroDivisionError", ("careful",))
    assert found.names["a"] == 1


def test_a_lesson_alone_leads_nowhere() -> None:
    assert "training-step" in ran("summary").render("markdown")
    assert ".md)" not in ran("summary").render("markdown")


def test_an_option_changes_what_is_computed() -> None:
    found = lessons.run("accumulation", x=3.0, passes=5)
    assert found.holds
    assert is_right(found.exercises[0], "36")
    assert "--x 3 --passes 5" in str(found)
    with pytest.raises(InputError, match="passes"):
        lessons.run("accumulation", passes=1)
    with pytest.raises(InputError, match="steps"):
        lessons.run("accumulation", steps=1)
    with pytest.raises(InputError, match="Did you mean 'accumulation'"):
        lessons.run("acumulation")


# --------------------------------------------------------------------------------------------------- the command line


def test_lessons_are_listed_by_topic_without_waiting_for_torch(process: Callable) -> None:
    code = (
        "import sys; from gradexplain import lessons; assert lessons.listing('zh'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    listed = process(["lesson"])
    assert all(f" {name} " in listed.out for name in NAMES)
    assert listed.code == 0


def test_a_lesson_is_written_with_its_figures(command: Callable, tmp_path: Path) -> None:
    assert command("lesson", "descent", "--steps", "9", "--output", str(tmp_path), "--language", "zh").code == 0
    assert linked(tmp_path / "descent.md") == {"descent-1.svg"}
    assert "gradexplain lesson descent --steps 9" in (tmp_path / "descent.md").read_text()


def linked(page: Path) -> set[str]:
    """Returns the pictures of a page; every one is there, and whole."""
    files = re.findall(r"^!\[[^\]]*\]\((\S+)\)$", page.read_text(), re.MULTILINE)
    assert all((page.parent / file).read_text().rstrip().endswith("</svg>") for file in files)
    return set(files)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", NAMES)
def test_the_command_under_a_figure_draws_it(name: str, command: Callable, tmp_path: Path) -> None:
    drawn = [part for part in ran(name).parts if isinstance(part, Drawn)]
    shown = re.findall(r"gradexplain (figure .*) --output \S+\.svg", ran(name).render("markdown"))
    assert len(shown) == len(drawn)
    for part, line in zip(drawn, shown, strict=True):
        assert command(*shlex.split(line), "--output", str(tmp_path / "figure.svg")).code == 0
        picture = dict(pictures(ran(name), "en"))[ran(name).parts.index(part)]
        assert (tmp_path / "figure.svg").read_bytes() == picture.replace(dark_rules().encode(), b"")


def test_nothing_is_written_in_a_format_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="markdown"):
        lessons.save_course(tmp_path / "course", "pdf")
    with pytest.raises(InputError, match="markdown"):
        lessons.save(ran("accumulation"), tmp_path / "course", "pdf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.thorough
def test_the_course_is_written_whole_and_its_pictures_are_the_same_each_time(tmp_path: Path) -> None:
    course, again = tmp_path / "course", tmp_path / "again"
    found = lessons.save_course(course)
    for lesson in found:
        own = linked(lessons.save(ran(lesson.name), again))
        assert linked(course / f"{lesson.name}.md") == own
        assert len(own) == sum(isinstance(part, Drawn | Pictured) for part in lesson.parts)
        assert [file for file in own if (course / file).read_bytes() != (again / file).read_bytes()] == []
    contents = (course / "README.md").read_text()
    assert all(f"]({lesson.name}.md)" in contents and lesson.holds for lesson in found)
    assert {row for row in ROWS if f"\n| {row} |" in contents} == {r for x in found for c in x.claims for r in c.rows}
    pages = {file.name: file.read_text() for file in (tmp_path / "course").glob("*.md")}
    links = {name: re.findall(r"(?<!!)\[[^\]]*\]\(([^)]+\.md)\)", page) for name, page in pages.items()}
    assert {target for targets in links.values() for target in targets} == {*pages}  # none leads nowhere
    for name, following in zip(NAMES, [*NAMES[1:], None], strict=True):
        onwards = [f"{following}.md"] if following else []
        assert links[f"{name}.md"][-1 - len(onwards) :] == [*onwards, "README.md"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["accumulation", "--exercise", "1", "--answer", "8"], 0, "✓ Right."),
        (["accumulation", "--exercise", "1", "--answer", "2"], 1, "Hint"),
        (["accumulation", "--exercise", "2", "--answer", "None"], 0, "✓ Right."),
        (["accumulation", "--answer", "8"], 2, "--exercise N"),
        (["accumulation", "--exercise", "3", "--answer", "8"], 2, "it has 2"),
        (["accumulation", "--exercise", "1", "--answer", "eight"], 2, "Give the answer in digits"),
        (["accumulation", "--exercise", "1", "--answer", "8 passes"], 2, "Give the answer in digits"),
        (["accumulation", "--exercise", "1", "--answer", "2**3"], 2, "Give the answer in digits"),
        (["accumulation", "--passes", "1"], 2, "--passes"),
        (["accumulation", "--format", "json"], 2, "markdown"),
        (["accumulation", "--width", "3"], 2, "3"),
        (["accumulatoin"], 2, "Did you mean 'accumulation'?"),
        (["--language", "zh", "accumulation"], 2, "课名之后"),
        (["--all"], 2, "--output DIR"),
        (["--all", "--output", "/proc/course"], 2, "cannot be written"),
        (["accumulation", "--x", "3", "--width", "60"], 0, "at x = 3"),
    ],
)
def test_the_command_says_what_came_of_it(command: Callable, arguments: list[str], code: int, said: str) -> None:
    found = command("lesson", *arguments)
    assert found.code == code
    assert said in (found.err if code == 2 else found.out)


def test_a_lesson_with_a_claim_that_fails_ends_with_one(command: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(ran("accumulation"), parts=(Claim("sum", 5, "=", 6, data={"passes": 3}),))
    monkeypatch.setattr(lessons, "run", lambda name, **options: wrong)
    found = command("lesson", "accumulation", "--width", "99")
    assert found.code == 1
    assert "✗ After 3 passes" in found.out
    assert "Not true here: 5 = 6" in " ".join(found.out.split())
