"""What a second run is asked about a step of the first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gradexplain.training.remedies import Change


@dataclass(frozen=True)
class Request:
    """What to look into, and what the first run was like up to there.

    The `kind` is what was not finite, a "loss" or a "gradient"; or "changed", a tensor that was saved for the backward
    pass; or "way", how a loss does not reach parameters: those of an optimizer (which: by the order in which they were
    made), or all of them; or "try", how the run goes with the `change`. The backward pass is counted from 0, or for a
    gradient, how many had begun.
    """

    kind: str
    backward: int
    after: int  # how many times an optimizer had stepped when the recording begins
    trace: Sequence[float]
    seconds: float  # that the first run took to there
    optimizer: int | None = None
    places: tuple[int, ...] = ()
    change: Change | None = None
    numpy_state: Any = None


# So many backward passes before a step are seen, to tell the way of parameters that none of them reaches.
PASSES = 8
Ask = Callable[[Request], Any]
# The answer where a second run cannot be kept from acting, and nobody said that it may.
UNGUARDED = "unguarded"
# The answer where a second run did not come as far, and where it did and what is computed there does not tell.
STOPPED, UNTOLD = "stopped", "untold"
