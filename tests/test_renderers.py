"""Renderers: pure functions of the document, every format complete, all user text escaped."""

import pytest
from wcwidth import wcswidth

from gradexplain.documents.console import flowed
from gradexplain.documents.diagram import drawn
from gradexplain.documents.doc import (
    Arrow,
    Box,
    Diagram,
    Doc,
    Entry,
    Heading,
    Image,
    Listing,
    Notes,
    Paragraph,
    Row,
    Table,
    Title,
)
from gradexplain.documents.renderers import RENDERERS

HOSTILE = "[bold]x[/bold] <b>&amp;</b> `code` | *a* $\\x$ [z>0]"
DOC = Doc(
    (
        Title("gradexplain", (HOSTILE, "第二行")),
        Heading("Head"),
        Paragraph("Text", "good"),
        Entry("f1", HOSTILE, "file.py:3", (Row("rule", "y = x²"), Row("numbers", equations=("a: 1 + 1 = 2",)))),
        Table(("a", "b"), ((HOSTILE, "2"),), ("bad",)),
        Diagram((Box("x", ("x = 1",)), Box("y", ("y = 2",))), (Arrow("x", "y", "3"),)),
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
    assert RENDERERS["text"](DOC, 120).count("[bold]x[/bold]") == 3
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
    assert page.count("<pre") == 2


def test_code_spans_stay_code_and_all_else_is_escaped() -> None:
    page = RENDERERS["markdown"](Doc((Paragraph("`a_b` <i> `x|y` ``c`` `"), Table(("`p|q`",), (("a|b",),)))), 60)
    assert page.splitlines()[0] == "`a_b` \\<i\\> `x|y` \\`\\`c\\`\\` \\`"
    assert "| `p\\|q` |" in page
    assert "| a\\|b |" in page


def test_a_page_of_html_has_the_title_of_its_document_escaped() -> None:
    page = RENDERERS["html"](Doc((Title("gradexplain", ("x < y & z",)), Paragraph("1"))), 60)
    assert "<title>gradexplain: x &lt; y &amp; z</title>" in page
    assert "<title>" not in RENDERERS["html"](Doc((Paragraph("1"),)), 60)
