"""What was stopped: how much of a slope goes through what torch holds constant, and at which line.

F is the function that was written, G the one that torch differentiates. F − G is what the gradient leaves out. Each
operator that was given something live and is not differentiated is a stop. Its share is measured by running the user's
code once more *at the same point*, with the result of that stop alone shifted by what it would have been a little
further on: everything before it is as it was, so that nothing has to be aligned, and everything after it follows. Each
path is charged to its first stop, and the shares add up to F − G. What is left belongs to a path that nobody saw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from gradexplain.errors import GradexplainError
from gradexplain.mathematics.indices import Index, unravelled
from gradexplain.recording.computation import chosen_output
from gradexplain.recording.events import Event, source_of, tensors_in
from gradexplain.recording.frozen import Frozen
from gradexplain.targets.sources import Source
from gradexplain.verification.oracles.answers import Flat, Stop
from gradexplain.verification.oracles.measures import dense, pair, scales, weighed
from gradexplain.verification.oracles.question import Question
from gradexplain.verification.oracles.replays import Replay, generic_direction
from gradexplain.versions.internals import internals, schema_of

# Steps of the central differences, each half of the one before and all clear of most kinks, and the powers of their
# truncation. What is quantised, as by a copy in float32, is so in F and in what a line stops alike.
STEPS, POWERS = [2.0**-e for e in (11, 12, 13, 14)], (4, 16, 64)
# Up to this many elements are moved one by one; of more, so many random directions tell the size of what is stopped.
MOST_EACH, DIRECTIONS = 4, 3
# A share of less than this is none: about what extrapolation leaves of the truncation of these steps.
SMALLEST_SHARE = 1e-9
# What the lines together may leave unexplained.
SMALLEST_REST = 1e-4
# Beside the other, a slope of less than this is 0.
FLAT = 1e-9
# More lines than this are not told apart.
MOST_LINES = 12

# A line, its code, and the numbers of the steps that it made.
Line = tuple[tuple[Source | None, str], list[int]]


def stops_of(question: Question, name: str, places: Sequence[Index] = ()) -> tuple[Stop, ...]:
    """Returns where the slope of an input is stopped, the largest share first.

    What is stopped of a small element may be nothing beside the whole input: then those at `places` are asked alone.
    """
    replay, function = question.replay, question.recorded
    if not isinstance(replay, Replay) or not isinstance(function, Frozen):
        return ()
    with replay.running() as output:
        measured = _Measured(replay, function, output, name)
        stops = list(measured.stops(measured.general))
        stops = stops or list(measured.stops([measured.unit(place) for place in places]))
    return tuple(sorted(stops, key=lambda stop: -stop.share))


class _Measured:
    """The slopes of one input: of F, of G, and of what each line stops."""

    def __init__(self, replay: Replay, function: Frozen, output: Callable[..., Tensor], name: str) -> None:
        self.replay, self.function, self.output, self.name = replay, function, output, name
        self.x = replay.trace.inputs[name]
        self.scale = scales(self.x).to(self.x.dtype)

    def stops(self, directions: Sequence[Tensor]) -> Iterator[Stop]:
        """Yields the lines with a share, and what no line explains."""
        whole, kept = self.slopes(self.written, directions), self.slopes(self.kept, directions)
        size = max(_size(whole), _size(kept))
        rest = [f - g for f, g in zip(whole, kept, strict=True)]
        noise = _size([self.noise(u) for u in directions])
        if not math.isfinite(size) or not _size(rest) > max(SMALLEST_SHARE * size, noise):
            return
        flat = self.flat() if min(_size(whole), _size(kept)) <= FLAT * size else None
        beside = _size(whole) if flat is None else size
        lines = list(self.moving(list(self.lines().items())))
        shares = self.shares([numbers for _, numbers in lines], directions)
        for ((source, code), _), own in zip(lines, shares, strict=True):
            if _size(own) > max(SMALLEST_SHARE * size, noise):
                rest = [r - o for r, o in zip(rest, own, strict=True)]
                yield Stop(self.name, _size(own) / beside, source, code, flat)
        if not _size(rest) <= max(SMALLEST_REST * size, 2 * noise):
            source, code = next(iter(self.function.exits), (None, ""))
            yield Stop(self.name, _size(rest) / beside, source, code, flat)

    def written(self, moved: Tensor) -> Tensor:
        """F at another value of the input."""
        return self.output({self.name: moved})

    def kept(self, moved: Tensor) -> Tensor:
        """G at another value of the input."""
        return self.function.replayed({**self.replay.trace.inputs, self.name: moved})

    # ------------------------------------------------------------------------------------------------------ slopes

    @cached_property
    def general(self) -> Sequence[Tensor]:
        """What the input is moved along: each element by its own size, or a few random directions."""
        if self.x.numel() <= MOST_EACH:
            return [self.unit(unravelled(position, self.x.shape)) for position in range(self.x.numel())]
        base = generic_direction(self.replay.trace, [self.name])[self.name]
        generators = [torch.Generator().manual_seed(30 + number) for number in range(DIRECTIONS)]
        signs = [torch.randint(0, 2, self.x.shape, generator=generator) * 2 - 1 for generator in generators]
        return [base * sign.to(self.x) for sign in signs]

    def unit(self, place: Index) -> Tensor:
        """The direction that moves one element by its own size."""
        u = torch.zeros_like(self.x)
        u[place] = self.scale[place]
        return u

    def flat(self) -> Flat:
        """Measures both slopes by the element whose gradient, or whose size if there is none, weighs most."""
        gradient = dense(self.replay.trace.gradients[self.name], self.x)
        weight = (gradient.abs() if bool((gradient != 0).any()) else 1.0) * self.scale.abs()
        place = unravelled(int(weight.flatten().argmax()), self.x.shape)
        by_unit = [self.slopes(at, [self.unit(place)])[0] for at in (self.written, self.kept)]
        largest = max(map(abs, by_unit))
        whole, left = (s / float(self.scale[place]) if abs(s) > FLAT * largest else 0.0 for s in by_unit)
        return Flat(place, whole, left)

    def slopes(self, at: Callable[[Tensor], Tensor], directions: Sequence[Tensor]) -> Sequence[float]:
        """Returns the slope of ⟨v, f⟩ along each direction: central differences, their truncation removed."""
        return [self._slope(at, u) for u in directions]

    def _slope(self, at: Callable[[Tensor], Tensor], u: Tensor) -> float:
        (slope,) = self._slopes(lambda moved: [at(moved)], u, 1)
        return slope

    def _slopes(self, at: Callable[[Tensor], Sequence[Tensor]], u: Tensor, count: int) -> Sequence[float]:
        v = self.replay.trace.cotangent
        try:
            ends = [(at(self.x + h * u), at(self.x - h * u)) for h in STEPS]
        except (GradexplainError, RuntimeError):
            return [math.nan] * count
        rows = [[pair(v, a[k] - b[k]) / (2 * h) for h, (a, b) in zip(STEPS, ends, strict=True)] for k in range(count)]
        return [_limit(row) for row in rows]

    def noise(self, u: Tensor) -> float:
        """What the last digits of the outputs that move make of a slope; extrapolation raises that by a half."""
        v, y, moved = self.replay.trace.cotangent, self.replay.trace.value, self.x + STEPS[0] * u
        try:
            moves = (self.written(moved) != y) | (self.kept(moved) != y)
        except (GradexplainError, RuntimeError):
            return math.inf
        return 4 * self.replay.eps * weighed(v, torch.where(moves, y, 0.0)) / STEPS[-1]

    # ------------------------------------------------------------------------------------------------------ lines

    def lines(self) -> dict[tuple[Source | None, str], list[int]]:
        """Returns the steps that stop something, by their lines; a comparison stops nothing that has a slope."""
        lines: dict[tuple[Source | None, str], list[int]] = {}
        written = {w.held.storage for n in self.here for w in self._event(n).writes}
        for number, given in self.here.items():
            event = self._event(number)
            if all(_change(value, value) is None for value in given):
                continue
            if not event.writes and any(h.storage in written for h in self.function.steps[number].made):
                continue  # a look at memory that is written into afterwards: the write is the stop
            source = source_of(event.frame)
            code = source.code if source and source.code else str(schema_of(event.operator).name)
            lines.setdefault((source, code), []).append(number)
        return lines

    def moving(self, lines: Sequence[Line]) -> Sequence[Line]:
        """Returns the lines of which a shift moves the output; the last of too many stands for those that follow it."""
        found = list(self._moving(lines))
        if len(found) <= MOST_LINES:
            return found
        *told, (first, _) = found[:MOST_LINES]
        return [*told, (first, [n for _, numbers in found[MOST_LINES - 1 :] for n in numbers])]

    def _moving(self, lines: Sequence[Line]) -> Iterator[Line]:
        """Halves the lines: most of many stop nothing that matters, and one run says so of all of them."""
        if not lines or not self.moves([n for _, numbers in lines for n in numbers]):
            return
        if len(lines) == 1:
            yield from lines
            return
        yield from self._moving(lines[: len(lines) // 2])
        yield from self._moving(lines[len(lines) // 2 :])

    def moves(self, numbers: Sequence[int]) -> bool:
        """Says whether the output moves if some steps give what they would give farther on."""
        return not torch.equal(self.shifted(numbers, self.farther), self.shifted((), self.farther))

    @cached_property
    def farther(self) -> Mapping[int, list[Any]]:
        """What each stop gives at a point nearby, in a direction that spares no element."""
        u = generic_direction(self.replay.trace, [self.name])[self.name]
        return self.function.stopped({**self.replay.trace.inputs, self.name: self.x + STEPS[0] * u})

    def _event(self, number: int) -> Event:
        event = self.function.steps[number].origin
        assert isinstance(event, Event)
        return event

    def shares(self, lines: Sequence[Sequence[int]], directions: Sequence[Tensor]) -> Sequence[Sequence[float]]:
        """Returns, for each of several lines, the slope along each direction of what it stops."""

        def at(moved: Tensor) -> Sequence[Tensor]:
            there = self.function.stopped({**self.replay.trace.inputs, self.name: moved})
            return [self.shifted(numbers, there) for numbers in lines]

        by_direction = [self._slopes(at, u, len(lines)) for u in directions] if lines else []
        return [[slopes[k] for slopes in by_direction] for k in range(len(lines))]

    def shifted(self, numbers: Sequence[int], there: Mapping[int, list[Any]]) -> Tensor:
        """Runs the user's code at the point itself, with what some steps give shifted to what they give elsewhere."""
        shifts = {self.keys[id(self._event(n))]: _changes(self.here[n], there[n]) for n in numbers if n in there}
        values = self.replay.computation.leaf_values()
        try:
            with torch.enable_grad(), _shifting(shifts):
                result = self.replay.computation.run(values)
        except (GradexplainError, RuntimeError):  # the code takes another way: nothing is known of these steps
            return torch.full_like(self.replay.trace.value, math.nan)
        return chosen_output(result, self.replay.computation.name)[0].detach()

    @cached_property
    def here(self) -> Mapping[int, list[Any]]:
        """What each stop gave."""
        return self.function.stopped(self.replay.trace.inputs)

    @cached_property
    def keys(self) -> Mapping[int, tuple[str, int]]:
        """Which operator an event was: its name, and how many of this name came before."""
        counts: dict[str, int] = {}
        keys: dict[int, tuple[str, int]] = {}
        for event in self.function.events:
            name = str(event.operator)
            keys[id(event)] = (name, counts.get(name, 0))
            counts[name] = counts.get(name, 0) + 1
        return keys


def _limit(row: Sequence[float]) -> float:
    """Returns what central differences at `STEPS` go to."""
    for power in POWERS:
        row = [(power * b - a) / (power - 1) for a, b in pairwise(row)]
    return row[-1]


def _size(slopes: Sequence[float]) -> float:
    return math.sqrt(sum(slope * slope for slope in slopes))


def _changes(here: Sequence[Any], there: Sequence[Any]) -> list[Any]:
    """Returns by how much each result differs, `None` where that is no number that varies."""
    return [_change(one, other) for one, other in zip(here, there, strict=True)]


def _change(here: Any, there: Any) -> Any:
    if isinstance(here, Tensor) and (here.is_floating_point() or here.is_complex()) and here.shape == there.shape:
        return there - here
    return there - here if isinstance(here, (float, complex)) else None


def _shifting(shifts: Mapping[tuple[str, int], Sequence[Any]]) -> Any:
    """Returns a mode under which some operators give a little more than they do."""
    counts: dict[str, int] = {}
    held: list[Any] = []

    def run(operator: Any, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
        name = str(operator)
        count = counts.get(name, 0)
        counts[name] = count + 1
        outputs = operator(*args, **keywords)
        shift = shifts.get((name, count))
        if shift is not None:
            outputs = _moved(outputs, shift, writes=schema_of(operator).is_mutable)
        held.append((args, outputs))  # as the recorder holds them: torch looks at who else does
        return outputs

    return internals().dispatch_mode(run)


def _moved(outputs: Any, shift: Sequence[Any], *, writes: bool) -> Any:
    if writes:
        with torch.no_grad():
            for tensor in list(tensors_in([outputs]))[:1]:
                tensor.add_(shift[0])
        return outputs
    if isinstance(outputs, (list, tuple)):
        return type(outputs)(o if s is None else o + s for o, s in zip(outputs, shift, strict=True))
    return outputs if shift[0] is None else outputs + shift[0]
