"""Lines of a script that torch does not see: found in its text."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterator

from gradexplain.targets.sources import Source

# What makes a plain number, or a tensor without its graph, of a loss.
_FREEING = frozenset({"item", "detach", "tolist", "cpu_number", "float"})


def accumulated(backward: Source) -> Source | None:
    """Returns the line that adds a loss, as a tensor, to a total or a list, near the line that starts its backward."""
    text = "".join(linecache.getlines(backward.file))
    try:
        tree = ast.parse(text)
        names = {n.id for n in ast.walk(ast.parse(backward.code.strip())) if isinstance(n, ast.Name)}
    except SyntaxError:
        return None
    elsewhere = (*_kept_elsewhere(tree, names), *_kept_where_made(tree, backward.code.strip(), names))
    found = next(iter((*_keeping(tree, names), *elsewhere)), None)
    if found is None:
        return None
    line = linecache.getline(backward.file, found.lineno).strip()
    return Source(backward.file, found.lineno, line, None, backward.function)


def _keeping(tree: ast.AST, names: set[str]) -> Iterator[ast.stmt]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.stmt) and any(_keeps(node, names)))


def _kept_elsewhere(tree: ast.AST, names: set[str]) -> Iterator[ast.stmt]:
    """Yields what keeps a loss in a function of the script that is given it: a meter's `update`."""
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        function = functions.get(_name(call))
        if function is None:
            continue
        parameters = [argument.arg for argument in function.args.args]
        parameters = parameters[parameters[:1] == ["self"] :]
        given = {p for p, argument in zip(parameters, call.args, strict=False) if _holds(argument, names)}
        given |= {keyword.arg for keyword in call.keywords if keyword.arg and _holds(keyword.value, names)}
        yield from _keeping(function, given)


def _kept_where_made(tree: ast.AST, backward: str, names: set[str]) -> Iterator[ast.stmt]:
    """Yields what keeps a loss in the function of the script that gives it back: a trainer's own step."""
    assigned = [n for n in ast.walk(tree) if isinstance(n, ast.Assign) and any(_holds(t, names) for t in n.targets)]
    making = {_name(n) for part in (ast.parse(backward), *assigned) for n in ast.walk(part) if isinstance(n, ast.Call)}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.name in making:
            given = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
            yield from _keeping(function, {value.id for value in given if isinstance(value, ast.Name)})


def kept_in(owner: type, attribute: str) -> Source | None:
    """Returns the line of a class of the script, or of what it inherits from, that first sets an attribute."""
    for kind in owner.__mro__:
        codes = (code for value in vars(kind).values() if (code := getattr(value, "__code__", None)) is not None)
        code = next(codes, None)
        if code is None:
            continue
        try:
            tree = ast.parse("".join(linecache.getlines(code.co_filename)))
        except SyntaxError:
            continue
        own = (n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == kind.__name__)
        found = next((n for c in own for n in ast.walk(c) if _sets(n, attribute)), None)
        if isinstance(found, ast.stmt):
            line = linecache.getline(code.co_filename, found.lineno).strip()
            return Source(code.co_filename, found.lineno, line)
    return None


def _sets(node: ast.AST, attribute: str) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else ()
    return any(isinstance(t, ast.Attribute) and t.attr == attribute and ast.unparse(t.value) == "self" for t in targets)


def _name(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


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


def _keeps(node: ast.stmt, names: set[str]) -> Iterator[bool]:
    if isinstance(node, ast.AugAssign):
        yield _holds(node.value, names)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        call = node.value
        if isinstance(call.func, ast.Attribute) and call.func.attr in ("append", "add"):
            yield any(_holds(argument, names) for argument in call.args)
    elif isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp) and len(node.targets) == 1:
        target = node.targets[0]
        own = isinstance(target, (ast.Name, ast.Attribute)) and any(
            isinstance(n, type(target)) and ast.unparse(n) == ast.unparse(target) for n in ast.walk(node.value)
        )
        yield own and _holds(node.value, names)


def _holds(value: ast.expr, names: set[str]) -> bool:
    """Says whether an expression holds one of some names as the tensor that it is."""
    if isinstance(value, ast.Call) and _name(value) in _FREEING:
        return False
    if isinstance(value, ast.Name):
        return value.id in names
    return any(_holds(child, names) for child in ast.iter_child_nodes(value) if isinstance(child, ast.expr))
