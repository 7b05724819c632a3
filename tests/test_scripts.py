"""The script that runs the core on other releases of torch: which it names, and its installer."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

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
