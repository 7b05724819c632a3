"""How much is computed: operators that torch ran, the same on every machine; and seconds, which are not."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func._schema.name.removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))


def operators(run: Callable[[], object]) -> Counter[str]:
    """Returns how often each ATen operator ran while `run` ran, but for `detach`, which computes nothing."""
    counting = _Counting()
    with counting:
        run()
    del counting.counts["detach"]
    return counting.counts


def fastest(run: Callable[[], object], repeats: int) -> float:
    """Returns the least time of some runs, in seconds: what else the machine does only adds to it."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)
