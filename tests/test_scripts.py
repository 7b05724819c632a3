"""The scripts: the releases that the core runs on, their installer, and the changes that tests should see."""

import ast
import re
import shutil
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest
from documents import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
from light_torch import write_empty_libraries

VERSIONS = (ROOT / "scripts" / "versions").read_text(encoding="utf-8")


def names() -> dict[str, object]:
    space: dict[str, object] = {"__name__": "versions", "__file__": str(ROOT / "scripts" / "versions")}
    exec(compile(VERSIONS, "versions", "exec"), space)
    return space


def test_the_releases_go_from_the_declared_bound_to_the_newest_tested() -> None:
    from gradexplain.versions.releases import NEWEST

    found = names()["declared"]()
    bound = re.search(r'"torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))[1]
    minors = [tuple(map(int, version.split(".")))[:2] for version in found]
    assert minors[0] == tuple(map(int, bound.split(".")))[:2]
    assert minors == sorted({*minors})
    assert minors[-1] == NEWEST


def test_the_core_is_files_that_exist() -> None:
    for name in names()["CORE"]:
        assert (ROOT / "tests" / f"test_{name}.py").is_file()


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("gcc"), reason="needs Linux and gcc")
def test_a_library_that_is_missing_is_written_with_the_functions_that_are_wanted(tmp_path: Path) -> None:
    """A program wants one function in a version and one without: both are found, and say that there is no device."""
    (tmp_path / "far.c").write_text("int versioned(void) { return 1; } int plain(void) { return 1; }")
    (tmp_path / "far.map").write_text("FAR_1 { versioned; };")
    (tmp_path / "near.c").write_text(
        "int versioned(void), plain(void); int sum(void) { return versioned() + plain(); }"
    )
    build = ["gcc", "-shared", "-fPIC", "-o"]
    far = [*build, "libfar.so.1", "far.c", "-Wl,-soname,libfar.so.1", "-Wl,--version-script,far.map"]
    subprocess.run(far, cwd=tmp_path, check=True)
    near = [*build, "libnear.so", "near.c", "libfar.so.1", "-Wl,-rpath,$ORIGIN"]
    subprocess.run(near, cwd=tmp_path, check=True)
    (tmp_path / "libfar.so.1").unlink()
    code = f"import ctypes; print(ctypes.CDLL({str(tmp_path / 'libnear.so')!r}, mode=2).sum())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode != 0
    write_empty_libraries(tmp_path)
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "200\n"


# Four of the five changes of its condition and its `max` are seen; that the condition always holds changes nothing.
TINY = "def larger(a: int, b: int) -> int:\n    return max(a, b) if a != b else a\n"
TINY_TEST = "from tiny.order import larger\n\ndef test_larger():\n    assert (larger(1, 2), larger(2, 1)) == (2, 2)\n"
TINY_TABLE = 'package = "tiny"\n[tests]\n"order.py" = ["order"]\n'
EQUIVALENT = """[[survivor]]
module = "order.py"
line = "return max(a, b) if a != b else a"
change = "a != b → True"
reason = "both branches give the same where a = b"
"""


def loaded(name: str) -> ModuleType:
    """Returns a script as a module."""
    loader = SourceFileLoader(name, str(ROOT / "scripts" / name))
    module = module_from_spec(spec_from_loader(name, loader))
    sys.modules[name] = module  # its dataclasses look there
    loader.exec_module(module)
    return module


def mutants(root: Path, table: str, test: str = TINY_TEST, code: str = TINY) -> subprocess.CompletedProcess[str]:
    for name, text in (
        ("tiny/__init__.py", ""), ("tiny/order.py", code), ("tests/test_order.py", test),
        ("scripts/mutants.toml", TINY_TABLE + table),
    ):  # fmt: skip
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    command = [sys.executable, ROOT / "scripts" / "mutants", "--root", root, "--jobs", "1"]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8")


@pytest.mark.thorough
def test_a_change_that_a_test_sees_is_killed_and_one_that_none_can_see_is_listed(tmp_path: Path) -> None:
    done = mutants(tmp_path, "")
    survivors = [line for line in done.stdout.splitlines() if line.startswith("tiny/")]
    assert survivors == ["tiny/order.py:2  a != b → True"]
    assert "4 mutants: 3 killed, 1 survive, 1 of them without a reason" in done.stdout
    assert done.returncode == 1
    assert (tmp_path / "tiny" / "order.py").read_text(encoding="utf-8") == TINY


@pytest.mark.thorough
def test_a_change_with_a_reason_may_survive_and_a_stale_reason_is_an_error(tmp_path: Path) -> None:
    done = mutants(tmp_path, EQUIVALENT)
    assert "both branches give the same where a = b" in done.stdout
    assert "0 of them without a reason" in done.stdout
    assert done.returncode == 0
    stale = mutants(tmp_path, EQUIVALENT.replace("a != b → True", "a != b → 7"))
    assert (stale.returncode, "no mutant" in stale.stderr) == (2, True)


def test_tests_that_fail_without_a_change_kill_nothing(tmp_path: Path) -> None:
    done = mutants(tmp_path, "", test="def test_larger():\n    assert False\n")
    assert (done.returncode, "fail without a change" in done.stderr) == (2, True)


# fmt: off
CHANGES = {
    "a <= b < c":            ["a >= b < c", "a <= b > c"],
    "0.5 * x":               ["5.0 * x", "0.05 * x"],
    "4 * x":                 ["40 * x"],
    "a + b":                 ["a", "b"],
    "a - b":                 ["a", "-b"],
    "a and b and c":         ["b and c", "a and c", "a and b"],
    "a if b else c":         ["a if True else c", "a if False else c"],
    "not a":                 ["a"],
    "max(a, b)":             ["min(a, b)"],
    "a.amin(0)":             ["a.amax(0)"],
    "[a for b in c if d]":   ["[a for b in c if True]", "[a for b in c if False]"],
}
# fmt: on


@pytest.mark.parametrize("code", CHANGES)
def test_a_place_is_changed_in_each_way_that_its_kind_has(code: str, tmp_path: Path) -> None:
    (tmp_path / "place.py").write_text(f"x = {code}\n", encoding="utf-8")
    found = {ast.unparse(ast.parse(m.text)) for m in loaded("mutants").mutants_of(tmp_path, "place.py")}
    assert found >= {f"x = {ast.unparse(ast.parse(other))}" for other in CHANGES[code]}
    assert f"x = {ast.unparse(ast.parse(code))}" not in found


def test_each_reason_in_the_table_is_of_a_mutant_and_each_module_has_tests() -> None:
    script = loaded("mutants")
    table = script.read_table(ROOT / "scripts" / "mutants.toml")
    keys = {m.key for module in table.tests for m in script.mutants_of(ROOT / table.package, module)}
    assert {*table.reasons} <= keys
    assert all((ROOT / "tests" / f"test_{name}.py").is_file() for files in table.tests.values() for name in files)
