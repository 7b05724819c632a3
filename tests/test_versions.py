"""The releases of torch: what `gradexplain --version` says of the one that is installed."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest

from gradexplain.versions import releases
from gradexplain.versions.releases import minor_release, version_line


def installed(monkeypatch, torch):
    def version(name):
        if torch is None:
            raise PackageNotFoundError(name)
        return torch

    monkeypatch.setattr(releases, "version", version)
    monkeypatch.setattr(releases, "OLDEST", (2, 9))
    monkeypatch.setattr(releases, "NEWEST", (2, 15))


@pytest.mark.parametrize("torch", ["2.9.0", "2.15.3+cpu", "2.15.0.dev20261101", "2.10.0"])
def test_a_tested_torch_is_named_without_a_word_more(monkeypatch, torch):
    installed(monkeypatch, torch)
    assert f" · torch {torch} · Python 3." in version_line()


@pytest.mark.parametrize(
    ("torch", "words"), [("2.16.0+cpu", "newer than 2.15"), ("3.0.0", "newer than 2.15"), ("2.8.1", "older than 2.9")]
)
def test_an_untested_torch_is_called_so(monkeypatch, torch, words):
    installed(monkeypatch, torch)
    assert f"torch {torch} ({words}" in version_line()
    assert "未经测试" in version_line("zh")


def test_a_missing_torch_is_a_sentence(monkeypatch):
    installed(monkeypatch, None)
    assert "torch is not installed" in version_line()


def test_the_tested_releases_are_in_order():
    assert minor_release("2.6.0") < releases.OLDEST <= releases.NEWEST


def test_torch_is_not_imported_for_its_version():
    code = "from gradexplain.versions.releases import version_line; version_line(); import sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "gradexplain.versions.releases" in loaded
    assert "torch" not in loaded
