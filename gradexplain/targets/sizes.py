"""How large a result may become, said before it is made."""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from gradexplain.targets.values import LIMIT
from gradexplain.targets.vocabulary import FAMILIES, IN_PLACE, ONLY_METHODS, Operation, words

MAX_PIECES = 100_000  # tensors that one call may return
OPERATOR = "operator"  # in the place of a function's name

# fmt: off
# What makes no more items than its tensors' sizes multiply to, whatever numbers it is given.
STEADY_FAMILIES = ("elementwise", "reductions", "linear algebra", "shape", "indexing", "activations", "losses")
EXPANDING = words("""
    cov corrcoef tile repeat_interleave broadcast_to diag diag_embed diagflat block_diag expand expand_as repeat unfold
    new_zeros new_ones new_full qr svd""")
STEADY_LAYERS = words("linear bilinear dropout layer_norm batch_norm group_norm rms_norm")
# fmt: on
STEADY = {name for family in STEADY_FAMILIES for name in FAMILIES[family][1].split()} | ONLY_METHODS | STEADY_LAYERS
STEADY |= IN_PLACE | {OPERATOR, ""}  # "" is indexing and attributes
STEADY -= EXPANDING
# What gives at most the shape that its tensors broadcast to; matrix products do where their shapes broadcast at all.
BROADCASTING = {name for family in ("elementwise", "losses") for name in FAMILIES[family][1].split()} | IN_PLACE
BROADCASTING |= {OPERATOR, "matmul", "mm", "mv", "bmm"}


def bytes_made(name: str, function: Operation, values: Sequence[Any], options: Mapping[str, Any]) -> int:
    """Returns the bytes of the largest tensor that a call makes, 0 where it is small or torch will refuse the call."""
    if name in SIZED_BY_VALUE:
        return _bytes_by_value(name, values, options)
    return _result_bytes(function, values, options) if _may_be_large(name, values, options) else 0


def _may_be_large(name: str, values: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """Says whether a result could pass the limit, so that the usual small call waits for no further check.

    What is not `STEADY` makes at most n**3 items out of arguments whose sizes and numbers multiply to n: `interpolate`
    in three dimensions does.
    """
    import torch

    shapes = [leaf.shape for leaf in leaves([*values, options]) if isinstance(leaf, torch.Tensor)]
    if name in BROADCASTING and (items := _broadcast_items(shapes)) is not None:
        return items > LIMIT / 16
    steady = name in STEADY
    growth = sum(math.log(_extent(leaf, with_numbers=not steady)) for leaf in leaves([*values, options]))
    return (1 if steady else 3) * growth > math.log(LIMIT / 16)


def _broadcast_items(shapes: Sequence[Sequence[int]]) -> int | None:
    """Returns how many items tensors of `shapes` broadcast to, None where they do not."""
    sizes = [set(axis) - {1} for axis in zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1)]
    return math.prod(size for axis in sizes for size in axis) if all(len(axis) < 2 for axis in sizes) else None


def _extent(leaf: object, with_numbers: bool) -> float:
    """Returns how much an argument can enlarge a result: a tensor by its items, a number by itself or its inverse."""
    import torch

    if isinstance(leaf, torch.Tensor):
        return max(1, leaf.numel())
    if with_numbers and isinstance(leaf, int | float) and leaf != 0 and math.isfinite(leaf):
        return max(abs(leaf), 1 / abs(leaf))
    return 1


def pieces(name: str, values: Sequence[Any], options: Mapping[str, Any]) -> int:
    """Returns a bound for how many tensors a function that takes a tensor apart returns."""
    import torch

    given = list(leaves([*values, options]))
    if name in ("unbind", "split"):
        return max((size for leaf in given if isinstance(leaf, torch.Tensor) for size in leaf.shape), default=0)
    numbers = (leaf for leaf in given if isinstance(leaf, int))
    return max(numbers, default=0) if name in ("chunk", "tensor_split") else 0


def _result_bytes(function: Operation, values: Sequence[Any], options: Mapping[str, Any]) -> int:
    """Returns the bytes of the largest tensor made, found by running on the meta device, which allocates nothing.

    0 where only values tell (boolean masks, which never enlarge) and where torch will refuse the call itself.
    """
    import torch

    from gradexplain.versions.internals import internals

    sizes = [0]

    def run(operation: Operation, values: Sequence[Any], options: Mapping[str, Any]) -> Any:
        """Notes what is allocated on the way, as by `einsum`; views share their storage and cost nothing."""
        made = operation(*values, **options)
        sizes.extend(leaf.untyped_storage().nbytes() for leaf in leaves(made) if isinstance(leaf, torch.Tensor))
        return made

    watched = internals().dispatch_mode(run)
    with internals().without_modes(), torch.no_grad(), torch.device("meta"), warnings.catch_warnings(), watched:
        warnings.simplefilter("ignore")
        try:
            made = function(*_on_meta(values), **_on_meta(options))
        except Exception:  # the call itself will say it better
            made = ()
    sizes += [leaf.numel() * leaf.itemsize for leaf in leaves(made) if isinstance(leaf, torch.Tensor)]
    return max(sizes)


SIZED_BY_VALUE = ("one_hot", "repeat_interleave")


def _bytes_by_value(name: str, values: Sequence[Any], options: Mapping[str, Any]) -> int:
    """Bounds the two functions whose result is as large as the values of their arguments say."""
    import torch

    given = list(leaves([*values, options]))
    numbers = [leaf for leaf in given if isinstance(leaf, int)]
    largest = [int(leaf.max()) + 1 for leaf in given if isinstance(leaf, torch.Tensor) and leaf.numel()]
    tensors = [leaf.numel() * leaf.itemsize for leaf in given if isinstance(leaf, torch.Tensor)]
    if name == "one_hot":
        return max(tensors, default=0) * max(numbers + largest[:1])
    return max(tensors, default=0) * max(numbers + largest[1:], default=1)


def _on_meta(value: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    if isinstance(value, Mapping):
        return {name: _on_meta(item) for name, item in value.items()}
    return type(value)(map(_on_meta, value)) if type(value) in (list, tuple) else value


def called(node: ast.expr) -> str:
    """Returns the last name of the function that `node` calls, `OPERATOR`, or nothing for indexing and attributes."""
    match node:
        case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Attribute(attr=name)):
            return name
        case ast.BinOp() | ast.UnaryOp() | ast.Compare():
            return OPERATOR
    return ""


def leaves(value: object) -> Iterator[object]:
    """Yields what nested lists hold; their depth is bounded by the text."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, Mapping):
        yield from leaves(list(value.values()))
    else:
        yield value
