"""The elements of a tensor by their index: a tuple of one number a dimension."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Index = tuple[int, ...]


def indices(shape: Sequence[int]) -> list[Index]:
    """Returns the index of every element of a tensor of `shape`."""
    return [tuple(int(i) for i in index) for index in np.ndindex(*shape)]


def unravelled(position: int, shape: Sequence[int]) -> Index:
    """Returns the index of the element at `position` in row-major order."""
    return next(iter(all_unravelled([position], shape)))


def all_unravelled(positions: Sequence[int], shape: Sequence[int]) -> list[Index]:
    """Returns the indices of the elements at `positions` in row-major order."""
    if not len(shape):
        return [() for _ in positions]
    axes = np.unravel_index(np.asarray(positions, dtype=np.intp), tuple(shape))
    return list(zip(*(axis.tolist() for axis in axes), strict=True))


def broadcast_source(index: Index, shape: Sequence[int]) -> Index:
    """Returns which element of a tensor of `shape` stands at `index` of the output it is broadcast to."""
    tail = index[len(index) - len(shape) :]
    return tuple(0 if size == 1 else i for i, size in zip(tail, shape, strict=True))


def indexed(name: str, place: Sequence[int]) -> str:
    """Returns an element as it is written: `x[0, 1]`, and `x` where that is one number."""
    return f"{name}[{', '.join(map(str, place))}]" if place else name
