"""Renderers: pure functions of the document, every format complete, all user text escaped."""

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, needs_chromium
from rich.cells import cell_len
from wcwidth import wcswidth

from gradexplain.documents.console import flowed
from gradexplain.documents.diagram import drawn, sketched
from gradexplain.documents.doc import (
    Arrow,
    Box,
    Curve,
    Diagram,
    Doc,
    Entry,
    Heading,
    Image,
    Listing,
    Notes,
    Panel,
    Paragraph,
    Plot,
    Row,
    Table,
    Title,
)
from gradexplain.documents.html import fragment
from gradexplain.documents.plot import plotted
from gradexplain.documents.renderers import RENDERERS
from gradexplain.documents.shown import write

HOSTILE = "[bold]x[/bold] <b>&amp;</b> `code` | *a* $\\x$ [z>0]"
DOC = Doc(
    (
        Title("gradexplain", (HOSTILE, "第二行")),
        Heading("Head"),
        Paragraph("Text", "good"),
        Entry("f1", HOSTILE, "file.py:3", (Row("rule", "y = x²"), Row("numbers", equations=("a: 1 + 1 = 2",)))),
        Table(("a", "b"), ((HOSTILE, "2"),), ("bad",)),
        Diagram((Box("x", ("x = 1",)), Box("y", ("y = 2",))), (Arrow("x", "y", "3"),)),
        Plot(("name", "start", "way", "end"), (Panel("loss", (Curve(HOSTILE, (0, 1), (5.0, math.nan)),)),), "step"),
        Notes(("one", "two")),
    )
)


@pytest.mark.parametrize("format", RENDERERS)
def test_every_format_shows_every_block(format: str) -> None:
    page = RENDERERS[format](DOC, 120)
    for part in ("Head", "Text", "file.py:3", "y = x²", "a: 1 + 1 = 2", "x = 1", "one", "two", "第二行"):
        assert part in page.replace("\\", "")


@pytest.mark.parametrize("format", RENDERERS)
def test_rendering_is_deterministic(format: str) -> None:
    assert RENDERERS[format](DOC, 100) == RENDERERS[format](DOC, 100)


def test_markup_in_a_users_text_stays_text() -> None:
    assert RENDERERS["text"](DOC, 120).count("[bold]x[/bold]") == 4
    assert "<b>" not in RENDERERS["html"](DOC, 120)
    assert "&lt;b&gt;" in RENDERERS["html"](DOC, 120)


def test_a_markdown_cell_cannot_break_its_table() -> None:
    row = next(line for line in RENDERERS["markdown"](DOC, 120).splitlines() if line.startswith("| \\[bold"))
    assert row.replace("\\|", "").count("|") == 3


def test_plain_text_has_no_colours_and_no_trailing_blanks() -> None:
    page = RENDERERS["text"](DOC, 100)
    assert "\x1b" not in page
    assert all(line == line.rstrip() for line in page.splitlines())
    assert "\x1b[" in RENDERERS["terminal"](DOC, 100)


def test_equations_stand_side_by_side_as_the_width_allows() -> None:
    short = ["a: 1 = 1", "bb: 2 = 2", "c: 3 = 3"]
    assert flowed(short, 100) == ["a: 1 = 1     bb: 2 = 2    c: 3 = 3"]
    assert flowed(short, 12) == short


def test_a_long_equation_goes_on_under_a_mark() -> None:
    assert flowed(["x: 111 + 222 + 333 = 666"], 14) == ["x: 111 + 222 +", "↪ 333 = 666"]


def test_a_diagram_keeps_every_arrow_and_label() -> None:
    boxes = (Box("x", ("x = 3",)), Box("s", ("x² = 9",)), Box("d", ("2x = 6",)), Box("y", ("y = 15",)))
    arrows = (Arrow("x", "s", "6"), Arrow("x", "d", "2"), Arrow("s", "y", "1"), Arrow("d", "y", "1"))
    lines = drawn(Diagram(boxes, arrows), 100)
    page = "\n".join(lines)
    assert page.count("▶") == 4
    assert all(text in page for text in ("x = 3", "x² = 9", "2x = 6", "y = 15", "─6──▶", "─2──▶"))


def test_a_value_used_twice_has_two_arrowheads_on_two_lines() -> None:
    lines = drawn(Diagram((Box("x", ("x",)), Box("y", ("x·x",))), (Arrow("x", "y", "3"), Arrow("x", "y", "3"))), 80)
    assert sum("─3──▶" in line for line in lines) == 2


def test_an_arrow_over_several_columns_goes_around_what_is_between() -> None:
    boxes = tuple(Box(n, (n,)) for n in "abc")
    arrows = (Arrow("a", "b"), Arrow("b", "c"), Arrow("a", "c", "skip"))
    page = "\n".join(drawn(Diagram(boxes, arrows), 80))
    assert page.count("▶") == 3
    assert "skip" in page
    assert all(f"│ {n} │" in page for n in "abc")


def test_a_diagram_that_is_too_wide_becomes_a_list_of_its_arrows() -> None:
    boxes = tuple(Box(str(i), (f"box number {i}",)) for i in range(9))
    arrows = tuple(Arrow(str(i), str(i + 1), "1") for i in range(8))
    lines = drawn(Diagram(boxes, arrows), 60)
    assert lines[0] == "[box number 0] ─1─▶ [box number 1]"
    assert len(lines) == 8


def test_wide_characters_keep_the_boxes_straight() -> None:
    lines = drawn(Diagram((Box("x", ("值 = 3", "∂ 1")), Box("y", ("y",))), (Arrow("x", "y"),)), 80)
    left = [line for line in lines if "│" in line or "┌" in line]
    assert wcswidth(lines[0].split("┐")[0]) == wcswidth(left[1].split("│", 2)[1]) + 1


def test_nothing_that_is_said_is_cut_on_a_narrow_page() -> None:
    words = "梯度" * 40
    page = RENDERERS["text"](Doc((Notes((words,)), Paragraph(words), Table((words, "b"), ((words, words),)))), 40)
    assert "…" not in page
    assert page.count("梯") == 5 * 40


def test_code_keeps_its_lines_and_cannot_close_its_fence() -> None:
    code = "a = '```'\nif a:\n    b = 1"
    page = RENDERERS["markdown"](Doc((Listing(code), Listing("1", "output"), Listing("Fault: no", "error"))), 60)
    assert page == f"````python\n{code}\n````\n\n```text\n1\n```\n\n```text\nFault: no\n```\n"
    console = RENDERERS["text"](Doc((Listing(code),)), 60)
    assert console.splitlines() == ["  │ a = '```'", "  │ if a:", "  │     b = 1"]


def test_an_image_is_its_file_or_the_command_that_makes_it() -> None:
    there, wanted = Image("A [curve]", "a b(1).svg"), Image("A curve", command="make `it`")
    assert RENDERERS["markdown"](Doc((there,)), 60) == "![A \\[curve\\]](a%20b%281%29.svg)\n"
    assert RENDERERS["markdown"](Doc((wanted,)), 60) == "A curve `` make `it` ``\n"
    assert "make `it`" in RENDERERS["text"](Doc((wanted,)), 60)
    page = RENDERERS["html"](Doc((Paragraph("before"), Image("A <curve> 'x'", "a'b.svg"), wanted)), 60)
    assert "<img src='a%27b.svg' alt='A &lt;curve&gt; &#x27;x&#x27;'" in page
    assert "<code>make `it`</code>" in page


def test_code_spans_stay_code_and_all_else_is_escaped() -> None:
    page = RENDERERS["markdown"](Doc((Paragraph("`a_b` <i> `x|y` ``c`` `"), Table(("`p|q`",), (("a|b",),)))), 60)
    assert page.splitlines()[0] == "`a_b` \\<i\\> `x|y` \\`\\`c\\`\\` \\`"
    assert "| `p\\|q` |" in page
    assert "| a\\|b |" in page


def test_a_page_of_html_has_the_title_of_its_document_escaped() -> None:
    page = RENDERERS["html"](Doc((Title("gradexplain", ("x < y & z",)), Paragraph("1"))), 60)
    assert "<title>gradexplain: x &lt; y &amp; z</title>" in page
    assert "<title>gradexplain</title>" in RENDERERS["html"](Doc((Paragraph("1"),)), 60)


# ------------------------------------------------------------------------------------------------------------- HTML


class Nesting(HTMLParser):
    """Follows the elements of a page: `open` are those within which it stands, `seen` each with those around it."""

    EMPTY = frozenset({"meta", "br", "img"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, ...]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append((*self.open, tag))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.seen.append((*self.open, tag))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("page", [RENDERERS["html"](DOC, 100), fragment(DOC)], ids=["page", "fragment"])
def test_html_has_real_headings_tables_and_lists(page: str) -> None:
    nesting = Nesting(page)
    assert nesting.open == []
    kinds = {path[-1] for path in nesting.seen}
    assert {"h1", "h2", "h3", "table", "th", "td", "dl", "dt", "dd", "ul", "li", "svg", "code"} <= kinds
    assert kinds.isdisjoint({"pre", "script", "b"})
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|url\(|@import", page)


def test_a_page_says_its_language_and_fits_a_phone() -> None:
    page = RENDERERS["html"](Doc((Paragraph("梯度"),), "zh"), 100)
    assert page.startswith("<!doctype html>\n<html lang='zh'>")
    assert "<meta name='viewport' content='width=device-width, initial-scale=1'>" in page


def test_long_sections_of_a_notebook_are_folded_and_short_ones_open() -> None:
    entry = Entry("f1", "x", "", (Row("rule", "y"),))
    page = fragment(Doc((Heading("Short"), entry, Heading("Long"), *[entry] * 7)))
    assert re.findall(r"<details( open)?><summary><h2>(\w+)", page) == [(" open", "Short"), ("", "Long")]


def test_a_sketch_shows_all_that_a_diagram_says_and_no_line_beside_a_label() -> None:
    boxes = (Box("x", ("x = 1", "∂ <2>")), Box("u", ("exp(x)",)), Box("y", ("y", "∂ 1")))
    arrows = (Arrow("x", "u", "1.625"), Arrow("x", "y", "a & b"), Arrow("u", "y", "−3"))
    svg = sketched(Diagram(boxes, arrows))
    texts = re.findall(r"<text x='([\d.]+)' y='([\d.]+)'[^>]*>([^<]*)</text>", svg)
    said = {escape(line) for box in boxes for line in box.lines} | {escape(arrow.label) for arrow in arrows}
    assert {text for _, _, text in texts} == said
    rows = {float(y) for _, y, text in texts if text in {escape(arrow.label) for arrow in arrows}}
    across = [float(y) for y, to in re.findall(r"d='M[\d.]+ ([\d.]+)L[\d.]+ ([\d.]+)'", svg) if y == to]
    assert across
    assert all(not row - 9 < y < row + 2 for row in rows for y in across)
    assert svg.count("Z'") == len(arrows)


def picture(places: Sequence[int], numbers: Sequence[float]) -> str:
    curve = Curve("loss", tuple(places), tuple(numbers))
    return plotted(Plot(("", "", "", ""), (Panel("loss", (curve,)),), "step"))


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]


def curves_in(svg: str) -> list[list[tuple[float, float]]]:
    return [points(path) for path in re.findall(r"stroke-linecap='round' d='([^']*)'", svg)]


def ticks_in(svg: str) -> dict[str, float]:
    """Returns the height at which each number beside the axis stands."""
    found = re.findall(r"<text x='[\d.]+' y='([\d.]+)'[^>]*text-anchor='end' ?>([^<]*)<", svg)
    return {text: float(y) - 4 for y, text in found}  # a baseline stands so far below its line


@pytest.mark.parametrize(
    ("numbers", "one", "other"),
    [((4.0, 3.0, 1.0, 2.0), ("1", 1.0), ("4", 4.0)), ((1000.0, 10.0, 0.1, 1.0), ("10⁻¹", -1.0), ("10³", 3.0))],
)
def test_a_curve_stands_where_its_axis_says(
    numbers: tuple[float, ...], one: tuple[str, float], other: tuple[str, float]
) -> None:
    svg = picture((0, 10, 20, 40), numbers)
    (curve,) = curves_in(svg)
    ticks = ticks_in(svg)
    unit = (ticks[other[0]] - ticks[one[0]]) / (other[1] - one[1])
    heights = [math.log10(n) if "⁻" in one[0] else n for n in numbers]
    assert [y for _, y in curve] == pytest.approx([ticks[one[0]] + unit * (h - one[1]) for h in heights], abs=0.11)
    places = [x for x, _ in curve]
    assert [(x - places[0]) / (places[3] - places[0]) for x in places] == pytest.approx([0, 0.25, 0.5, 1], abs=1e-3)


def test_a_curve_has_a_gap_and_a_mark_where_a_number_is_not_finite_and_keeps_its_peaks() -> None:
    numbers = [1.0] * 5000
    numbers[1234], numbers[4000] = 1.9, math.inf
    svg = picture(range(5000), numbers)
    (curve,) = curves_in(svg)
    assert len(curve) < 500
    assert len({y for _, y in curve}) == 2
    assert svg.count("l6 6m0 -6l-6 6") == 1
    assert re.search(r"stroke-linecap='round' d='M[^M]*M[^M]*'", svg)


# The size of a phone, and the ratio of contrast that is asked of text (WCAG 2.1, 1.4.3).
PHONE, CONTRAST = 390, 4.5
MEASURED = """
const lightness = ([r, g, b]) => [r, g, b].map(c => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const pixel = colour => { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map(c => c / 255); };
const ground = colour => { canvas.clearRect(0, 0, 1, 1); return pixel(colour); };
const behind = GROUND;
const ratios = [...document.querySelectorAll("p, th, td, dt, dd, h1, h2, h3, li")].map(e => {
    const base = ground(behind), text = pixel(getComputedStyle(e).color);
    const [low, high] = [lightness(base), lightness(text)].sort((a, b) => a - b);
    return [e.className || e.tagName, (high + .05) / (low + .05)]; });
document.title = JSON.stringify({ratios, wide: document.documentElement.scrollWidth});
"""


def measured(page: str, ground: str, folder: Path, *arguments: str) -> dict[str, object]:
    path = folder / "page.html"
    script = MEASURED.replace("GROUND", json.dumps(ground))
    path.write_text(page.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    title = re.search("<title>(.*?)</title>", chromium(*arguments, "--dump-dom", f"file://{path}"))
    assert title is not None
    return json.loads(unescape(title[1]))


def grounds() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yields pages, the ground that they stand on, and how the browser is asked: light, dark, and in a notebook."""
    told = Doc((*DOC.blocks, Paragraph("wrong", "bad"), Paragraph("open", "unsure")))
    page = RENDERERS["html"](told, 100)
    yield page, "#ffffff", ("--blink-settings=preferredColorScheme=1",)
    yield page, "#121212", ("--blink-settings=preferredColorScheme=0",)
    for ground, ink in (("#ffffff", "#212121"), ("#111111", "#e0e0e0")):
        body = f"<body style='background:{ground};color:{ink}'>{fragment(told)}</body>"
        yield f"<!doctype html><title></title>{body}", ground, ()


@needs_chromium
@pytest.mark.parametrize("case", list(grounds()), ids=["light", "dark", "light notebook", "dark notebook"])
def test_everything_can_be_read_on_light_and_on_dark_ground(case: tuple[str, str, tuple[str, ...]], tmp_path) -> None:
    page, ground, arguments = case
    found = measured(page, ground, tmp_path, *arguments)
    ratios = dict(found["ratios"])
    assert {"good", "bad", "unsure", "TH", "DT"} <= ratios.keys()
    assert min(ratios.values()) >= CONTRAST, ratios


@needs_chromium
def test_a_page_does_not_scroll_sideways_on_a_phone(tmp_path: Path) -> None:
    wide = Entry("f1", "x" * 90, "file.py:3", (Row("numbers", equations=("a: " + "1 + " * 60 + "1 = 61",)),))
    boxes = tuple(Box(str(i), (f"box number {i}",)) for i in range(9))
    diagram = Diagram(boxes, tuple(Arrow(str(i), str(i + 1), "1") for i in range(8)))
    page = RENDERERS["html"](Doc((*DOC.blocks, wide, diagram, Table(("a",) * 9, (("1234567890",) * 9,)))), 100)
    inner = json.dumps(page).replace("</", "<\\/")
    frame = f"""<!doctype html><title></title><body><iframe width={PHONE} height=800></iframe><script>
        const frame = document.querySelector("iframe");
        frame.onload = () => {{ document.title = frame.contentDocument.documentElement.scrollWidth; }};
        frame.srcdoc = {inner};</script></body>"""
    path = tmp_path / "frame.html"
    path.write_text(frame, encoding="utf-8")
    title = re.search("<title>(.*?)</title>", chromium("--dump-dom", f"file://{path}"))
    assert title is not None
    assert 0 < int(title[1]) <= PHONE


CHINESE = (
    "✓ 梯度正确：所有能够判断的方法都一致；哪怕误差只有梯度大小的 5e-07，也会被检查出来。"
    "其中的 0 来自 `torch.where(x > 0, a, b)`（net.py:12），它在这里没有用到“`x.sqrt()`”的值。"
)


@pytest.mark.parametrize("width", range(24, 81, 7))
@pytest.mark.parametrize("block", [Paragraph, lambda text: Notes((text,)), lambda text: Title("t", (text,))])
def test_a_line_breaks_between_chinese_characters_and_never_before_a_mark_that_closes(
    block: Callable[[str], Any], width: int
) -> None:
    lines = RENDERERS["text"](Doc((block(CHINESE),)), width).splitlines()
    shown = [line.strip(" │•") for line in lines if "─" not in line and line.strip()]
    assert re.sub(r"\s", "", "".join(shown)) == re.sub(r"\s", "", CHINESE)
    assert all(cell_len(line) <= width for line in lines)
    assert not [line for line in shown if line[0] in "。，、；：）”" or line[-1] in "（“"]
    assert not shown[0].endswith("✓")  # a mark does not stand alone
    full = [line for line in shown[:-1] if not re.search(r"[!-~]$", line)]
    assert all(cell_len(line) >= width - 30 for line in full)


def test_what_is_no_file_is_written_into_and_stays_what_it_is(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        with ThreadPoolExecutor() as pool:
            read = pool.submit(pipe.read_text)
            write(path, "page")
            assert read.result(10) == "page"
    assert pipe.is_fifo()
    assert link.is_symlink()
