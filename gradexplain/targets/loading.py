"""Turns TARGET texts into functions: an expression, `package.module:function`, or `path/file.py:name`."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, assert_never

from gradexplain.errors import InputError
from gradexplain.targets.expression import Program, parse, published_path
from gradexplain.targets.interpreter import Runner
from gradexplain.targets.signatures import ANY, VARIADIC, by_any_name, by_name, is_torchs, signature_of
from gradexplain.targets.values import first_line, shown
from gradexplain.targets.vocabulary import ATTRIBUTES, FIELDS, METHODS, NUMBERS, TORCH_DTYPES

if TYPE_CHECKING:
    import torch

    from gradexplain.targets.sources import Source

NAME = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
FILE_TARGET = re.compile(rf"(?P<path>.+\.py)\s*:\s*(?P<name>{NAME})", re.DOTALL)
MODULE_TARGET = re.compile(rf"(?P<module>{NAME}):(?P<name>{NAME})")
UNFINISHED_TARGET = re.compile(rf"(?P<place>[^()\[\]]+\.py|{NAME}(?=\s*:))\s*:?")
NO_SOURCE = re.compile(
    r"[^()\[\]=]+\.(pt|pth|ckpt|bin|safetensors|onnx|pkl|ipynb|npy|npz|csv|json|txt|yaml|toml)", re.I
)
KNOWN_ATTRIBUTES = ATTRIBUTES | FIELDS | METHODS | NUMBERS.keys() | TORCH_DTYPES


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

    @property
    def called(self) -> Callable[..., object]:
        """The module itself where there is one, so that its parameters are inputs; else the function."""
        return self.function if self.module is None else self.module


def parse_target(text: str) -> TargetSpec:
    """Reads a TARGET without importing anything. `x[1:2]` is an expression, `x.y:z` a name in a module.

    The bare name of a function of torch, such as `F.gelu`, is that function.
    """
    stripped = text.strip()
    if place := FILE_TARGET.fullmatch(stripped):
        return TargetSpec(text, FilePlace(Path(place["path"]), place["name"]))
    if place := MODULE_TARGET.fullmatch(stripped):
        return TargetSpec(text, ModulePlace(place["module"], place["name"]))
    if path := published_path(stripped):
        home, _, name = path.rpartition(".")
        return TargetSpec(text, ModulePlace(home, name))
    if place := UNFINISHED_TARGET.fullmatch(stripped):
        raise _unfinished(place["place"])
    if NO_SOURCE.fullmatch(stripped):
        raise InputError("target_is_data", place=shown(stripped))
    module, dot, name = stripped.rpartition(".")
    if dot and re.fullmatch(NAME, stripped) and not difflib.get_close_matches(name, KNOWN_ATTRIBUTES, n=1, cutoff=0.8):
        raise InputError("target_colon", text=shown(stripped), module=shown(module), name=shown(name))
    return TargetSpec(text, parse(text))


def _unfinished(place: str) -> InputError:
    """Returns what a file without a name is told: the names that are defined in it, read without running it."""
    try:
        tree = ast.parse(Path(place).read_bytes())
    except (OSError, SyntaxError, ValueError):  # said when it is loaded
        return InputError("target_without_name", place=shown(place))
    kinds = ast.FunctionDef | ast.ClassDef
    names = [node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    if not names:
        return InputError("target_without_functions", place=shown(place))
    return InputError("target_without_name_known", place=shown(place), name=names[0], names=", ".join(names[:20]))


def load(spec: TargetSpec) -> Target:
    """Returns the function behind `spec`; imports the user's module where there is one."""
    match spec.place:
        case Program() as program:
            runner = Runner(program)
            name = program.output or "f"
            return Target(name, runner, program.inputs, program.inputs, None, runner.locate, spec.text)
        case FilePlace(path, name):
            return target_of(_member(_import_file(path), name, str(path)), name, spec.text)
        case ModulePlace(module, name):
            return target_of(_member(_import_module(module), name, module), name, spec.text)
        case _:
            assert_never(spec.place)


def file_of(place: Program | FilePlace | ModulePlace) -> Path | None:
    """Returns the file that a target names, without running any of it; `None` for an expression."""
    match place:
        case Program():
            return None
        case FilePlace(path):
            return (Path.cwd() / path).resolve()
        case ModulePlace(module):
            return _module_file(module)
        case _:
            assert_never(place)


def match_inputs(target: Target, given: Collection[str]) -> None:
    """Refuses inputs that `target` does not take, and the lack of those it needs."""
    takes = ", ".join(target.parameters) or "–"
    missing = [name for name in target.required if name not in given]
    superfluous = [name for name in given if name not in target.parameters]
    if target.open:
        missing = missing[len(superfluous) :]  # the others fill the free places
    elif superfluous:
        names = ", ".join(map(shown, superfluous))
        raise InputError("superfluous_inputs", target=shown(target.text), names=names, takes=takes)
    if missing:
        example = " ".join(f"{name}=1,2,3" for name in missing)
        names = ", ".join(missing)
        raise InputError("missing_inputs", target=shown(target.text), names=names, takes=takes, example=example)


def _module_file(name: str) -> Path | None:
    """Returns where a module stands, looked for as an import would, but importing no package on the way."""
    if name in sys.modules:
        file = getattr(sys.modules[name], "__file__", None)
        return None if file is None else Path(file)
    found, path, folders = None, "", [str(Path.cwd()), *sys.path]
    for part in name.split("."):
        path = f"{path}.{part}" if path else part
        found = PathFinder.find_spec(path, folders)
        if found is None:
            return None
        folders = list(found.submodule_search_locations or ())
    return Path(found.origin) if found is not None and found.origin else None


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
        if Path(name).is_file():
            raise InputError("target_file_not_python", file=name) from error
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
    member: object = module
    for part in name.split("."):
        owner = member
        try:
            member = getattr(owner, part)
        except AttributeError as error:
            raise _no_member(owner, part, place) from error
    if isinstance(owner, type) and isinstance(inspect.getattr_static(owner, part), FunctionType):
        raise InputError("method_without_instance", place=place, cls=owner.__name__, name=part)
    return member


def _no_member(owner: object, name: str, place: str) -> InputError:
    names = (
        [key for key, value in vars(owner).items() if _is_offer(key, value, owner)]
        if hasattr(owner, "__dict__")
        else []
    )
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return InputError("target_name_missing_close", place=place, name=name, close=close[0])
    if not names:
        return InputError("target_place_empty", place=place, name=name)
    return InputError("target_name_missing", place=place, name=name, names=", ".join(sorted(names)[:20]))


def _is_offer(name: str, value: object, owner: object) -> bool:
    """Says whether `value` is public, callable and, in a module, not something it imported."""
    imported = isinstance(value, type | FunctionType) and value.__module__ != getattr(owner, "__name__", None)
    return callable(value) and not name.startswith("_") and not (isinstance(owner, ModuleType) and imported)


# ---- functions -----------------------------------------------------------------------------------------------------


def target_of(found: object, name: str, text: str) -> Target:
    """Returns a callable, or an instance of a class of modules, as the target that `text` names."""
    import torch

    if isinstance(found, type) and issubclass(found, torch.nn.Module):
        found = _instance(found, text)
    elif isinstance(found, type) and issubclass(found, torch.autograd.Function):
        raise InputError("target_is_custom_function", target=shown(text), name=found.__name__)
    elif isinstance(found, type) and not (is_dataclass(found) or issubclass(found, (tuple, list, dict))):
        raise InputError("target_is_class", target=shown(text), name=found.__name__)
    if not callable(found):
        raise InputError("target_not_callable", target=shown(text), name=name, kind=type(found).__name__)
    module = found if isinstance(found, torch.nn.Module) else None
    function: Callable[..., object] = found
    signature = signature_of(function)
    if signature is None and not is_torchs(function):
        raise InputError("target_without_signature", target=shown(text), name=name)
    signature = signature or ANY
    parameters = tuple(signature.parameters.values())
    named = [parameter for parameter in parameters if parameter.kind not in VARIADIC]
    lenient = is_torchs(function) and module is None and len(named) == len(parameters)
    return Target(
        name=name,
        function=by_any_name(function, signature) if lenient else by_name(function, signature),
        parameters=tuple(parameter.name for parameter in named),
        required=tuple(parameter.name for parameter in named if parameter.default is parameter.empty),
        module=module,
        locate=None,
        text=text,
        open=lenient or len(named) < len(parameters),
    )


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
