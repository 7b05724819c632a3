"""Which steps of two runs are one step, and what is left over on either side.

Steps are known by their positions; whether two are alike is said by who knows their numbers, whole or in a few sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

Step = TypeVar("Step")
Alike = Callable[[Step, Step], bool]


def paired(
    one: Sequence[Step], other: Sequence[Step], is_like: Alike[Step], nearness: Iterable[Alike[Step]]
) -> tuple[dict[int, int], dict[int, int]]:
    """Returns the likes of the steps of `one` in `other`, and of those of `other` in `one`.

    Each step is paired with one that is like it and taken by no other, of the nearest kind first. What is left, and
    gives what another step gave already, has that one for its like; two steps are a pair if each is the other's.
    """
    ours: dict[int, int] = {}
    theirs: dict[int, int] = {}
    free = dict(enumerate(one))
    for is_near in nearness:
        for j, b in enumerate(other):
            if j not in theirs:
                pair = next((i for i, a in free.items() if is_near(a, b) and is_like(a, b)), None)
                if pair is not None:
                    ours[pair], theirs[j] = j, pair
                    del free[pair]
    for j, b in enumerate(other):
        if j not in theirs and (same := next((i for i, a in enumerate(one) if is_like(a, b)), None)) is not None:
            theirs[j] = same
    for i, a in enumerate(one):
        if i not in ours and (same := next((j for j, b in enumerate(other) if is_like(a, b)), None)) is not None:
            ours[i] = same
    return ours, theirs


def leading(output: int, producers: Callable[[int], Iterable[int]], is_met: Callable[[int], bool]) -> list[int]:
    """Returns the steps that are not met on the other side and lead to the output by such alone, in their order."""
    waiting, seen = [output], set[int]()
    while waiting:
        step = waiting.pop()
        if step not in seen and not is_met(step):
            seen.add(step)
            waiting += producers(step)
    return sorted(seen)


def unmatched(mine: Iterable[Step], others: Iterable[Step], is_like: Alike[Step]) -> tuple[list[Step], list[Step]]:
    """Returns what is left on both sides when each that has its like is taken away with it."""
    left, rest = [], list(others)
    for a in mine:
        found = next((k for k, b in enumerate(rest) if is_like(a, b)), None)
        if found is None:
            left.append(a)
        else:
            del rest[found]
    return left, rest
