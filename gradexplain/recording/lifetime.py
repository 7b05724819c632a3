"""Letting go of deep graphs without a crash.

Since torch 2.13 a backward node that Python has looked at keeps its Python object for life, and torch takes such nodes
apart by recursion: a walked chain of some 40,000 nodes overflows the C stack when it is dropped, whoever walked it. So
of a large graph every two-thousandth node is an anchor. As long as it lives, the nodes behind it are held here; they
live as long anyway, as they hang on it. When it dies they do not go with it, but one by one at the next collection.
"""

from __future__ import annotations

import gc
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

# Graphs up to this size are taken apart safely by torch itself.
SAFE = 4000
_APART = 2000

# Where an anchor keeps its sign of life: torch's nodes take no weak references, but have room for metadata.
_KEY = "gradexplain"


class _Sign:
    """Dies with the node in whose metadata it is."""


_held: dict[weakref.ref[Any], deque[Any]] = {}
_dead: deque[weakref.ref[Any]] = deque()


def anchor(nodes: Sequence[Any]) -> None:
    """Holds the nodes of a large graph, given with every node before those that it hangs on to."""
    let_go()
    if len(nodes) <= SAFE:
        return
    if _collected not in gc.callbacks:
        gc.callbacks.append(_collected)
    for start in range(0, len(nodes), _APART):
        sign = nodes[start].metadata[_KEY] = _Sign()
        _held[weakref.ref(sign, _dead.append)] = deque(nodes[start + 1 : start + _APART])


def let_go() -> None:
    """Releases the nodes behind dead anchors, those first on which others hang no more."""
    while _dead:
        nodes = _held.pop(_dead.popleft(), deque())
        while nodes:
            nodes.popleft()
    if not _held and _collected in gc.callbacks:
        gc.callbacks.remove(_collected)


def _collected(phase: str, info: object) -> None:
    if phase == "stop":
        let_go()
