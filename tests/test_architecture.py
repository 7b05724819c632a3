"""The architecture: imports go one way, and heavy libraries load only where they are used."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "gradexplain"

# From low to high, as data flows: a folder imports only from those before it.
FOLDERS = """
    locale errors versions mathematics documents rules targets recording findings verification comparison training
    explanation narration graphs figures pages api receipts lessons playground cli plugin
""".split()  # noqa: SIM905  # read as a line from low to high
LIGHT = {"locale", "errors", "versions", "documents", "targets", "cli"}
HEAVY = {"torch", "sympy", "matplotlib"}


def modules(package: Path = PACKAGE) -> dict[str, Path]:
    """Returns the file of each module, by its name below the package; a folder's own is the folder's name."""
    files = [p for p in package.rglob("*.py") if p not in (package / "__init__.py", package / "__main__.py")]
    names = {p: p.relative_to(package).with_suffix("").parts for p in files}
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts): p for p, parts in names.items()}


def layer(module: str) -> str:
    return module.split(".")[0]


def imports(path: Path, *, everywhere: bool) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if everywhere else at_import(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """Yields what runs when a module is imported: no function bodies, nothing under TYPE_CHECKING."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from at_import(node)


def used(module: str, known: Mapping[str, Path]) -> set[str]:
    """Returns the modules of the package that a module imports anywhere: in functions and for types included."""
    named = (name.removeprefix("gradexplain.") for name in imports(known[module], everywhere=True))
    return {name for name in named if name in known} - {module}


def upward(module: str, known: Mapping[str, Path]) -> list[tuple[str, str]]:
    """Returns the imports of a module that go to a later folder."""
    place = FOLDERS.index(layer(module))
    return sorted((module, other) for other in used(module, known) if FOLDERS.index(layer(other)) > place)


def circle(folder: str, known: Mapping[str, Path]) -> list[str]:
    """Returns the modules of a folder that import each other in a circle, none where there is no circle."""
    inside = [module for module in known if layer(module) == folder]
    try:
        TopologicalSorter({m: {u for u in used(m, known) if layer(u) == folder} for m in inside}).prepare()
    except CycleError as fault:
        return list(fault.args[1])
    return []


def test_every_module_has_a_place_in_the_order() -> None:
    assert {layer(m) for m in modules()} == {*FOLDERS}


def test_the_guide_has_every_folder_in_this_order() -> None:
    guide = (PACKAGE / "guides" / "architecture.md").read_text(encoding="utf-8")
    assert guide.split("```text\n")[1].partition("```")[0].split() == FOLDERS
    told = set(re.findall(r"`(\w+)/`", "".join(re.findall(r"^\| `.*? \|", guide, re.MULTILINE))))
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert told >= folders


def test_every_folder_says_what_is_known_in_it() -> None:
    for folder in (file.parent for file in PACKAGE.rglob("*.py")):
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))), folder


def test_imports_go_one_way() -> None:
    known = modules()
    assert not [pair for module in known for pair in upward(module, known)]


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_folder_has_a_circle(folder: str) -> None:
    assert not circle(folder, modules())


@pytest.mark.parametrize("folder", FOLDERS[:-1])
@pytest.mark.parametrize("code", ["from {}", "def f():\n    from {}", "if TYPE_CHECKING:\n    from {}"])
def test_an_import_that_goes_up_is_caught(folder: str, code: str, tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text(code.format("gradexplain.plugin import assert_gradients") + "\n")
    known = {**modules(), f"{folder}.planted": planted}
    assert upward(f"{folder}.planted", known) == [(f"{folder}.planted", "plugin")]


def test_a_circle_inside_a_folder_is_caught(tmp_path: Path) -> None:
    for name, other in (("one", "two"), ("two", "one")):
        (tmp_path / f"{name}.py").write_text(f"def f():\n    from gradexplain.rules.{other} import x\n")
    known = {**modules(), **{f"rules.{name}": tmp_path / f"{name}.py" for name in ("one", "two")}}
    assert {"rules.one", "rules.two"} == set(circle("rules", known))


def test_heavy_libraries_are_not_loaded_with_what_reads_the_command_line() -> None:
    light = [path for module, path in modules().items() if layer(module) in LIGHT] + [PACKAGE / "__init__.py"]
    loaded = {(path, name.split(".")[0]) for path in light for name in imports(path, everywhere=False)}
    assert not [(path, name) for path, name in loaded if name in HEAVY]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["explain", "--help"],
        ["explain"],
        ["explain", "sum(x**2)"],
        ["explain", "__import__('os')"],
        ["graph", "--help"],
        ["graph", "sum(x**2)"],
        ["graph", "sum(x**2)", "x=1", "--view", "sideways"],
        ["figure"],
        ["figure", "descent", "--help"],
        ["figure", "descent"],
        ["figure", "descent", "--lr", "0", "--output", "a.svg"],
        ["figure", "descent", "x**2 + y", "--output", "a.svg"],
        ["figure", "proportional", "--at", "twos", "--output", "a.svg"],
    ],
)
def test_help_and_usage_errors_do_not_wait_for_torch(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['gradexplain', *{arguments!r}]\n"
        "from gradexplain.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'sympy', 'matplotlib'} & {*sys.modules}\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_package_imports_without_torch_and_offers_its_names() -> None:
    code = "import sys, gradexplain as gx; assert 'torch' not in sys.modules; assert callable(gx.explain)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_public_name_is_also_a_module() -> None:
    import gradexplain

    assert not set(gradexplain.__all__) & {layer(m) for m in modules()}


# What a page of help does without: it is the first thing that a new user waits for.
READ_LATER = ("gradexplain.targets", "gradexplain.figures")
LOADED_LATER = ("importlib.metadata", "importlib.resources", "email", "socket", "tomllib")


@pytest.mark.parametrize(
    ("arguments", "later"),
    [
        ([], READ_LATER + LOADED_LATER),
        (["--help"], READ_LATER + LOADED_LATER),
        (["explain", "--help"], READ_LATER),  # where a command has options, typer loads pydantic, and that the rest
        (["verify", "--help"], READ_LATER),
        (["nonsense"], READ_LATER),
    ],
)
def test_a_page_of_help_loads_nothing_that_only_commands_read(arguments: list[str], later: tuple[str, ...]) -> None:
    code = (
        "import sys, typer, rich\n"
        "before = {*sys.modules}\n"
        f"sys.argv = ['gradexplain', *{arguments!r}]\n"
        "from gradexplain.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "sys.stderr.write('|'.join(sorted({*sys.modules} - before)))\n"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stderr
    loaded = said.rpartition("\n")[2].split("|")
    assert "gradexplain.cli.app" in loaded
    assert not [name for name in loaded if name.startswith(later)]
