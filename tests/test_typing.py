"""What a checker of types sees of the package in a project that uses it."""

import importlib.util
import inspect
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Union, get_args, get_origin

import pytest
from documents import ROOT, blocks

import gradexplain as gx

STUB = ROOT / "gradexplain" / "figures" / "signatures.pyi"
HEADER = '''"""What checkers of types know of the figures: made from them by `./scripts/test --update-golden`."""

from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

'''


def stub() -> str:
    """Returns the signatures of all figures, as the figures have them."""
    names = gx.figures.names()
    exported = "".join(f'    "{name}",\n' for name in names)
    return f"{HEADER}__all__ = [\n{exported}]\n\n" + "\n".join(map(signature, names))


def signature(name: str) -> str:
    function = getattr(gx.figures, name)
    lines, keyword = [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword:
            lines.append("*,")
            keyword = True
        lines.append(f"{parameter.name}: {annotation(parameter.annotation)} = {literal(parameter.default)},")
    body = "".join(f"    {line}\n" for line in lines)
    summary = inspect.getdoc(function).partition("\n")[0]
    return f'def {name}(\n{body}) -> Figure:\n    """{summary}"""\n'


def annotation(of: object) -> str:
    if get_origin(of) in (Union, types.UnionType):
        return " | ".join("None" if part is types.NoneType else annotation(part) for part in get_args(of))
    if isinstance(of, (str, types.UnionType)) or get_origin(of) is not None:
        return str(of).replace("typing.", "").replace("'", '"')
    return of.__name__


def literal(default: object) -> str:
    return repr(default).replace("'", '"')


def test_the_signatures_of_the_figures_are_what_checkers_read(golden: Callable[[Path, str], None]) -> None:
    golden(STUB, stub())


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of a user: each snippet of the documents is a module, beside the module that they import."""
    shutil.copy(ROOT / "tests" / "mistakes.py", tmp_path)
    for block in blocks("python"):
        (tmp_path / f"snippet_{str(block).replace('-', '_').lower()}.py").write_text(block.text, encoding="utf-8")
    return tmp_path


WRONG = """import gradexplain as gx

gx.figures.curve("x**2", at="three")
gx.figures.curves()
gx.verify(len, [], secnd=True)
gx.assert_gradients(len, [], secnd=True)
gx.lessons.run(3)
print(gx.explain(len).verdicts)
gx.lessons.nothing()
"""
MISTAKES = 7


def snippets(project: Path) -> list[str]:
    found = sorted(path.name for path in project.glob("snippet_*.py"))
    assert found
    return found


def mypy(project: Path, *files: str) -> list[str]:
    """Returns what `mypy --strict` says of files of a project that gradexplain is installed for."""
    cache = ROOT / ".mypy_cache" / "project"
    run = [sys.executable, "-m", "mypy", "--strict", "--no-pretty", "--cache-dir", str(cache), "--config-file=", *files]
    done = subprocess.run(run, cwd=project, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if ": error: " in line]


def pyright(project: Path, *files: str) -> list[str]:
    """Returns what pyright says of them."""
    if importlib.util.find_spec("pyright") is None:
        pytest.skip("pyright is not installed")
    start = [sys.executable, "-m", "pyright"]
    started = subprocess.run([*start, "--version"], cwd=project, capture_output=True, text=True)
    if started.returncode or not started.stdout.startswith("pyright "):
        pytest.skip(f"pyright does not start here: {(started.stderr or started.stdout).strip()[-200:]}")
    done = subprocess.run([*start, "--pythonpath", sys.executable, *files], cwd=project, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if " - error: " in line]


@pytest.mark.thorough
@pytest.mark.parametrize("checker", [mypy, pyright])
def test_a_project_with_the_snippets_passes(checker: Callable[..., list[str]], project: Path) -> None:
    said = checker(project, *snippets(project))
    assert [line for line in said if "snippet_" in line.partition(": ")[0]] == []


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_a_mistake_in_using_the_package_is_seen(checker: Callable[..., list[str]], tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(WRONG)
    lines = {int(line.split("wrong.py:")[1].split(":")[0]) for line in checker(tmp_path, "wrong.py")}
    assert lines == set(range(3, 3 + MISTAKES))


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "gradexplain" / "py.typed").is_file()


def test_the_public_names_are_no_more_than_are_meant() -> None:
    assert dir(gx.lessons) == sorted(gx.lessons.__all__)
    assert dir(gx.figures) == sorted(["names", "save", *gx.figures.names()])
    assert "Any" not in dir(gx)
