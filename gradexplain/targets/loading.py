"""Turns TARGET texts into functions: an expression, `package.module:function`, or `path/file.py:name`."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, TypeAlias, assert_never

from gradexplain.errors import InputError
from gradexplain.targets.expression import Program, parse
from gradexplain.targets.interpreter import Runner
from gradexplain.targets.values import first_line, shown

if TYPE_CHECKING:
    import torch

    from gradexplain.targets.sources import Source

NAME = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
FILE_TARGET = re.compile(rf"(?P<path>.+\.py)\s*:\s*(?P<name>{NAME})", re.DOTALL)
MODULE_TARGET = re.compile(rf"(?P<module>{NAME}):(?P<name>{NAME})")
UNFINISHED_TARGET = re.compile(rf"(?P<place>[^\s()\[\]]+\.py|{NAME}(?=\s*:)|[^\s()\[\]]+\.py(?=\s*:))\s*:?")


@dataclass(frozen=True)
class FilePlace:
    """A name in a Python file."""

    path: Path
    name: str


@dataclass(frozen=True)
class ModulePlace:
    """A name in an importable module."""

    module: str
    name: str


@dataclass(frozen=True)
class TargetSpec:
    """A TARGET as it was written and where it leads."""

    text: str
    place: Program | FilePlace | ModulePlace


@dataclass(frozen=True)
class Target:
    """A function to differentiate. `function` takes its inputs by name, whatever its own signature says.

    `parameters` are the names it takes, `required` those without default; where `open` is true it takes others as well
    (`*args`, `**kwargs`). `module` is the `nn.Module` behind it; `locate` says which text runs, for expressions.
    """

    name: str
    function: Callable[..., object]
    parameters: tuple[str, ...]
    required: tuple[str, ...]
    module: torch.nn.Module | None
    locate: Callable[[], Source] | None
    text: str
    open: bool = False


def parse_target(text: str) -> TargetSpec:
    """Reads a TARGET without importing anything. `x[1:2]` is an expression, `x.y:z` a name in a module."""
    stripped = text.strip()
    if found := FILE_TARGET.fullmatch(stripped):
        return TargetSpec(text, FilePlace(Path(found["path"]), found["name"]))
    if found := MODULE_TARGET.fullmatch(stripped):
        return TargetSpec(text, ModulePlace(found["module"], found["name"]))
    if found := UNFINISHED_TARGET.fullmatch(stripped):
        raise InputError("target_without_name", place=shown(found["place"]))
    return TargetSpec(text, parse(text))


def load(spec: TargetSpec) -> Target:
    """Returns the function behind `spec`; imports the user's module where there is one."""
    match spec.place:
        case Program() as program:
            runner = Runner(program)
            name = program.output or "f"
            return Target(name, runner, program.inputs, program.inputs, None, runner.locate, spec.text)
        case FilePlace(path, name):
            return _target(_member(_import_file(path), name, str(path)), name, spec.text)
        case ModulePlace(module, name):
            return _target(_member(_import_module(module), name, module), name, spec.text)
        case _:
            assert_never(spec.place)


def file_of(place: Program | FilePlace | ModulePlace) -> Path | None:
    """Returns the file that a target names, that of a module once it is imported; `None` for an expression."""
    match place:
        case Program():
            return None
        case FilePlace(path):
            return (Path.cwd() / path).resolve()
        case ModulePlace(module):
            file = getattr(sys.modules.get(module), "__file__", None)
            return None if file is None else Path(file)
        case _:
            assert_never(place)


def match_inputs(target: Target, given: Collection[str]) -> None:
    """Refuses inputs that `target` does not take, and the lack of those it needs."""
    takes = ", ".join(target.parameters) or "–"
    missing = [name for name in target.required if name not in given]
    superfluous = [name for name in given if name not in target.parameters]
    if superfluous and not target.open:
        names = ", ".join(map(shown, superfluous))
        raise InputError("superfluous_inputs", target=shown(target.text), names=names, takes=takes)
    if missing:
        example = " ".join(f"{name}=1,2,3" for name in missing)
        names = ", ".join(missing)
        raise InputError("missing_inputs", target=shown(target.text), names=names, takes=takes, example=example)


# ---- importing -----------------------------------------------------------------------------------------------------


def _import_file(path: Path) -> ModuleType:
    """Returns the module of a file, imported as `python file.py` would, but under its own name."""
    path = Path.cwd() / path
    if not path.is_file():
        neighbours = sorted(file.name for file in path.parent.glob("*.py"))
        close = difflib.get_close_matches(path.name, neighbours, n=1)
        key = "target_file_missing_close" if close else "target_file_missing"
        raise InputError(key, file=shown(str(path), 200), close="".join(close))
    path = path.resolve()
    name = path.stem if path.stem not in sys.modules and not _is_taken(path.stem) else f"_gradexplain_{path.stem}"
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        with _imports(path.parent, str(path)):
            found.loader.exec_module(module)
    except BaseException:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        raise
    return module


def _is_taken(name: str) -> bool:
    """Says whether `import name` means another module, such as `torch` while the user's file is `torch.py`."""
    return name in sys.stdlib_module_names or name in ("torch", "numpy", "gradexplain")


def _import_module(name: str) -> ModuleType:
    try:
        with _imports(Path.cwd(), name):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise InputError("target_module_missing", module=name, lacking=error.name, folder=Path.cwd()) from error


@contextmanager
def _imports(folder: Path, name: str) -> Iterator[None]:
    """Puts `folder` first on the import path, and says what the user's code raises while it is imported."""
    sys.path.insert(0, str(folder))
    try:
        yield
    except SystemExit as error:
        raise InputError("import_exits", place=name, code=error.code, at=_place_of(error, folder)) from error
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            raise
        kind, reason = type(error).__name__, first_line(error)
        raise InputError("import_raises", place=name, kind=kind, reason=reason, at=_place_of(error, folder)) from error
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


def _place_of(error: BaseException, folder: Path) -> str:
    """Returns `file.py:7`, the innermost line in the user's `folder` that led to `error`."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    user = [frame for frame in frames if Path(frame.filename).is_relative_to(folder) and frame.filename != __file__]
    return f"{user[-1].filename}:{user[-1].lineno}" if user else "–"


def _member(module: ModuleType, name: str, place: str) -> object:
    found: object = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise _no_member(found, part, place) from error
    return found


def _no_member(owner: object, name: str, place: str) -> InputError:
    names = (
        [key for key, value in vars(owner).items() if _is_offer(key, value, owner)]
        if hasattr(owner, "__dict__")
        else []
    )
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return InputError("target_name_missing_close", place=place, name=name, close=close[0])
    return InputError("target_name_missing", place=place, name=name, names=", ".join(sorted(names)[:20]) or "–")


def _is_offer(name: str, value: object, owner: object) -> bool:
    """Says whether `value` is public, callable and, in a module, not something it imported."""
    imported = isinstance(value, type | FunctionType) and value.__module__ != getattr(owner, "__name__", None)
    return callable(value) and not name.startswith("_") and not (isinstance(owner, ModuleType) and imported)


# ---- functions -----------------------------------------------------------------------------------------------------


def _target(found: object, name: str, text: str) -> Target:
    import torch

    if isinstance(found, type) and issubclass(found, torch.nn.Module):
        found = _instance(found, text)
    if not callable(found):
        raise InputError("target_not_callable", target=shown(text), name=name, kind=type(found).__name__)
    module = found if isinstance(found, torch.nn.Module) else None
    function: Callable[..., object] = found
    signature = _signature(module.forward if module is not None else function, name, text)
    parameters = tuple(signature.parameters.values())
    named = [parameter for parameter in parameters if parameter.kind not in VARIADIC]
    return Target(
        name=name,
        function=_by_name(function, signature),
        parameters=tuple(parameter.name for parameter in named),
        required=tuple(parameter.name for parameter in named if parameter.default is parameter.empty),
        module=module,
        locate=None,
        text=text,
        open=len(named) < len(parameters),
    )


VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _instance(cls: type[torch.nn.Module], text: str) -> torch.nn.Module:
    """Returns `cls()`."""
    needed = [
        parameter.name
        for parameter in inspect.signature(cls).parameters.values()
        if parameter.kind not in VARIADIC and parameter.default is parameter.empty
    ]
    if needed:
        raise InputError("module_needs_arguments", target=shown(text), name=cls.__name__, needed=", ".join(needed))
    try:
        return cls()
    except Exception as error:  # the user's constructor
        kind, reason = type(error).__name__, first_line(error)
        raise InputError(
            "constructor_raises", target=shown(text), name=cls.__name__, kind=kind, reason=reason
        ) from error


def _signature(function: Callable[..., object], name: str, text: str) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError) as error:  # written in C
        raise InputError("target_without_signature", target=shown(text), name=name) from error


def _by_name(function: Callable[..., object], signature: inspect.Signature) -> Callable[..., object]:
    """Returns `function` taking all inputs by name, where `(x, /)` or `*args` would take them by position only."""
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if inspect.Parameter.POSITIONAL_ONLY not in kinds and (
        inspect.Parameter.VAR_POSITIONAL not in kinds or inspect.Parameter.VAR_KEYWORD in kinds
    ):
        return function

    def call(**inputs: object) -> object:
        positional, named = _split_inputs(signature, inputs)
        return function(*positional, **named)

    return call


Inputs: TypeAlias = tuple[list[object], dict[str, object]]


def _split_inputs(signature: inspect.Signature, inputs: Mapping[str, object]) -> Inputs:
    """Splits inputs into those that go by position, in order, and those that go by name."""
    parameters = signature.parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    extra = [name for name in inputs if name not in parameters]
    first = [name for name, item in parameters.items() if name in inputs and item.kind is item.POSITIONAL_ONLY]
    if extra and inspect.Parameter.VAR_KEYWORD not in kinds:  # they go to *args, so all before them go by position
        by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        first = [name for name, item in parameters.items() if name in inputs and item.kind in by_position] + extra
    return [inputs[name] for name in first], {name: inputs[name] for name in inputs if name not in first}
