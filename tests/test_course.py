"""The course as a static site, used in a real browser as a learner would: every number held against torch."""

import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import mpmath
import pytest
import torch
from browser import Window, opened
from test_pages import AXE, HOSTILE, WIDTHS

import gradexplain.figures
from gradexplain import lessons
from gradexplain.errors import InputError
from gradexplain.figures.design import adapting, rendered
from gradexplain.lessons.answers import accepted, is_right
from gradexplain.lessons.course import RESTS_ON
from gradexplain.lessons.parts import Drawn, Exercise, Lesson, Ran
from gradexplain.lessons.site import audit_page, index_page, lesson_page
from gradexplain.locale.catalogue import LANGUAGES, sentences

NAMES = lessons.names()
READ = ("three-ways", "step-error", "accumulation", "descent", "surface")


@cache
def ran(name: str) -> Lesson:
    return lessons.run(name) if name in READ else Lesson(name, {}, ())


@cache
def page(name: str, language: str = "en") -> str:
    if name in ("index", "audit"):
        return {"index": index_page, "audit": audit_page}[name]([ran(name) for name in NAMES], language)
    return lesson_page(ran(name), language, beside=NAMES)


def shown(window: Window, figure: str) -> dict[str, float]:
    """Returns the numbers of a figure by their names; what is displayed is the number, in its digits."""
    found = window.page.eval_on_selector_all(
        f"[data-figure={figure}] [data-value]", "all => all.map(e => [e.dataset.name, e.dataset.value, e.textContent])"
    )
    for _, value, text in found:
        assert float(text.replace("−", "-")) == pytest.approx(float(value), rel=1e-4)
    return {name: float(value) for name, value, _ in found}


def move(window: Window, figure: str, place: int, number: int = 0) -> None:
    window.page.locator(f"[data-figure={figure}] input").nth(number).fill(str(place))


# ------------------------------------------------------------------------------------------------------ live figures


def parabola(x: float) -> tuple[float, float]:
    """Returns the value and the slope of x² + 2x by torch."""
    leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    value = leaf**2 + 2 * leaf
    value.backward()
    return value.item(), leaf.grad.item()


def test_the_point_is_dragged_and_its_tangent_follows(browser: Any, tmp_path: Path) -> None:
    with opened(browser, page("three-ways"), tmp_path) as window:
        for place in (0, 31, 120):
            move(window, "curve", place)
            found = shown(window, "curve")
            assert found["x"] == pytest.approx(6 * place / 120, abs=1e-12)
            assert (found["value"], found["slope"]) == parabola(found["x"])
        window.page.locator("[data-figure=curve] input").press("ArrowLeft")
        assert shown(window, "curve")["x"] == pytest.approx(5.95)
        plot = window.page.locator("[data-figure=curve] svg")
        plot.scroll_into_view_if_needed()
        box = plot.bounding_box()
        window.page.mouse.move(box["x"] + 60, box["y"] + 60)
        window.page.mouse.down()
        window.page.mouse.move(box["x"] + 200, box["y"] + 90)
        window.page.mouse.up()
        found = shown(window, "curve")
        across = (200 - 44) / (box["width"] - 54) * 6
        assert found["x"] == pytest.approx(across, abs=0.03)
        assert (found["value"], found["slope"]) == parabola(found["x"])
        assert f"{found['slope']:g}" in plot.get_attribute("aria-label")


def test_a_wrong_slope_on_a_page_is_seen(browser: Any, tmp_path: Path) -> None:
    planted = page("three-ways").replace('"slopes":[2.0,', '"slopes":[2.01,')
    assert planted != page("three-ways")
    with opened(browser, planted, tmp_path) as window:
        move(window, "curve", 0)
        assert shown(window, "curve")["slope"] != parabola(0.0)[1]


def test_each_rate_walks_as_torch_does_with_the_closed_form_beside_it(browser: Any, tmp_path: Path) -> None:
    with opened(browser, page("descent"), tmp_path) as window:
        for place, rate in ((9, 0.1), (49, 0.5), (100, 1.01)):
            move(window, "descent", place)
            found = shown(window, "descent")
            assert found["learning rate"] == rate
            assert found["factor"] == pytest.approx(1 - 2 * rate, abs=1e-15)
            x = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
            optimizer = torch.optim.SGD([x], lr=rate)
            for step in range(16):
                assert found[f"x{step}"] == pytest.approx(x.item(), rel=1e-13, abs=1e-15)
                assert found[f"exact{step}"] == pytest.approx(-1 + 2 * (1 - 2 * rate) ** step, rel=1e-13, abs=1e-15)
                optimizer.zero_grad()
                (x**2 + 2 * x).sum().backward()
                optimizer.step()


def test_rounding_takes_over_below_the_best_step(browser: Any, tmp_path: Path) -> None:
    with opened(browser, page("step-error"), tmp_path) as window:
        for dtype, places in (("float64", (2, 30, 48, 90)), ("float32", (30, 72, 90))):
            window.page.locator("[data-figure=step-error] select").select_option(label=dtype)
            rules = []
            for place in places:
                move(window, "step-error", place)
                found = shown(window, "step-error")
                assert found["h"] == pytest.approx(10 ** (place / 6 - 16), rel=1e-12)
                x, h = (torch.tensor(v, dtype=getattr(torch, dtype)) for v in (1.0, found["h"]))
                for name, quotient in (
                    ("forward", (x + h).exp() - x.exp()),
                    ("central", (x + h).exp() - (x - h).exp()),
                ):
                    slope = quotient / h if name == "forward" else quotient / (2 * h)
                    error = abs(float(mpmath.mpf(slope.item()) - mpmath.exp(1)))
                    assert found[f"{name} difference, error"] == pytest.approx(error, rel=1e-6, abs=1e-17)
                leaf = x.clone().requires_grad_()
                (slope,) = torch.autograd.grad(leaf.exp(), leaf)
                automatic = abs(float(mpmath.mpf(slope.item()) - mpmath.exp(1)))
                assert found["automatic, error"] == pytest.approx(automatic, rel=1e-6)
                rules.append(window.page.inner_text("[data-figure=step-error] .rules"))
            assert rules[0] == "rounding rules"
            assert rules[-1] == "the formula rules"
        assert window.page.locator("[data-figure=step-error] .shade").count() == 1


def test_the_arrow_on_the_surface_is_the_gradient_of_torch(browser: Any, tmp_path: Path) -> None:
    with opened(browser, page("surface"), tmp_path) as window:
        live = window.page.locator("[data-figure=surface]").first
        for i, j in ((0, 40), (33, 9), (20, 20)):
            for number, place in enumerate((i, j)):
                live.locator("input").nth(number).fill(str(place))
            values = live.locator("[data-value]").evaluate_all("all => all.map(e => Number(e.dataset.value))")
            p = torch.tensor(values[:2], dtype=torch.float64, requires_grad=True)
            assert p.tolist() == pytest.approx([i / 10 - 2, j / 10 - 2], abs=1e-12)
            height = (p**2).sum()
            height.backward()
            assert values[2:] == pytest.approx([height.item(), *p.grad.tolist()], abs=1e-14)
        solid = live.locator("svg").nth(1)
        before = solid.locator(".mesh").get_attribute("d")
        live.locator("input").nth(2).fill("10")
        assert solid.locator(".mesh").get_attribute("d") != before


# --------------------------------------------------------------------------------------------------------- exercises

ANSWERS: tuple[tuple[Any, int | None], ...] = (
    (8.0, None), (580, None), (0.0, None), (0.52, 2), (-0.3456774997623559, 3), (4.47213595499958, 4), (99.96, 3),
    ([2.0, 8.0, 18.0], None), ([[1.0, 2.0], [3.0, 4.0]], None), ([0.5], 3), ("None", None), ("(3, 2)", None),
)  # fmt: skip
TYPED = (
    "8", " 8.0 ", "+8", "8e0", "8_0", "80", "5.8e2", "8,", "[8]", "(8)", "8 8", "8,,8", "", "eight", "0", "-0", "0.52",
    "0.515", "0.525", ".52", "-0.346", "-0.3457", "−0.346", "4.472", "4.4721", "4.47", "99.96", "100", "2,8,18", "2,8",
    "[2, 8, 18]", "(2,8,18,)", "[[2,8,18]]", "[[1,2],[3,4]]", "[[1,2],[3]]", "[1,2],[3,4]", "1,2,3,4", "[1,[2]]", "0.5",
    "0.5004", "none", " NONE ", "nonesuch", "(3,2)", "(3, 2)", "3, 2", "８", "inf", "nan", "-inf", "true", "1e999", "[",
    "8]", "[]", "0x8", "8.0.0", "_8", "8j", "ones(1)", "８．０", "１，２",
)  # fmt: skip


def given(answer: Any, digits: int | None) -> Iterator[str]:
    """Yields what anybody may type, and the last numbers that are right with the next ones, which are wrong."""
    yield from TYPED
    if not isinstance(answer, (str, list)):
        ((low, high),) = accepted(Exercise("ex-passes", answer, digits, {}))["ends"]
        yield from map(repr, (low, high, math.nextafter(low, -math.inf), math.nextafter(high, math.inf)))


def told(exercise: Exercise, text: str) -> str:
    try:
        return "good" if is_right(exercise, text) else "bad"
    except InputError:
        return "unsure"


def test_a_page_judges_answers_as_the_command_does(browser: Any, tmp_path: Path) -> None:
    data = ran("accumulation").exercises[0].data
    exercises = [Exercise("ex-passes", answer, digits, data) for answer, digits in ANSWERS]
    asked = Lesson("accumulation", {}, tuple(exercises))
    assert all(f">{answer}<" not in page for answer, _ in ANSWERS for page in [lesson_page(asked, "en")])
    with opened(browser, lesson_page(asked, "en"), tmp_path) as window:
        seen = set()
        for number, exercise in enumerate(exercises):
            texts = list(given(exercise.answer, exercise.digits))
            script = """([form, texts]) => texts.map(text => { form.querySelector('input').value = text;
                form.requestSubmit(); return form.querySelector('.said').className.split(' ')[1]; })"""
            form = window.page.locator("form").nth(number).element_handle()
            judged = window.page.evaluate(script, [form, texts])
            expected = [told(exercise, text) for text in texts]
            assert [(t, j, e) for t, j, e in zip(texts, judged, expected, strict=True) if j != e] == []
            seen |= set(expected)
        assert seen == {"good", "bad", "unsure"}


def test_the_last_number_that_is_right_is_the_last() -> None:
    for answer, digits in ANSWERS:
        if isinstance(answer, (str, list)):
            continue
        exercise = Exercise("ex-passes", answer, digits, {})
        ((low, high),) = accepted(exercise)["ends"]
        assert low <= answer <= high
        assert is_right(exercise, repr(low))
        assert is_right(exercise, repr(high))
        assert not is_right(exercise, repr(math.nextafter(low, -math.inf)))
        assert not is_right(exercise, repr(math.nextafter(high, math.inf)))


def test_what_was_done_is_remembered_and_shown_on_the_map(browser: Any, tmp_path: Path) -> None:
    for name in ("index", "accumulation"):
        (tmp_path / f"{name}.html").write_text(page(name), encoding="utf-8")
    with opened(browser, page("index"), tmp_path) as window:
        assert window.page.inner_text("#progress").startswith("Done: 0 of 27")
        window.page.goto(f"file://{tmp_path}/index.html")
        window.page.click("svg [data-lesson=accumulation]")
        for answer, said in (("2", "✗"), ("8 passes", "digits"), ("8", "✓ Right.")):
            window.page.fill("form:nth-of-type(1) input >> nth=0", answer)
            window.page.keyboard.press("Enter")
            assert said in window.page.inner_text("form .said >> nth=0")
        window.page.click("nav.top a >> nth=0")
        assert window.page.inner_text("li[data-lesson=accumulation] .state") == "1 of 2 exercises"
        window.page.click("li[data-lesson=accumulation] h3 a")
        assert "done" in window.page.get_attribute("form >> nth=0", "class")
        window.page.fill("form input >> nth=1", "None")
        window.page.click("form button >> nth=1")
        window.page.click("nav.top a >> nth=0")
        assert window.page.get_attribute("svg [data-lesson=accumulation]", "class").split()[0] == "done"
        assert window.page.inner_text("#progress").startswith("Done: 1 of 27")
        window.page.click("#forget")
        assert window.page.inner_text("#progress").startswith("Done: 0 of 27")


@pytest.mark.sampled(5)
@pytest.mark.parametrize("kept", ["nothing", "not json", '{"accumulation": 7}', "[1]", "null"])
def test_a_browser_that_keeps_nothing_or_something_else_shows_the_course(
    browser: Any, tmp_path: Path, kept: str
) -> None:
    with opened(browser, "<title>first</title>", tmp_path) as window:
        refused = "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no'); }})"
        script = refused if kept == "nothing" else f"localStorage.setItem('gradexplain-course', {kept!r})"
        window.page.add_init_script(script)
        (tmp_path / "index.html").write_text(page("index"), encoding="utf-8")
        window.page.goto(f"file://{tmp_path}/index.html")
        said = window.page.inner_text("#progress")
        assert "keeps nothing" in said if kept in ("nothing", "not json") else said.startswith("Done: 0 of 27")


# ------------------------------------------------------------------------------------------------------ what is shown


def test_a_lesson_has_code_to_copy_one_thing_to_remember_and_checks_that_fold(browser: Any, tmp_path: Path) -> None:
    with opened(browser, page("descent"), tmp_path) as window:
        assert window.page.locator("aside.remember").count() == 1
        assert window.page.inner_text("aside.remember p") == lessons.told("descent", "remember")
        assert window.page.locator("details.claim").count() == len(ran("descent").claims)
        assert window.page.locator("details.claim dl >> visible=true").count() == 0
        window.page.click("details.claim summary >> nth=1")
        assert "4.0741e-10" in window.page.inner_text("details.claim[open] dl")
        window.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        window.page.click(".code-box button >> nth=0")
        window.page.locator(".code-box button", has_text="Copied").wait_for()
        assert window.page.evaluate("navigator.clipboard.readText()").startswith("x = torch.tensor([1.0]")
        ways = window.page.eval_on_selector_all("nav.around a", "all => all.map(a => a.getAttribute('href'))")
        assert ways == ["training-step.html", "memory.html"]


def test_a_page_without_scripts_says_all(browser: Any, tmp_path: Path) -> None:
    with opened(browser, page("descent"), tmp_path, java_script_enabled=False) as window:
        text = window.page.inner_text("main")
        assert "12 of 12 claims hold" in text
        assert not window.page.is_visible(".live")


def test_a_lesson_is_the_same_live_page_wherever_it_is_shown(browser: Any, tmp_path: Path) -> None:
    lesson = ran("three-ways")
    lesson.save(tmp_path / "saved.html")
    saved = (tmp_path / "saved.html").read_text(encoding="utf-8")
    assert saved == lesson.render("html")
    with opened(browser, saved, tmp_path) as window:  # one file, that asks for no other
        picture = "document.querySelector('figure img').naturalWidth"
        assert window.page.evaluate(picture) > 300
        window.page.set_viewport_size({"width": 390, "height": 800})  # letters stay legible, and the picture scrolls
        assert window.page.locator("figure img").first.bounding_box()["width"] > 600
        assert window.page.evaluate("document.documentElement.scrollWidth") <= 390
        move(window, "curve", 31)
        assert shown(window, "curve")["slope"] == parabola(1.55)[1]
    with opened(browser, lesson._repr_html_(), tmp_path) as window:  # as in a notebook
        frame = window.page.frame_locator("iframe")
        frame.locator("form input").first.fill("0")
        frame.locator("form button").first.click()
        assert frame.locator("form .said").first.inner_text().startswith("✗")
        assert window.page.locator("body > .gx").is_hidden()


PAINTS = """all => [...document.querySelectorAll("svg *")].map(one => {
  const { fill, stroke } = getComputedStyle(one); return [one.tagName, fill, stroke]; })"""


@pytest.mark.parametrize("name", ["three-ways", *(pytest.param(n, marks=pytest.mark.thorough) for n in ("surface",))])
def test_on_a_dark_page_a_figure_has_the_colours_of_one_painted_dark(name: str, browser: Any, tmp_path: Path) -> None:
    part = next(part for part in ran(name).parts if isinstance(part, Drawn))
    make = getattr(gradexplain.figures, part.figure)
    seen = {}
    for style in ("light", "dark"):
        figure = make(**part.options, style=style)
        for scheme in ("light", "dark"):
            picture = adapting(figure) if style == "light" else rendered(figure, "svg")
            with opened(browser, picture.decode(), tmp_path, color_scheme=scheme) as window:
                seen[style, scheme] = window.page.evaluate(PAINTS)
    assert len(seen["light", "dark"]) > 50
    assert seen["light", "dark"] == seen["dark", "dark"] != seen["light", "light"]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_scrolls_sideways_and_no_page_leads_astray(browser: Any, tmp_path: Path, language: str) -> None:
    for name in ("index", "audit", "surface", "descent"):
        content = page(name, language)
        assert "{" not in re.sub(r"<(style|script|pre|code)\b.*?</\1>", "", content, flags=re.S)
        links = set(re.findall(r'(?:href|src)=["\']([^"\'#]+)["\']', content))
        assert links <= {f"{name}.html" for name in (*NAMES, "index", "audit")}
        with opened(browser, content, tmp_path) as window:
            for width in WIDTHS:
                window.page.set_viewport_size({"width": width, "height": 800})
                assert window.page.evaluate("document.documentElement.scrollWidth") <= width, (name, width)


def test_every_lesson_stands_on_the_map_once_and_rests_on_earlier_ones() -> None:
    assert sorted(re.findall(r'<a href="[\w-]+\.html" data-lesson="([\w-]+)"><rect', page("index"))) == sorted(NAMES)
    assert page("index").count('class="way"') == sum(map(len, RESTS_ON.values()))
    assert set(RESTS_ON) == {*NAMES[1:]}
    for name, rests in RESTS_ON.items():
        reached, waiting = set[str](), list(rests)
        while waiting:
            reached.add(one := waiting.pop())
            waiting += RESTS_ON.get(one, ())
        assert name not in reached
        assert NAMES[0] in reached


@pytest.mark.sampled(2)
@pytest.mark.skipif(not AXE.exists(), reason="needs axe-core (npm install --no-save axe-core)")
@pytest.mark.parametrize(
    ("scheme", "names"),
    [("light", ("index", "surface")), *(pytest.param(s, READ, marks=pytest.mark.thorough) for s in ("light", "dark"))],
)
def test_the_course_keeps_every_rule_of_accessibility(
    browser: Any, tmp_path: Path, scheme: str, names: tuple[str, ...]
) -> None:
    for name in names:
        with opened(browser, page(name), tmp_path, color_scheme=scheme) as window:
            window.page.evaluate(AXE.read_text(encoding="utf-8"))
            found = window.page.evaluate("axe.run()")["violations"]
            assert [
                (one["id"], one["nodes"][0]["html"][:200], one["nodes"][0]["failureSummary"]) for one in found
            ] == []


def test_no_text_of_a_lesson_runs_or_breaks_its_page(browser: Any, tmp_path: Path) -> None:
    code = " ".join(HOSTILE)
    parts = (Ran(code, code, "Fault", code, (code,), {}), *ran("accumulation").exercises)
    with opened(browser, lesson_page(Lesson("accumulation", {}, parts), "en"), tmp_path) as window:
        assert window.page.title() == lessons.told("accumulation", "title")
        assert code.split("\u2028")[0] in window.page.text_content("pre.code")
        assert window.page.locator("main pre b, main img").count() == 0


def test_every_word_of_the_course_is_used() -> None:
    folder = Path(lessons.__file__).parent / "web"
    text = "".join(file.read_text(encoding="utf-8") for file in (*folder.iterdir(), folder.parent / "site.py"))
    known = {key.removeprefix("course.") for key in sentences("en") if key.startswith("course.")}
    assert {word for word in known if not re.search(rf"\b{word}\b", text)} == set()
