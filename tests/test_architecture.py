"""The architecture: imports go one way, and heavy libraries load only where they are used."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "gradexplain"

# Lower layers first. A module imports only from its own folder and from what stands before it.
ORDER = """
    catalogue errors parameters origin findings terms equations doc renderers fonts traces anchors internals sources
    digits progress rules symbolic containers computation recording functions failures cuts tracing derivatives alone
    live elements summaries selection grouping diagnosis oracles incidents verification operations inquiry explanation
    narration reporting values vocabulary expression loading receipts records drawing figures api lessons cli plugin
""".split()  # noqa: SIM905  # read as a line from low to high
# The reaches upwards: an explanation that is asked to show itself calls on the words for it.
REACHES_UP = {
    ("explanation", "narration"),
    ("explanation", "records"),
    ("verification", "reporting"),
    ("reporting", "records"),
}
HEAVY_FREE = ("catalogue", "errors", "terms", "doc", "traces", "expression", "values", "loading", "cli", "__init__")
HEAVY = {"torch", "sympy", "matplotlib"}


def modules() -> dict[str, Path]:
    files = [p for p in PACKAGE.rglob("*.py") if p.name != "__main__.py"]
    return {str(p.relative_to(PACKAGE).with_suffix("")).replace("/", "."): p for p in files}


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


def upward(module: str, path: Path) -> list[tuple[str, str]]:
    own = layer(module)
    used = {
        layer(name.removeprefix("gradexplain.")) for name in imports(path, everywhere=True) if "gradexplain." in name
    }
    return [(own, name) for name in used if name in ORDER and name != own and ORDER.index(name) > ORDER.index(own)]


def test_every_module_has_a_place_in_the_order() -> None:
    assert {layer(m) for m in modules()} == {*ORDER, "__init__"}


@pytest.mark.parametrize("module", sorted(m for m in modules() if m != "__init__"))
def test_imports_go_one_way(module: str) -> None:
    assert not [pair for pair in upward(module, modules()[module]) if pair not in REACHES_UP]


def test_an_import_that_goes_up_is_caught(tmp_path: Path) -> None:
    planted = tmp_path / "doc.py"
    planted.write_text("from gradexplain.cli import app\n")
    assert upward("doc", planted) == [("doc", "cli")]


@pytest.mark.parametrize("module", [module for module in modules() if layer(module) in HEAVY_FREE])
def test_heavy_libraries_are_not_loaded_with(module: str) -> None:
    names = {name.split(".")[0] for name in imports(modules()[module], everywhere=False)}
    assert not names & HEAVY


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
