"""Reads VALUE texts such as `1,2,3`, `randn(3,2):float64` or `@file.npy`. Only making tensors needs torch."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NoReturn, TypeAlias, assert_never

from gradexplain.errors import InputError

if TYPE_CHECKING:
    import torch

LIMIT = 2**30  # bytes of one tensor: more is a slip of the keyboard in a tool that shows numbers to people

# fmt: off
ITEMSIZE: Mapping[str, int] = MappingProxyType({
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8, "complex128": 16,
    "bool": 1, "uint8": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8,
})
INTEGERS: Mapping[str, tuple[int, int]] = MappingProxyType({
    "bool": (0, 1), "uint8": (0, 2**8 - 1), "int8": (-2**7, 2**7 - 1), "int16": (-2**15, 2**15 - 1),
    "int32": (-2**31, 2**31 - 1), "int64": (-2**63, 2**63 - 1),
})
COMPLEX: Mapping[str, str] = MappingProxyType({
    "float64": "complex128", "complex64": "complex64", "complex128": "complex128",
})
ALIASES: Mapping[str, str] = MappingProxyType({
    "half": "float16", "float": "float32", "double": "float64", "short": "int16", "int": "int32", "long": "int64",
})
# fmt: on

Number: TypeAlias = bool | int | float | complex
Nested: TypeAlias = "Number | list[Nested]"


@dataclass(frozen=True)
class Numbers:
    """Numbers written out; `flat` in row-major order."""

    flat: tuple[Number, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Creation:
    """A call such as `linspace(-2,2,9)`: the torch function, its arguments, the shape that comes out."""

    function: str
    arguments: tuple[object, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class File:
    """A tensor in a `.npy` or `.pt` file."""

    path: Path


@dataclass(frozen=True)
class ValueSpec:
    """A VALUE as it was written, read but not yet made; `dtype` is the suffix, None where there is none."""

    text: str
    source: Numbers | Creation | File
    dtype: str | None


# ---- reading -------------------------------------------------------------------------------------------------------


def parse_value(text: str) -> ValueSpec:
    """Reads one VALUE; refuses what is malformed or larger than 1 GiB, and makes nothing."""
    if text.lstrip().startswith("{"):
        raise InputError("dict_as_value", text=shown(text))
    body, dtype = _split_suffix(text)
    spec = ValueSpec(text, _parse_source(body, text), dtype)
    match spec.source:
        case Numbers():
            _check_numbers(spec.source.flat, dtype, text)
        case Creation():
            _refuse_large(spec, dtype or _natural_dtype(spec.source, None))
        case File():
            pass
    return spec


def parse_assignments(texts: Sequence[str]) -> dict[str, ValueSpec]:
    """Reads `NAME=VALUE` texts; a name may be given once."""
    found: dict[str, ValueSpec] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name.isidentifier():
            raise InputError("malformed_assignment", text=shown(text))
        if name in found:
            raise InputError("duplicate_assignment", name=name, first=shown(found[name].text), second=shown(value))
        found[name] = parse_value(value)
    return found


def _split_suffix(text: str) -> tuple[str, str | None]:
    """Splits `1,2:float64` into the value and its dtype; a colon inside a path such as `@C:/x.npy` is no suffix."""
    body, colon, suffix = text.rpartition(":")
    if not colon or (text.lstrip().startswith("@") and not suffix.strip().isidentifier()):
        return text.strip(), None
    suffix = ALIASES.get(suffix.strip(), suffix.strip())
    if suffix not in ITEMSIZE:
        close = difflib.get_close_matches(suffix, ITEMSIZE, n=1, cutoff=0)[0]
        raise InputError(
            "unknown_dtype", text=shown(text), dtype=shown(suffix), close=close, dtypes=", ".join(ITEMSIZE)
        )
    return body.strip(), suffix


def _parse_source(body: str, text: str) -> Numbers | Creation | File:
    if body.startswith("@"):
        return _parse_file(body[1:].strip(), text)
    if call := re.fullmatch(r"([A-Za-z_]\w*)\s*\((.*)\)", body, re.DOTALL):
        return _parse_creation(call[1], call[2], text)
    if not body:
        raise InputError("empty_value", text=shown(text))
    items, comma = _parse_items(body, text)
    return _numbers(items if comma or len(items) != 1 else items[0], text)


def _parse_file(name: str, text: str) -> File:
    path = Path(name)
    if path.suffix not in (".npy", ".pt"):
        raise InputError("unknown_file_kind", text=shown(text), file=shown(name))
    return File(path)


TOKEN = re.compile(r"\s*([\[\](),]|[^\s\[\](),]+)")
CLOSING = {"[": "]", "(": ")"}
WORDS: Mapping[str, Number] = MappingProxyType({"true": True, "false": False})


def _parse_items(body: str, text: str) -> tuple[list[Nested], bool]:
    """Returns the items between top-level commas, and whether there was such a comma."""
    open_lists: list[list[Nested]] = [[]]
    brackets: list[str] = []
    item_may_follow, comma = True, False
    for token in TOKEN.findall(body):
        if token in CLOSING.values():
            if not brackets or CLOSING[brackets.pop()] != token:
                raise InputError("unbalanced_value", text=shown(text), bracket=token)
            open_lists.pop()
            item_may_follow = False
        elif token == ",":
            if item_may_follow:
                raise InputError("missing_number", text=shown(text))
            item_may_follow, comma = True, comma or not brackets
        elif not item_may_follow:
            raise InputError("missing_comma", text=shown(text), token=shown(token))
        elif token in CLOSING:
            inner: list[Nested] = []
            open_lists[-1].append(inner)
            open_lists.append(inner)
            brackets.append(token)
            if len(brackets) > 32:
                raise InputError("value_too_deep", text=shown(text), limit=32)
        else:
            open_lists[-1].append(_parse_number(token, text))
            item_may_follow = False
    if brackets:
        raise InputError("unbalanced_value", text=shown(text), bracket=brackets[-1])
    return open_lists[0], comma


def _parse_number(token: str, text: str) -> Number:
    if token.lower() in WORDS:
        return WORDS[token.lower()]
    for read in (int, float, complex):
        try:
            number: Number = read(token)
        except ValueError:
            continue
        if _finite(number) or re.search("inf|nan", token.lower()):
            return number
        raise InputError("number_out_of_range", text=shown(text), number=shown(token))
    word = token == text.strip() and token.strip("\"'").isidentifier()
    raise InputError("word_as_number" if word else "not_a_number", text=shown(text), token=shown(token))


def _finite(number: Number) -> bool:
    try:
        return math.isfinite(complex(number).real) and math.isfinite(complex(number).imag)
    except OverflowError:  # an int beyond float64
        return False


def _numbers(nested: Nested, text: str) -> Numbers:
    """Returns `nested` flat with its shape, level by level; every row of a level must be alike."""
    level: list[Nested] = [nested]
    shape: list[int] = []
    while level and any(isinstance(item, list) for item in level):
        rows = [_row(item, number, text) for number, item in enumerate(level, 1)]
        for number, row in enumerate(rows, 1):
            if len(row) != len(rows[0]):
                raise InputError("ragged_value", text=shown(text), row=number, length=len(row), first=len(rows[0]))
        shape.append(len(rows[0]))
        level = [item for row in rows for item in row]
    return Numbers(tuple(item for item in level if not isinstance(item, list)), tuple(shape))


def _row(item: Nested, number: int, text: str) -> list[Nested]:
    if not isinstance(item, list):
        raise InputError("number_among_rows", text=shown(text), row=number, item=item)
    return item


def _check_numbers(flat: Sequence[Number], dtype: str | None, text: str) -> None:
    """Refuses numbers that `dtype` would change silently, and true/false among other numbers."""
    if len({isinstance(number, bool) for number in flat}) > 1:
        raise InputError("mixed_booleans", text=shown(text))
    for number in flat:
        if isinstance(number, complex) and dtype is not None and not dtype.startswith("complex"):
            raise InputError("complex_does_not_fit", text=shown(text), number=number, dtype=dtype)
        if dtype is not None and dtype in INTEGERS and not _fits(number, *INTEGERS[dtype]):
            low, high = INTEGERS[dtype]
            raise InputError("does_not_fit", text=shown(text), number=number, dtype=dtype, low=low, high=high)


def _fits(number: Number, low: int, high: int) -> bool:
    return not isinstance(number, complex) and _finite(number) and number == int(number) and low <= number <= high


# ---- creation calls ------------------------------------------------------------------------------------------------


def _parse_creation(name: str, inside: str, text: str) -> Creation:
    if name not in CREATIONS:
        close = difflib.get_close_matches(name, CREATIONS, n=1, cutoff=0)[0]
        names = ", ".join(CREATIONS)
        raise InputError("unknown_creation", text=shown(text), name=shown(name), close=close, names=names)
    if re.search("[*/%]", inside):
        raise InputError("only_literals", text=shown(text), name=name)
    usage, read = CREATIONS[name]
    try:
        arguments, shape = read(_parse_items(inside, text)[0])
    except (ValueError, TypeError, ZeroDivisionError, OverflowError) as error:
        raise InputError("creation_arguments", text=shown(text), name=name, usage=usage) from error
    return Creation(name, arguments, shape)


Read: TypeAlias = tuple[tuple[object, ...], tuple[int, ...]]


def _fail() -> NoReturn:
    raise ValueError


def _count(item: Nested) -> int:
    return item if isinstance(item, int) and not isinstance(item, bool) and item >= 0 else _fail()


def _finite_real(item: Nested) -> float:
    return item if isinstance(item, int | float) and not isinstance(item, bool) and _finite(item) else _fail()


def _shape(item: Nested) -> tuple[int, ...]:
    return tuple(map(_count, item)) if isinstance(item, list) else (_count(item),)


def _read_shape(items: list[Nested]) -> Read:
    """Reads `(3,2)` and `((3,2))` alike, as torch does."""
    shape = _shape(items[0] if len(items) == 1 else items)
    return (shape,), shape


def _read_full(items: list[Nested]) -> Read:
    size, fill = items
    return (_shape(size), fill if not isinstance(fill, list) else _fail()), _shape(size)


def _read_eye(items: list[Nested]) -> Read:
    rows, columns = map(_count, items if len(items) == 2 else items * 2)
    return (rows, columns), (rows, columns)


def _read_arange(items: list[Nested]) -> Read:
    start, end, step = map(_finite_real, [0, *items, 1] if len(items) == 1 else [*items, 1][:3])
    length = math.ceil((end - start) / step)
    return (start, end, step), (length if length >= 0 and len(items) <= 3 else _fail(),)


def _read_linspace(items: list[Nested]) -> Read:
    start, end, steps = items
    return (_finite_real(start), _finite_real(end), _count(steps)), (_count(steps),)


def _read_randint(items: list[Nested]) -> Read:
    low, high, size = items if len(items) == 3 else [0, *items]
    if not (isinstance(low, int) and isinstance(high, int) and -(2**63) <= low < high < 2**63):
        raise ValueError
    return (low, high, _shape(size)), _shape(size)


# fmt: off
CREATIONS: Mapping[str, tuple[str, Callable[[list[Nested]], Read]]] = MappingProxyType({
    "zeros":    ("zeros(3,2)",            _read_shape),
    "ones":     ("ones(3,2)",             _read_shape),
    "rand":     ("rand(3,2)",             _read_shape),
    "randn":    ("randn(3,2)",            _read_shape),
    "full":     ("full((3,2),0.5)",       _read_full),
    "eye":      ("eye(3)",                _read_eye),
    "arange":   ("arange(1,6)",           _read_arange),
    "linspace": ("linspace(-2,2,9)",      _read_linspace),
    "randint":  ("randint(0,10,(4,))",    _read_randint),
})
# fmt: on
RANDOM = ("rand", "randn", "randint")


# ---- making tensors ------------------------------------------------------------------------------------------------


def tensor_of(
    spec: ValueSpec, *, name: str, dtype: str | None = None, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Returns the tensor for input `name`. `dtype` is the type of floating values without suffix (None: float32).

    A file keeps its own type unless a suffix or `dtype` says otherwise, and `dtype` changes floating files only.
    """
    import torch

    match spec.source:
        case Numbers(flat, shape):
            kind = spec.dtype or _natural_dtype(spec.source, dtype)
            return _exact(torch.tensor(flat, dtype=_wide(kind)).reshape(shape), kind, name, spec)
        case Creation(function, arguments):
            kind = spec.dtype or _natural_dtype(spec.source, dtype)
            _refuse_large(spec, kind)
            return _create(function, arguments, kind, generator, name, spec)
        case File(path):
            stored = _stored(path, name)
            return _convert(stored, spec.dtype or (dtype if stored.is_floating_point() else None), name, spec)
        case _:
            assert_never(spec.source)


def _natural_dtype(source: Numbers | Creation, dtype: str | None) -> str:
    """Returns the type of a value without suffix, where `dtype` is the type of floating values."""
    floating = dtype or "float32"
    if isinstance(source, Creation):
        numbers: Sequence[object] = source.arguments[1:] if source.function == "full" else ()
        floating = "int64" if source.function == "randint" else floating
    else:
        numbers = source.flat
    if any(isinstance(number, complex) for number in numbers):
        return COMPLEX.get(floating, "complex64")
    return "bool" if numbers and all(isinstance(number, bool) for number in numbers) else floating


def _wide(dtype: str) -> torch.dtype:
    """Returns the type that holds every number that can be written for `dtype`, so that overflow can be seen."""
    import torch

    if dtype.startswith("complex"):
        return torch.complex128
    return torch.int64 if dtype in INTEGERS else torch.float64


def _exact(wide: torch.Tensor, dtype: str, name: str, spec: ValueSpec) -> torch.Tensor:
    """Returns `wide` as `dtype`; refuses a finite number that would become infinite."""
    narrow = _convert(wide, dtype, name, spec)
    if bool((wide.isfinite() & ~narrow.isfinite()).any()):
        raise InputError("overflows_dtype", name=name, text=shown(spec.text), dtype=dtype)
    return narrow


def _create(
    function: str,
    arguments: tuple[object, ...],
    dtype: str,
    generator: torch.Generator | None,
    name: str,
    spec: ValueSpec,
) -> torch.Tensor:
    import torch

    options = {"generator": generator} if function in RANDOM else {}
    if function in ("rand", "randn") and dtype in INTEGERS:
        raise InputError("random_integers", name=name, text=shown(spec.text), dtype=dtype)
    try:
        made = getattr(torch, function)(*arguments, dtype=getattr(torch, dtype), **options)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = first_line(error)
        raise InputError("cannot_create", name=name, text=shown(spec.text), dtype=dtype, reason=reason) from error
    assert isinstance(made, torch.Tensor)
    return made


def _convert(tensor: torch.Tensor, dtype: str | None, name: str, spec: ValueSpec) -> torch.Tensor:
    import torch

    if dtype is None:
        return tensor
    if tensor.is_complex() and not dtype.startswith("complex"):
        raise InputError("complex_file", name=name, text=shown(spec.text), stored=_dtype_name(tensor), dtype=dtype)
    _refuse_bytes(tensor.numel() * ITEMSIZE[dtype], spec.text)
    return tensor.to(getattr(torch, dtype))


def _dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _stored(path: Path, name: str) -> torch.Tensor:
    """Returns the tensor in the file; nothing in the file is executed."""
    if not path.is_file():
        raise InputError("value_file_missing", name=name, file=shown(str(path)), folder=Path.cwd())
    try:
        return _stored_numpy(path, name) if path.suffix == ".npy" else _stored_torch(path, name)
    except InputError:
        raise
    except Exception as error:  # the readers of damaged files raise many types
        reason = first_line(error)
        raise InputError("value_file_broken", name=name, file=shown(str(path)), reason=reason) from error


def _stored_numpy(path: Path, name: str) -> torch.Tensor:
    import numpy as np
    import torch

    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        if dtype.kind not in "biufc":
            raise InputError("value_file_content", name=name, file=shown(str(path)), content=f"numpy {dtype}")
        _refuse_bytes(math.prod(shape) * dtype.itemsize, str(path))
        file.seek(0)
        array = np.load(file, allow_pickle=False)
    return torch.from_numpy(np.ascontiguousarray(array, dtype.newbyteorder("=")).reshape(shape))


def _stored_torch(path: Path, name: str) -> torch.Tensor:
    import torch

    _refuse_bytes(path.stat().st_size, str(path))
    with path.open("rb") as file:
        stored = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(stored, torch.Tensor):
        raise InputError("value_file_content", name=name, file=shown(str(path)), content=type(stored).__name__)
    _refuse_bytes(stored.numel() * stored.itemsize, str(path))
    return stored.detach()


# ---- what errors show ----------------------------------------------------------------------------------------------


def size_text(size: int) -> str:
    """Returns bytes as people read them: `37.3 GiB`, and a power of ten where the number would be silly."""
    return f"{size / 2**30:.1f} GiB" if size < 2**50 else f"10^{len(str(size)) - 1} B"


def _refuse_large(spec: ValueSpec, dtype: str) -> None:
    assert isinstance(spec.source, Creation)
    _refuse_bytes(math.prod(spec.source.shape) * ITEMSIZE[dtype], spec.text)


def _refuse_bytes(size: int, text: str) -> None:
    if size > LIMIT:
        raise InputError("value_too_large", text=shown(text), size=size_text(size), limit=size_text(LIMIT))


def first_line(error: BaseException) -> str:
    return shown(next(iter(str(error).splitlines()), "") or type(error).__name__, 200)


def shown(text: str, width: int = 60) -> str:
    """Returns `text` short and printable, so that no message can carry terminal codes."""
    clean = "".join(char if char.isprintable() else "·" for char in text)
    return clean if len(clean) <= width else clean[: width - 1] + "…"
