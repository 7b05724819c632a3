"""The guides: shown by the command line, packaged, and the reference in one of them is what the docstrings say."""

import inspect
from collections.abc import Callable
from pathlib import Path

from documents import FILES, ROOT

import gradexplain as gx

GUIDES = {file.stem: file for file in FILES if file.name != "README.md"}
WANTED = {
    "verify", "graphs", "figures", "lessons", "python", "json", "exit-codes", "benchmarks", "architecture", "versions",
    "run", "compare", "play",
}  # fmt: skip
MARK = "<!-- made from the docstrings by ./scripts/test --update-golden tests/test_guides.py -->\n"
PUBLIC = (
    gx.explain,
    gx.verify,
    gx.assert_gradients,
    gx.compare,
    gx.assert_same_gradients,
    gx.save_reference,
    gx.graph,
    gx.watch,
    gx.play,
    gx.check_receipt,
)
RESULTS = (gx.Explanation, gx.Report, gx.Comparison, gx.Picture, gx.TrainingReport)


def test_the_guides_that_are_wanted_are_there() -> None:
    assert {*GUIDES} >= WANTED


def test_a_guide_is_shown_as_it_stands(command: Callable) -> None:
    for name, file in GUIDES.items():
        found = command("guide", name)
        assert (found.code, found.out) == (0, file.read_text(encoding="utf-8"))


def test_the_guides_are_listed_with_their_titles(command: Callable) -> None:
    lines = command("guide").out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(GUIDES)
    assert any(line.split(maxsplit=1)[1] == "Verifying a gradient" for line in lines)


def test_a_guide_that_there_is_not_is_told_with_the_nearest(command: Callable) -> None:
    found = command("guide", "verfy")
    assert found.code == 2
    assert "Did you mean 'verify'?" in found.err


def test_a_picture_or_a_file_that_a_guide_names_is_there() -> None:
    import re

    for file in FILES:
        for path in re.findall(r"\]\((?!http)([^)#]+)\)", file.read_text(encoding="utf-8")):
            assert (file.parent / path).exists(), (file.name, path)


def reference() -> str:
    """Returns the public functions and results with their docstrings, as Markdown."""
    return "\n".join([*map(told, PUBLIC), *map(told, RESULTS)])


def told(thing: Callable) -> str:
    kept = [f"### `gx.{thing.__name__}`", ""]
    if not isinstance(thing, type):
        kept += [f"`{thing.__name__}({', '.join(map(str, arguments(thing)))})`", ""]
    text, _, example = (inspect.getdoc(thing) or "").partition(">>> ")
    kept += [text.rstrip(), ""]
    if example:
        kept += ["```pycon", f">>> {example}".rstrip(), "```", ""]
    return "\n".join(kept)


def arguments(thing: Callable) -> list[str]:
    """Returns the arguments with their defaults; their types stand in the package for checkers."""
    found, star = [], False
    for p in inspect.signature(thing).parameters.values():
        if p.kind is p.KEYWORD_ONLY and not star:
            found.append("*")
        star = star or p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        name = {p.VAR_KEYWORD: "**", p.VAR_POSITIONAL: "*"}.get(p.kind, "") + p.name
        found.append(name if p.default is p.empty else f"{name}={p.default!r}")
    return found


def test_the_reference_is_what_the_docstrings_say(golden: Callable[[Path, str], None]) -> None:
    path = ROOT / "gradexplain" / "guides" / "python.md"
    written = path.read_text(encoding="utf-8").partition(MARK)[0]
    golden(path, f"{written}{MARK}\n{reference()}")
