"""The user's own names of tensors: variables that a frame sees, parameters by their paths in modules, and outputs."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any, NamedTuple

from torch import Tensor, nn


class Leaf(NamedTuple):
    """The user's name of a leaf tensor, whether it is a parameter, and the hooks on the tensor that it stands for."""

    name: str
    parameter: bool = False
    hooks: int = 0


def visible(frame: FrameType | None) -> dict[str, Any]:
    """Returns what a frame's code sees by name: its variables, then the globals."""
    if frame is None:
        return {}
    found = {**frame.f_globals, **frame.f_locals}
    if sys.version_info < (3, 13) and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        frame.f_locals.clear()  # the frame's copy of its variables, which would keep their values alive
    return found


def named_in(scope: Mapping[str, Any], tensor: object) -> str | None:
    """Returns the name of the variable that is `tensor`, `None` where there is none."""
    return next((name for name, value in scope.items() if value is tensor and not name.startswith("_")), None)


def leaf_names(scope: Mapping[str, Any]) -> dict[int, Leaf]:
    """Returns the names of the tensors in `scope`, by identity: its own names first, then items and parameters."""
    found: dict[int, Leaf] = {}
    shown = {name: value for name, value in scope.items() if not name.startswith("_")}
    modules = {name: value for name, value in shown.items() if isinstance(value, nn.Module)}
    for name, tensor in tensors_in(shown):
        found.setdefault(id(tensor), Leaf(name, isinstance(tensor, nn.Parameter)))
    for owner, module in modules.items():
        prefix = "" if owner == "self" or len({id(m) for m in modules.values()}) == 1 else f"{owner}."
        for path, parameter in nn.Module.named_parameters(module):
            known = found.get(id(parameter))
            if known is None or known.parameter:
                found[id(parameter)] = Leaf(f"{prefix}{path}", True)
    return found


def tensors_in(scope: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors of `scope`, and those one level down in its lists, tuples and dicts."""
    yield from ((name, value) for name, value in scope.items() if isinstance(value, Tensor))
    for name, value in scope.items():
        if type(value) in (list, tuple):
            yield from ((f"{name}[{i}]", item) for i, item in enumerate(value) if isinstance(item, Tensor))
        elif type(value) is dict:
            yield from ((f"{name}[{key!r}]", item) for key, item in value.items() if isinstance(item, Tensor))
