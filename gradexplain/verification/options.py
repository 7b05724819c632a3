"""What may be asked of a verification besides its usual oracles, spelled once."""

from __future__ import annotations

from dataclasses import dataclass

from gradexplain.verification.oracles.question import EFFORT


@dataclass(frozen=True)
class Options:
    """What else to ask: `effort` is the time in seconds that a check may take in running the function again.

    `each_operation` checks every node of the graph alone, `full` compares every element of the Jacobian, `second`
    verifies the second derivatives, `batched` compares gradients computed at once (`vmap`), `exact` asks sympy. `stops`
    are the places (`net.py:7`) where part of a slope is meant to end, or `intended` for all; with `allow_unseen`,
    elements that are too small to be seen are no doubt.
    """

    effort: float = EFFORT
    each_operation: bool = False
    full: bool = False
    second: bool = False
    batched: bool = False
    exact: bool = False
    stops: tuple[str, ...] = ()
    allow_unseen: bool = False
