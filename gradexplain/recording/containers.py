"""Inputs that hold tensors inside: lists, tuples, mappings and sparse tensors, as plain tensors by name.

The parts of `pair` are `pair[0]` and `pair[1]`, those of a mapping `batch['images']`. Of a sparse tensor, its values
are the input; the indices stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gradexplain.errors import InputError
from gradexplain.recording.frames import place_text, user_source

Rebuild = Callable[[Mapping[str, Any]], Any]


def taken_apart(given: Mapping[str, Any]) -> tuple[dict[str, Any], Rebuild]:
    """Returns the parts of the inputs by name, and what puts the inputs together again from parts of these names."""
    parts: dict[str, Any] = {}
    builders = {name: _part(name, value, parts) for name, value in given.items()}
    return parts, lambda values: {name: build(values) for name, build in builders.items()}


def refuse_nested(tensor: Tensor) -> None:
    """Raises `InputError` for a nested tensor."""
    if tensor.is_nested:
        raise nested(str(tensor.layout).removeprefix("torch."))


def nested(layout: str) -> InputError:
    """Returns the refusal of a nested tensor: its rows have lengths of their own, and no shape that could be shown."""
    return InputError("nested", layout=layout, place=place_text(user_source(), "inputs"))


def _part(name: str, value: Any, parts: dict[str, Any]) -> Rebuild:
    """Enters the parts of one value and returns what builds it anew."""
    if isinstance(value, Tensor):
        refuse_nested(value)
    if isinstance(value, Tensor) and value.layout != torch.strided:
        return _sparse(name, value, parts)
    if isinstance(value, (list, tuple)) and _holds_tensors(value):
        items = [_part(f"{name}[{i}]", item, parts) for i, item in enumerate(value)]
        return lambda values: _like(value, [build(values) for build in items])
    if isinstance(value, Mapping) and _holds_tensors(value):
        entries = {key: _part(f"{name}[{key!r}]", item, parts) for key, item in value.items()}
        return lambda values: {key: build(values) for key, build in entries.items()}
    parts[name] = value
    return lambda values: values[name]


def _like(original: list[Any] | tuple[Any, ...], items: list[Any]) -> Any:
    """Returns a list, a tuple or a named tuple of the items."""
    return type(original)(*items) if hasattr(original, "_fields") else type(original)(items)


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, Tensor):
        return True
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return any(_holds_tensors(item) for item in items)


def _sparse(name: str, value: Tensor, parts: dict[str, Any]) -> Rebuild:
    if value.layout == torch.sparse_coo:
        whole = value.detach().coalesce()
        parts[name] = whole.values().requires_grad_(value.requires_grad)
        indices, size = whole.indices(), value.shape
        return lambda values: torch.sparse_coo_tensor(
            indices, values[name], size, is_coalesced=True, check_invariants=False
        )
    rows = value.layout in (torch.sparse_csr, torch.sparse_bsr)
    plain = (value.crow_indices(), value.col_indices()) if rows else (value.ccol_indices(), value.row_indices())
    parts[name] = value.detach().values().clone().requires_grad_(value.requires_grad)
    layout, size = value.layout, value.shape
    return lambda values: torch.sparse_compressed_tensor(
        *plain, values[name], size, layout=layout, check_invariants=False
    )
