"""Every sentence we say, by key and language. A language is a folder of TOML files beside this module.

A key is `table.key`, or `chapter/table.key` for the files of a folder within it, which are read only when asked for.
"""

from functools import cache
from pathlib import Path

from gradexplain.locale.spelling import Option, counted, spaced, told_apart

LOCALE = Path(__file__).parent
LANGUAGES = tuple(sorted(file.parent.name for file in LOCALE.glob("*/errors.toml")))


@cache
def sentences(language: str, chapter: str = "") -> dict[str, str]:
    """Returns the templates of `language`, by `table.key`.

    Raises `ValueError` for a language that we do not speak, and where one key is given twice.
    """
    if language not in LANGUAGES:
        raise ValueError(f"There is no language {language}; there are: {', '.join(LANGUAGES)}.")
    import tomllib  # a page without a sentence does not wait for it

    found: dict[str, str] = {}
    for file in sorted((LOCALE / language / chapter).glob("*.toml")):
        for table, entries in tomllib.loads(file.read_text(encoding="utf-8")).items():
            for key, template in entries.items():
                if f"{table}.{key}" in found:
                    raise ValueError(f"{file.name} gives {table}.{key} again")
                found[f"{table}.{key}"] = template
    return found


def table(name: str, language: str) -> dict[str, str]:
    """Returns the templates of one table of `language`, by key."""
    return {
        key.removeprefix(f"{name}."): text for key, text in sentences(language).items() if key.startswith(f"{name}.")
    }


def formula(text: str, language: str = "en") -> str:
    """Returns a rule's formula with its words in `language`; one of symbols alone is the same in all."""
    return sentences(language).get(f"formulas.{text}", text)


def say(key: str, language: str = "en", **data: object) -> str:
    """Returns the sentence `key` in `language` with `data` put in; data is never read as a template.

    A template names an option as `{option:order=2}`, and it is spelled as its reader gives it; what torch makes of a
    number, `seen`, and what is `right` get the digits that tell them apart, and `{count:node|nodes}` is a count with
    its noun (`spelling.py`).
    """
    chapter, _, entry = key.rpartition("/")
    template = sentences(language, chapter)[entry]
    known = {"option": Option(), **counted(told_apart(data), template)}
    return spaced(template, known) if language == "zh" else template.format(**known)
