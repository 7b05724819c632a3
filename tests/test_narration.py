"""Words: both languages say the same, with the same numbers and equations, in aligned columns."""

import re
import string
import sys
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from examples import EXAMPLES
from wcwidth import wcswidth

import gradexplain as gx
from gradexplain.locale.catalogue import LANGUAGES, LOCALE, say, sentences
from gradexplain.mathematics.equations import read_equations, unwrapped
from gradexplain.mathematics.terms import ARITY
from gradexplain.narration.explanations import short_place
from gradexplain.rules.registry import rules
from gradexplain.targets.sources import Source


def placeholders(template: str) -> Counter[str]:
    return Counter(name for _, name, _, _ in string.Formatter().parse(template) if name)


def digits(template: str) -> Counter[str]:
    fixed = "".join(literal for literal, *_ in string.Formatter().parse(template))
    return Counter(re.findall(r"\d+(?:\.\d+)?", fixed))


def test_there_are_two_languages() -> None:
    assert LANGUAGES == ("en", "zh")


def test_both_languages_have_the_same_sentences() -> None:
    own = [{k for k in sentences(language) if not k.startswith("formulas.")} for language in LANGUAGES]
    assert own[0] == own[1]


def wordy(text: str) -> bool:
    """Whether a rule's formula has words: letters in a row that are no function and no name of a number."""
    symbols = {
        *ARITY,
        "exp",
        "log",
        "ln",
        "max",
        "min",
        "tr",
        "diag",
        "det",
        "sign",
        "if",
        "std",
        "padding",
        "median",
        "conj",
        "Re",
        "Im",
        "jk",
    }
    return bool(set(re.findall(r"[A-Za-z]{2,}", text)) - symbols)


def test_the_words_in_formulas_are_told_in_chinese() -> None:
    shown = {
        text
        for rule in rules().values()
        if not rule.elementwise
        for text in (rule.formula, *(d.shown for d in rule.derivatives.values()))
        if wordy(text)
    }
    told = {k.removeprefix("formulas."): v for k, v in sentences("zh").items() if k.startswith("formulas.")}
    assert shown == told.keys()
    numbers = {text: [Counter(re.findall(r"\d+", part)) for part in (text, chinese)] for text, chinese in told.items()}
    assert [text for text, (en, zh) in numbers.items() if en != zh] == []


@pytest.mark.parametrize("key", sorted(sentences("en")))
def test_a_sentence_takes_the_same_data_and_numbers_in_both_languages(key: str) -> None:
    en, zh = sentences("en")[key], sentences("zh")[key]
    assert placeholders(en) == placeholders(zh)
    assert digits(en) == digits(zh)


def test_every_chinese_sentence_is_chinese() -> None:
    plain = {
        "born.met",
        "inventory.short_zero",
        "inventory.short_unknown",
        "inventory.kinks_none",
        "explanation.gap",
        "explanation.listed",
        "explanation.said_of",
        "explanation.found_at",
        "explanation.setting",
        "explanation.not_asked",
        "explanation.route",
        "graphs.times",
        "graphs.norm",
        "graphs.place",
        "course.comma",
        "figures.comma",
        "training.after",
        "training.at",
        "training.beside",
        "figures.semicolon",
        "figures.colon",
        "verification.separator",
    }
    untold = [k for k, v in sentences("zh").items() if not re.search(r"[\u4e00-\u9fff]", v)]
    assert set(untold) <= plain


def test_data_is_never_read_as_a_template() -> None:
    assert "{shape}" in say("explanation.at", inputs="{shape}")


def test_each_catalogue_file_exists_in_each_language() -> None:
    names = {language: sorted(p.name for p in (LOCALE / language).iterdir()) for language in LANGUAGES}
    assert [*names["en"], "formulas.toml"] == sorted([*names["zh"]], key=lambda n: (n == "formulas.toml", n))


def equations(page: str) -> Counter[tuple[str, ...]]:
    return Counter(tuple(e) for line in unwrapped(page) for e in read_equations(line))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", EXAMPLES)
def test_both_languages_show_the_same_equations_and_numbers(name: str, command: Callable) -> None:
    en = command("explain", *EXAMPLES[name], "--width", "110").out
    zh = command("explain", *EXAMPLES[name], "--width", "110", "--language", "zh").out
    assert equations(en) == equations(zh)
    number = r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.])"
    assert Counter(re.findall(number, without_words(en))) == Counter(re.findall(number, without_words(zh)))


def without_words(page: str) -> str:
    """Drops punctuation that may touch a number, and soft line breaks."""
    return re.sub(r"[，。；：（）、,.;:()]+(?=\s|$)|[：（）；，、。]", " ", page)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_line_is_wider_than_the_page(language: str, command: Callable) -> None:
    for name in ("sum of squares", "two paths", "network and loss", "large"):
        page = command("explain", *EXAMPLES[name], "--width", "90", "--language", language).out
        assert max(wcswidth(line) for line in page.splitlines()) <= 90


def test_columns_align_with_wide_characters(command: Callable) -> None:
    page = command("explain", *EXAMPLES["two paths"], "--language", "zh").out.splitlines()
    top = next(i for i, line in enumerate(page) if line.startswith("╭"))
    box = page[top : top + 5]
    assert len({wcswidth(line) for line in box}) == 1
    rows = [line for line in page if re.match(r"     (规则|代入数值|保留) ", line)]
    starts = {wcswidth(re.match(r"\s*\S+\s+", line)[0]) for line in rows}  # type: ignore[index]
    assert len(starts) == 1


def test_a_language_that_we_do_not_speak_is_refused_with_those_that_we_do() -> None:
    explanation = gx.explain("x**2", {"x": torch.tensor(3.0)})
    for result in (
        explanation,
        gx.verify("x**2", {"x": torch.tensor(3.0)}),
        gx.graph("x**2", {"x": torch.tensor(3.0)}),
    ):
        with pytest.raises(ValueError, match="no language de; there are: en, zh"):
            result.render("text", language="de")


def test_a_place_in_a_notebook_is_its_cell_and_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """IPython names a cell's code after a file of its own, and knows which cell that is."""
    names = {"/tmp/ipykernel_7/4000330224.py": ("Cell", "In[12]")}
    shell = SimpleNamespace(compile=SimpleNamespace(format_code_name=names.get))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    cell, other = Source("/tmp/ipykernel_7/4000330224.py", 3, "x * u"), Source("/home/a/net.py", 3, "x * u")
    assert short_place(cell, "en") == "cell [12], line 3"
    assert short_place(cell, "zh") == "单元格 [12] 第 3 行"
    assert short_place(other, "en") == "net.py:3"
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert short_place(cell, "en") == "4000330224.py:3"
