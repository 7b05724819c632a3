"""Remedies as changes of the user's own line: the text of the line as it should be, where that can be told from it."""

from __future__ import annotations

import ast
import linecache
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from gradexplain.findings.finding import Finding
from gradexplain.targets.sources import Source


@dataclass(frozen=True)
class Change:
    """A line of a file, and what it becomes; both without their indentation.

    `words` is the code of the remedy's sentence, where that one names what this change makes of the line.
    """

    file: str
    line: int
    old: str
    new: str
    words: str = ""

    def applied(self, text: bytes) -> bytes:
        """Returns the text of the file with the change; as it was where the line is another."""
        lines = text.split(b"\n")
        own = lines[self.line - 1] if self.line <= len(lines) else b""
        if own.strip() == self.old.encode():
            lines[self.line - 1] = own[: len(own) - len(own.lstrip())] + self.new.encode()
        return b"\n".join(lines)


def changes_for(finding: Finding) -> Iterator[Change]:
    """Yields the changes that may mend a finding, the smallest first; none where it is not a matter of one line."""
    source = finding.source
    key = str(finding.data.get("remedy", finding.code)) if "detail" in finding.data else finding.code
    if source is None:
        return
    above = range(source.line, max(0, source.line - _ABOVE), -1) if key == "masked_row" else [source.line]
    for line in above:  # a mask is put on before the softmax
        old = linecache.getline(source.file, line).strip()
        for words, edit in _edits(key):
            try:
                new = edit(old, source, finding)
                ast.parse(new or "")
            except (SyntaxError, ValueError):
                continue
            if new and new != old:
                yield Change(source.file, line, old, new, words)
    yield from _without_modules(key, source)


def _edits(key: str) -> Iterator[tuple[str, Edit]]:
    """Yields the edits of a kind of finding, each with the code of its own words, if any."""
    if key == "rate-too-high":
        yield from ((f"{key}-{factor}", _smaller("lr", factor)) for factor in (10, 100, 1000, 10_000))
    yield from (("", edit) for edit in _EDITS.get(key, ()))


def _without_modules(key: str, source: Source) -> Iterator[Change]:
    """Yields the change that leaves out a module which the script makes in one place, and calls in another."""
    name = _MODULES.get(key, "")
    lines = linecache.getlines(source.file)
    made = [(n, line.strip()) for n, line in enumerate(lines, 1) if name and re.search(rf"\bnn\.{name}\(", line)]
    if len(made) == 1 and made[0][0] != source.line:
        ((number, old),) = made
        yield Change(source.file, number, old, re.sub(rf"\bnn\.{name}\([^()]*\)", "nn.Identity()", old))


_MODULES = {
    "softmax-twice": "Softmax",
    "softmax-before-sigmoid": "Softmax",
    "sigmoid-twice": "Sigmoid",
    "sigmoid-before-softmax": "Sigmoid",
}
_ABOVE = 8
Edit = Callable[[str, Source, Finding], str | None]


def _statement(line: str) -> ast.Module:
    return ast.parse(line)


def _segment(line: str, node: ast.expr) -> tuple[int, int]:
    """Returns where an expression of a one-line statement stands, in characters."""
    data = line.encode()
    start, end = node.col_offset, node.end_col_offset or 0
    return len(data[:start].decode()), len(data[:end].decode())


def _text(line: str, node: ast.expr) -> str:
    start, end = _segment(line, node)
    return line[start:end]


def _put(line: str, node: ast.expr, new: str) -> str:
    start, end = _segment(line, node)
    return line[:start] + new + line[end:]


def _grouped(text: str) -> str:
    """Returns an expression that a method may be called on."""
    whole = isinstance(ast.parse(text, mode="eval").body, (ast.Name, ast.Attribute, ast.Call, ast.Subscript))
    return text if whole else f"({text})"


def _calls(line: str, *names: str) -> Iterator[tuple[ast.Call, ast.expr]]:
    """Yields the calls of functions and methods of these names in a line, each with what it is called on."""
    for node in ast.walk(_statement(line)):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Attribute) and function.attr in names:
            if node.args and isinstance(function.value, (ast.Name, ast.Attribute)) and _is_module(function.value):
                yield node, node.args[0]
            elif not _is_module(function.value):
                yield node, function.value
        elif isinstance(function, ast.Name) and function.id in names and node.args:
            yield node, node.args[0]


def _is_module(node: ast.expr) -> bool:
    return ast.unparse(node) in ("torch", "F", "nn.functional", "torch.nn.functional", "torch.special", "torch.linalg")


def _argument(names: tuple[str, ...], wrap: str) -> Edit:
    """Returns the edit that puts `wrap` around what a function takes."""

    def edit(line: str, source: Source, finding: Finding) -> str | None:
        found = [a for call, a in _calls(line, *names) if not source.code or _text(line, call) in (source.code, "")]
        found = found or [a for _, a in _calls(line, *names)]
        if not found:
            return None
        inner = _text(line, found[0])
        new = wrap.format(x=inner, g=_grouped(inner))
        return _put(line, found[0], _grouped(new) if line[_segment(line, found[0])[1] :].startswith(".") else new)

    return edit


def _divisor(line: str, source: Source, finding: Finding) -> str | None:
    for node in ast.walk(_statement(line)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and _text(line, node) == source.code:
            return _put(line, node.right, _summed(line, node.right))
    return None


def _summed(line: str, node: ast.expr) -> str:
    """Returns an expression with a small number added, in brackets unless it stands in some."""
    (start, end), text = _segment(line, node), f"{_text(line, node)} + 1e-12"
    return text if line[start - 1 : start] == "(" and line[end : end + 1] == ")" else f"({text})"


def _power(line: str, source: Source, finding: Finding) -> str | None:
    for node in ast.walk(_statement(line)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and _text(line, node) == source.code:
            return _put(line, node.left, f"{_grouped(_text(line, node.left))}.clamp_min(1e-12)")
    return _argument(("pow",), "{g}.clamp_min(1e-12)")(line, source, finding)


def _divided_by(line: str, source: Source, finding: Finding) -> str | None:
    """Adds a small number to what the method `div` divides by."""
    for call, _ in _calls(line, "div"):
        if call.args and _text(line, call) == source.code:
            last = call.args[-1]
            return _put(line, last, f"{_text(line, last)} + 1e-12")
    return None


def _of_one(end: str) -> Edit:
    """Returns the edit that takes a deviation without correction, and puts `end` behind it."""

    def edit(line: str, source: Source, finding: Finding) -> str | None:
        for call, _ in _calls(line, "std", "var"):
            if not any(k.arg in ("unbiased", "correction") for k in call.keywords):
                text = _text(line, call)
                comma = "" if text.endswith("()") else ", "
                return _put(line, call, f"{text[:-1]}{comma}correction=0){end}")
        return None

    return edit


def _lowest(line: str, source: Source, finding: Finding) -> str | None:
    """Masks with the lowest number in place of −∞: a row of nothing else has a softmax then."""
    found = re.search(r"""float\(["']-inf["']\)|-(torch|math|np|numpy)\.inf|-float\(["']inf["']\)""", line)
    return found and f"{line[: found.start()]}-1e9{line[found.end() :]}"


def _twice_where(line: str, source: Source, finding: Finding) -> str | None:
    """Chooses what goes into the function first, and then the result."""
    for call, _ in _calls(line, "where"):
        if len(call.args) != 3:
            continue
        condition = _text(line, call.args[0])
        for branch, chosen in ((call.args[1], "{c}, {x}, 1.0"), (call.args[2], "{c}, 1.0, {x}")):
            inner = next(
                (n for n in ast.walk(branch) if isinstance(n, ast.expr) and _text(line, n) == source.code), None
            )
            if inner is not None and (taken := _taken_by(inner)) is not None:
                return _put(line, taken, f"torch.where({chosen.format(c=condition, x=_text(line, taken))})")
    return _argument(("sqrt",), "{x} + 1e-12")(line, source, finding)


def _taken_by(node: ast.expr) -> ast.expr | None:
    """Returns what a function takes, what is divided by, or what is raised to a power."""
    match node:
        case ast.Call(func=ast.Attribute(value=own), args=[]):
            return own
        case ast.Call(func=own, args=given):
            return given[0] if given else own
        case ast.BinOp(op=ast.Div(), right=own) | ast.BinOp(op=ast.Pow(), left=own):
            return own
    return None


def _steep(line: str, source: Source, finding: Finding) -> str | None:
    for names, wrap in (
        (("sqrt",), "{x} + 1e-12"),
        (("log", "log2", "log10"), "{g}.clamp_min(1e-12)"),
        (("acos", "asin", "arccos", "arcsin"), "{g}.clamp(-1 + 1e-6, 1 - 1e-6)"),
        (("entr",), "{g}.clamp_min(1e-12)"),
    ):
        if new := _argument(names, wrap)(line, source, finding):
            return new
    return _power(line, source, finding) or _divisor(line, source, finding)


def _without(*names: str) -> Edit:
    def edit(line: str, source: Source, finding: Finding) -> str | None:
        found = next(_calls(line, *names), None)
        return None if found is None else _put(line, found[0], _grouped(_text(line, found[1])))

    return edit


def _logarithm(line: str, source: Source, finding: Finding) -> str | None:
    """Takes the logarithm along with softmax, which stands beside it under each of its names."""
    found = next(_calls(line, "softmax"), None)
    return found and _put(line, found[0].func, re.sub("softmax$", "log_softmax", _text(line, found[0].func)))


def _smaller(keyword: str, factor: int) -> Edit:
    def edit(line: str, source: Source, finding: Finding) -> str | None:
        calls = [node for node in ast.walk(_statement(line)) if isinstance(node, ast.Call)]
        named = [k.value for call in calls for k in call.keywords if k.arg == keyword]
        second = [
            c.args[1] for c in calls if keyword == "lr" and len(c.args) > 1 and "parameters" in _text(line, c.args[0])
        ]
        if not (given := [*named, *second]):
            return None
        text = _text(line, given[0])
        is_number = re.fullmatch(r"[0-9.][0-9.eE+-]*", text)
        return _put(line, given[0], f"{float(text) / factor:g}" if is_number else f"{_grouped(text)} / {factor}")

    return edit


def _of_its_type(line: str, source: Source, finding: Finding) -> str | None:
    """Gives an optimizer an ε that half precision has."""
    for call in (node for node in ast.walk(_statement(line)) if isinstance(node, ast.Call)):
        if ast.unparse(call.func).rpartition(".")[2] == finding.data["kind"]:
            given = next((k.value for k in call.keywords if k.arg == "eps"), None)
            return _put(line, given or call, "1e-4" if given else f"{_text(line, call)[:-1]}, eps=1e-4)")
    return None


def _divided(line: str, source: Source, finding: Finding) -> str | None:
    found = next(_calls(line, "backward"), None)
    if found is None:
        return None
    return _put(line, found[1], f"({_text(line, found[1])} / {finding.data['passes']})")


def _cleared(line: str, source: Source, finding: Finding) -> str | None:
    text = "".join(linecache.getlines(source.file))
    stepping = [name for name in re.findall(r"^\s*([\w.]+)\.step\(", text, re.MULTILINE) if "sched" not in name]
    return f"{stepping[0]}.zero_grad(); {line}" if len(set(stepping)) == 1 else None


def _new_tensor(line: str, source: Source, finding: Finding) -> str | None:
    (statement,) = _statement(line).body
    if not isinstance(statement, ast.AugAssign) or not isinstance(statement.target, ast.Name):
        return None
    sign = re.search(r"\s(\S+)=\s", line)
    return None if sign is None else f"{statement.target.id} = {statement.target.id} {sign[1]} {line[sign.end() :]}"


def _column(line: str, source: Source, finding: Finding) -> str | None:
    """Makes a row of the column, where the difference of the two stands in the line."""
    if finding.data.get("given") != 2:
        return None
    for node in ast.walk(_statement(line)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
            own = node.right if finding.data.get("slot") else node.left
            return _put(line, own, f"{_grouped(_text(line, own))}.squeeze(1)")
    return _argument(("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"), "{g}.squeeze(1)")(line, source, finding)


def _number(line: str, source: Source, finding: Finding) -> str | None:
    (statement,) = _statement(line).body
    if isinstance(statement, ast.AugAssign) and isinstance(statement.value, ast.Name):
        return _put(line, statement.value, f"{statement.value.id}.item()")
    return None


def _detached(line: str, source: Source, finding: Finding) -> str | None:
    """Keeps the numbers of a tensor without its graph."""
    (statement,) = _statement(line).body
    if isinstance(statement, ast.Assign | ast.AugAssign):
        kept = statement.value
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call) and statement.value.args:
        kept = statement.value.args[-1]
    else:
        return None
    return _put(line, kept, f"{_grouped(_text(line, kept))}.detach()")


def _registered(line: str, source: Source, finding: Finding) -> str | None:
    """Keeps modules in a container of torch's in place of a plain one."""
    (statement,) = _statement(line).body
    if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
        return None
    kind = "ModuleDict" if isinstance(statement.value, ast.Dict | ast.DictComp) else "ModuleList"
    text = "".join(linecache.getlines(source.file))
    has_name = re.search(r"^\s*(import torch\.nn as nn|from torch import .*\bnn\b)", text, re.MULTILINE)
    torchs = "nn" if has_name else "torch.nn"
    return _put(line, statement.value, f"{torchs}.{kind}({_text(line, statement.value)})")


def _stacked(line: str, source: Source, finding: Finding) -> str | None:
    """Stacks losses in place of making a new tensor of their numbers."""
    for call, _ in _calls(line, "tensor"):
        if call.args:
            return _put(line, call, f"torch.stack({_text(line, call.args[0])})")
    return None


_EDITS: Mapping[str, tuple[Edit, ...]] = {
    "logarithm": (
        _argument(("log", "log2", "log10"), "{g}.clamp_min(1e-12)"),
        _argument(("log1p",), "{g}.clamp_min(-1 + 1e-6)"),
        _argument(("logit",), "{g}.clamp(1e-6, 1 - 1e-6)"),
    ),
    "root": (_argument(("sqrt",), "{g}.clamp_min(0)"),),
    "quotient": (
        _divisor,
        _divided_by,
        _argument(("reciprocal", "rsqrt"), "{x} + 1e-12"),
        _argument(("sqrt",), "{x} + 1e-12"),  # a root that is divided by has no slope at 0 either
    ),
    "power": (_power,),
    "few": (_of_one(""), _of_one(".clamp_min(1e-12)")),
    "masked_row": (_lowest,),
    "no_slope": (_argument(("hypot",), "{x} + 1e-12"),),
    "end": (_argument(("acos", "asin", "arccos", "arcsin", "atanh"), "{g}.clamp(-1 + 1e-6, 1 - 1e-6)"),),
    "exponential": (_argument(("exp",), "{g}.clamp(max=80)"), _argument(("exp",), "{g}.clamp(max=10)")),  # in float16
    "steep": (_steep,),
    "hidden": (_twice_where,),
    "softmax-twice": (_without("softmax"),),
    "softmax-before-sigmoid": (_without("softmax"),),
    "sigmoid-twice": (_without("sigmoid"),),
    "sigmoid-before-softmax": (_without("sigmoid"),),
    "probabilities-not-logs": (_logarithm,),
    "decay-too-strong": tuple(_smaller("weight_decay", factor) for factor in (1000, 10_000)),
    "divided-by-nothing": (_of_its_type,),
    "not-divided": (_divided,),
    "not-cleared": (_cleared,),
    "saved-changed": (_new_tensor,),
    "unmeant-broadcast": (_column,),
    "graphs-kept": (_number, _detached),
    "hidden-from-optimizer": (_registered,),
    "nothing-learns": (_stacked,),
    "loss-without-graph": (_stacked,),
}
