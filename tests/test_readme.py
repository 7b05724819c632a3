"""README: every command and every snippet in it runs, and prints what it says."""

import contextlib
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_soundness
from documents import FILES, ROOT, Block, blocks

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line for block in blocks("sh") for line in block.text.strip().splitlines()]
SNIPPETS = blocks("python")
SAMPLES = blocks("console")
OWN = ("gradexplain ", "python -m gradexplain ", "./scripts/gradexplain ")


def test_readme_starts_with_the_two_commands_that_do_everything() -> None:
    assert COMMANDS[:2] == ['./scripts/gradexplain explain "sum(x**2)" x=1,2,3', "./scripts/test"]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(c, marks=pytest.mark.thorough if " --all " in c else ())
        for c in dict.fromkeys(COMMANDS)
        if c.startswith(OWN)
    ],
)
def test_a_command_of_readme_agrees(
    line: str, command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tests", "README.md"):  # a path in a command is one below the clone
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line)
    found = command(*words[words.index("-m") + 2 if "-m" in words else 1 :])
    assert found.code == 0
    assert found.out


def test_every_command_of_readme_is_run_by_a_test() -> None:
    others = {"./scripts/test", "pip install ."}
    assert {c for c in COMMANDS if not c.startswith(OWN)} == others
    assert {line.text.split()[1] for line in SAMPLES} <= {"gradexplain", "pytest"}


def test_the_package_installs_and_runs_from_what_it_installed(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), str(ROOT)]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode and "Could not find a version" in done.stderr:
        pytest.skip("needs a package index, for the build's own requirements")
    assert done.returncode == 0, done.stderr
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from gradexplain.__main__ import main; main()"
    run = [sys.executable, "-I", "-c", code, str(tmp_path), "explain", "sum(x**2)", "x=1,2,3", "--language", "zh"]
    found = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "[2, 4, 6]" in found.stdout


@pytest.mark.parametrize("script", ["gradexplain", "test", "environment"])
def test_the_scripts_are_bash_that_parses(script: str) -> None:
    subprocess.run(["bash", "-n", str(ROOT / "scripts" / script)], check=True)


@pytest.mark.skipif(not (ROOT / ".venv" / ".made-from").exists(), reason="the clone has no .venv of the scripts' own")
def test_the_script_runs_the_package_of_the_clone() -> None:
    run = ["./scripts/gradexplain", "explain", "sum(x**2)", "x=1,2,3"]
    found = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0
    assert "∂y/∂x = [2, 4, 6]" in found.stdout
    subprocess.run(["./scripts/test", "--version"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=str)
def test_a_snippet_runs_and_prints_what_it_says(
    snippet: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(snippet.text, str(snippet), "exec"), {"__name__": "readme"})
    for expected in re.findall(r"^print\(.*\)\s+# (.*)$", snippet.text, re.MULTILINE):
        assert expected.startswith("the ") or expected in printed.getvalue()


def test_the_test_of_readme_fails_and_names_what_is_wrong() -> None:
    import gradexplain as gx

    snippet = next(s.text for s in SNIPPETS if "def test_weighted" in s.text)
    names: dict[str, Any] = {}
    exec(compile(snippet, "README.md", "exec"), names)
    with pytest.raises(AssertionError, match=r"Weighted.*mistakes\.py:15"):
        names["test_weighted"](gx.assert_gradients)
    assert len(snippet.strip().splitlines()) == 8


FILTERS = {
    "head": lambda lines, count: lines[: int(count)],
    "tail": lambda lines, count: lines[-int(count) :],
    'grep "^E"': lambda lines, _: [line for line in lines if line.startswith("E")],
}


def in_pytest(folder: Path) -> str:
    """Returns what pytest prints of README's test, in a project of its own."""
    (folder / "mistakes.py").write_bytes((ROOT / "tests" / "mistakes.py").read_bytes())
    (folder / "test_weighted.py").write_text(next(s.text for s in SNIPPETS if "def test_weighted" in s.text))
    named = ["-p", "gradexplain.plugin", "-p", "no:gradexplain", "-p", "no:cacheprovider"]
    run = [sys.executable, "-m", "pytest", *named, "test_weighted.py"]
    return subprocess.run(run, cwd=folder, capture_output=True, text=True).stdout


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_a_sample_is_what_is_printed(
    sample: Block, command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The first line is the command, with what is kept of its output; --update-golden writes what it prints."""
    monkeypatch.chdir(ROOT)
    line, _, shown = sample.text.partition("\n")
    words, _, kept = line.removeprefix("$ ").partition(" | ")
    words = words.removesuffix(" 2>&1")
    found = None if words.startswith("pytest ") else command(*shlex.split(words)[1:])
    printed = (in_pytest(tmp_path) if found is None else found.out + found.err).rstrip()
    if kept:
        printed = "\n".join(FILTERS[kept.split(" -")[0]](printed.splitlines(), kept.split("-")[-1]))
    if request.config.getoption("--update-golden"):
        text = sample.file.read_text(encoding="utf-8")
        sample.file.write_text(text.replace(sample.text, f"{line}\n{printed.rstrip()}\n"), encoding="utf-8")
        return
    assert anywhere(shown) == anywhere(printed)


def test_the_samples_show_a_sum_and_a_wrong_operation() -> None:
    shown = "".join(sample.text for sample in SAMPLES)
    assert "6 + 2 = 8" in shown
    assert "1.001 times" in shown


def anywhere(page: str) -> str:
    """Drops what differs from machine to machine: torch's version, and how large the rounding errors were."""
    page = re.sub(r"torch \S+\s*│", "", page)
    return re.sub(r"^( [✓✗]   .{28}).*$", r"\1", page, flags=re.MULTILINE).rstrip()


def test_the_rules_are_counted_as_they_are() -> None:
    from gradexplain.rules.registry import rules

    (guide,) = (file for file in FILES if file.stem == "verify")
    assert f"{len(rules())} operators" in guide.read_text(encoding="utf-8")


def test_what_agrees_means_is_what_a_test_tries() -> None:
    assert " ".join((test_soundness.test_agrees.__doc__ or "-").split()) in " ".join(README.split())


def test_readme_is_of_a_length_that_is_read() -> None:
    assert len(README.splitlines()) <= 240
