"""The pytest plugin, in a project of its own."""

import subprocess
import sys
from pathlib import Path

USED = """
def test_a_gradient(assert_gradients):
    import torch

    assert_gradients(torch.sin, [torch.tensor([0.5, 1.0])])
"""
WRONG = """
import torch
from mistakes import Weighted


def test_weighted(assert_gradients):
    assert_gradients(Weighted.apply, {"x": torch.ones(4), "w": torch.ones(4)})
"""
CONFTEST = """
import sys


def pytest_sessionfinish(session):
    print("\\nloaded:", *sorted({"torch", "numpy", "matplotlib", "rich", "gradexplain.plugin"} & {*sys.modules}))
"""


def pytest_in(project: Path) -> subprocess.CompletedProcess[str]:
    named = ["-p", "gradexplain.plugin", "-p", "no:gradexplain", "-p", "no:cacheprovider"]
    run = [sys.executable, "-m", "pytest", "-s", *named, str(project)]
    return subprocess.run(run, capture_output=True, text=True, cwd=project)


def loaded(printed: str) -> list[str]:
    (line,) = (line for line in printed.splitlines() if line.startswith("loaded:"))
    return line.split()[1:]


def test_a_project_that_does_not_use_the_plugin_does_not_wait_for_it(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_other.py").write_text("def test_other():\n    assert 1 + 1 == 2\n")
    done = pytest_in(tmp_path)
    assert done.returncode == 0, done.stdout
    assert loaded(done.stdout) == ["gradexplain.plugin"]


def test_what_the_fixture_needs_is_loaded_when_it_is_used(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_a_gradient.py").write_text(USED)
    done = pytest_in(tmp_path)
    assert done.returncode == 0, done.stdout
    assert "torch" in loaded(done.stdout)


def test_a_wrong_gradient_fails_with_the_callers_line_and_no_line_of_ours(tmp_path: Path) -> None:
    (tmp_path / "mistakes.py").write_bytes((Path(__file__).parent / "mistakes.py").read_bytes())
    (tmp_path / "test_wrong.py").write_text(WRONG)
    done = pytest_in(tmp_path)
    assert done.returncode == 1, done.stdout
    assert "Weighted" in done.stdout
    assert "test_wrong.py:7: AssertionError" in done.stdout
    assert "api.py" not in done.stdout
