"""The formats that results are written in, and how a file's suffix tells its format."""

from collections.abc import Mapping
from pathlib import Path

from gradexplain.errors import InputError

# A page is drawn; every result is recorded as JSON too.
PAGES = ("terminal", "text", "markdown", "html")
FORMATS = (*PAGES, "json")
SUFFIXES: Mapping[str, str] = {"text": ".txt", "markdown": ".md", "html": ".html", "json": ".json"}


def format_of(path: Path, suffixes: Mapping[str, str] = SUFFIXES) -> str:
    """Returns the format of a file, of those that have `suffixes`; raises `InputError` for a suffix of none."""
    for format, suffix in suffixes.items():
        if path.suffix.lower() == suffix:
            return format
    raise InputError("unknown_suffix", path=path, names=", ".join(suffixes.values()))
