"""How much is computed: the operators that torch ran, counted. Unlike seconds, they are the same on every machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found[func._schema.name.removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))


def operators(run: Callable[[], object]) -> Counter[str]:
    """Returns how often each ATen operator ran while `run` ran, but for `detach`, which computes nothing."""
    counting = _Counting()
    with counting:
        run()
    del counting.found["detach"]
    return counting.found
