"""Random numbers of two sides: what each of them draws, and how the same draw gets the same numbers in both.

From one random state, two functions have the same numbers only if they draw in the same order. Where they do not, every
draw gets numbers of its own, which follow from what is drawn, how many numbers, and which of such draws it is.
"""

from __future__ import annotations

import zlib
from collections import Counter
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gradexplain.recording.events import tensors_in
from gradexplain.versions.internals import internals, schema_of

# An operator that draws, and how many numbers.
Draw = tuple[str, int]


def noting(draws: list[Draw]) -> Any:
    """Returns a mode under which everything that is drawn is added to `draws`."""
    return internals().dispatch_mode(partial(_noted, draws))


def aligning() -> Any:
    """Returns a mode under which the same draw has the same numbers, in whatever order draws are made."""
    return internals().dispatch_mode(partial(_aligned, Counter(), {}))


def _noted(draws: list[Draw], operator: Any, args: Any, kwargs: Any) -> Any:
    if not _may_draw(operator):
        return operator(*args, **kwargs)
    before = torch.get_rng_state()
    made = operator(*args, **kwargs)
    if not torch.equal(before, torch.get_rng_state()):
        draws.append(_draw(operator, made))
    return made


def _aligned(counts: Counter[Draw], known: dict[bytes, int], operator: Any, args: Any, kwargs: Any) -> Any:
    if not _may_draw(operator):
        return operator(*args, **kwargs)
    before = torch.get_rng_state()
    copies = [t.clone() for t in tensors_in([args]) if schema_of(operator).is_mutable]
    made = operator(*args, **kwargs)
    after = torch.get_rng_state()
    if torch.equal(before, after):
        return made
    draw = _draw(operator, made)
    # A checkpoint that draws again starts from the state that it had, and has to get what it got.
    state = before.numpy().tobytes() + repr(draw).encode()
    if state not in known:
        counts[draw] += 1
        known[state] = zlib.crc32(repr((draw, counts[draw])).encode())
    for kept, given in zip(copies, tensors_in([args]), strict=False):
        given.copy_(kept)
    torch.manual_seed(known[state])
    try:
        return operator(*args, **kwargs)
    finally:
        torch.set_rng_state(after)


def _may_draw(operator: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in operator.tags


def _draw(operator: Any, made: Any) -> Draw:
    first = next(iter(tensors_in([made])), None)
    name = schema_of(operator).name.removeprefix("aten::").rstrip("_")
    return name, first.numel() if isinstance(first, Tensor) else 0
