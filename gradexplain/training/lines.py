"""Lines of a script that torch does not see: found in its text."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterator

from gradexplain.targets.sources import Source


def classes_of(owner: type) -> Iterator[tuple[type, str]]:
    """Yields a class and what it inherits from, each with its file, as far as they have functions."""
    for kind in owner.__mro__:
        codes = (code for value in vars(kind).values() if (code := getattr(value, "__code__", None)) is not None)
        if (code := next(codes, None)) is not None:
            yield kind, code.co_filename


def kept_in(owner: type, attribute: str) -> Source | None:
    """Returns the line of a class of the script, or of what it inherits from, that first sets an attribute."""
    for kind, file in classes_of(owner):
        try:
            tree = ast.parse("".join(linecache.getlines(file)))
        except SyntaxError:
            continue
        own = (n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == kind.__name__)
        found = next((n for c in own for n in ast.walk(c) if _sets(n, attribute)), None)
        if isinstance(found, ast.stmt):
            return Source(file, found.lineno, linecache.getline(file, found.lineno).strip())
    return None


def _sets(node: ast.AST, attribute: str) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else ()
    return any(isinstance(t, ast.Attribute) and t.attr == attribute and ast.unparse(t.value) == "self" for t in targets)


def steps_by_count(file: str) -> bool:
    """Says whether a script steps at every so-manieth batch: a step under a condition on a remainder."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return False
    conditions = (node for node in ast.walk(tree) if isinstance(node, ast.If) and _has_remainder(node.test))
    return any(_has_step(statement) for node in conditions for statement in node.body)


def _has_remainder(test: ast.expr) -> bool:
    return any(isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod) for node in ast.walk(test))


def _has_step(statement: ast.stmt) -> bool:
    calls = (node.func for node in ast.walk(statement) if isinstance(node, ast.Call))
    return any(isinstance(function, ast.Attribute) and function.attr == "step" for function in calls)
