"""The numbers of a figure that can be dragged: a curve with its tangent, or contours with the gradient."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from gradexplain.errors import InputError, RunError
from gradexplain.figures.derivatives import broken, curve_of
from gradexplain.figures.expressions import Formula, at_points, spaced, values
from gradexplain.figures.style import number
from gradexplain.playground.asked import Asked
from gradexplain.recording.computation import computation_of, one_question
from gradexplain.targets.values import shown

if TYPE_CHECKING:
    from torch import Tensor

    from gradexplain.targets.loading import Target

# Points of a curve, and along each side of a grid.
_POINTS, _SIDE = 201, 41
# Seconds that a figure may take of a processor, and of the clock: it comes beside an explanation, and a function of a
# file may be slow.
_SECONDS, _WAITED = 1.0, 4.0


def figure(target: Target, inputs: Mapping[str, Any], output: Tensor, asked: Asked) -> dict[str, Any] | None:
    """Returns the numbers of a figure over the inputs that are one number each, the others held as they are.

    `None` where these are not one or two, or the `output` is no number. `at`, `gradient` and `ends` have a number for
    each of `variables`; `descent` has the points of its path. Raises `InputError` or `RunError` where nothing can be
    drawn.
    """
    known = {name: inputs[name] for name in (*target.parameters, *inputs) if name in inputs}
    point = {name: float(value) for name, value in known.items() if _is_number(value)}
    place = [*point.values()]
    if output.numel() != 1 or output.is_complex() or len(place) not in (1, 2) or not all(map(math.isfinite, place)):
        return None
    with one_question():
        of = _formula(target, inputs, [*point])
        ends = asked.ends(place)
        drawn = _curve(of, place, ends) if len(place) == 1 else _contours(of, place, ends)
        path = _descent(of, place, asked)
    return {**drawn, "variables": of.variables, "at": place, "ends": ends, "descent": path}


def _is_number(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.numel() == 1 and value.is_floating_point()


def _formula(target: Target, inputs: Mapping[str, Any], variables: Sequence[str]) -> Formula:
    """Returns the target as a function of some of its inputs: in float64, or in their own type if it takes no other."""
    wide = {name: value.double() if _is_floating(value) else value for name, value in inputs.items()}
    end = End.from_now()
    try:
        of = Formula(target.text, tuple(variables), _within(end, target, wide))
        of.run(**{name: wide[name] for name in variables})
    except RunError:
        of = Formula(target.text, tuple(variables), _within(end, target, inputs))
        of.run(**{name: inputs[name] for name in variables})
    return of


def _is_floating(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


@dataclass(frozen=True)
class End:
    """When the time of a figure is over: by what the processor worked, and by the clock."""

    began: float
    worked: float

    @classmethod
    def from_now(cls) -> End:
        return cls(time.monotonic(), time.process_time())

    def passed(self) -> float | None:
        """Returns the seconds that are over, if some are.

        How long the processor worked is asked for only when it can matter: the answer may take longer than a run.
        """
        waited = time.monotonic() - self.began
        if waited > _WAITED:
            return _WAITED
        return _SECONDS if waited > _SECONDS and time.process_time() - self.worked > _SECONDS else None


def _within(end: End, target: Target, inputs: Mapping[str, Any]) -> Callable[..., Tensor]:
    """Returns the target as a function of tensors of one number, which raises `InputError` when its time is over."""
    computation = computation_of(target.called, inputs)

    def run(**given: Tensor) -> Tensor:
        if (seconds := end.passed()) is not None:
            raise InputError("play_figure_slow", seconds=f"{seconds:g}")
        placed = {name: value.reshape(inputs[name].shape).to(inputs[name].dtype) for name, value in given.items()}
        return computation.output(placed).double()

    return run


def _curve(of: Formula, point: Sequence[float], ends: Sequence[Sequence[float]]) -> dict[str, Any]:
    drawn = curve_of(of, point[0], 1, ends[0], _POINTS)
    xs, ys = broken(drawn, 0)
    return {
        "x": xs,
        "y": _finite(ys),
        "value": drawn.there[0],
        "gradient": [drawn.there[1]],
        "window": drawn.windows[0],
    }


def _contours(of: Formula, point: Sequence[float], ends: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Returns the values on a grid, row by row of the second variable, and the gradient at the point."""
    x, y = (spaced(low, high, _SIDE) for low, high in ends)
    heights = values(of, [p.reshape(-1) for p in torch.meshgrid(x, y, indexing="xy")]).detach()
    there, slopes = at_points(of, [torch.tensor([p], dtype=torch.float64) for p in point])
    (value,), gradient = there.tolist(), [float(slope) for slope in slopes]
    if not all(map(math.isfinite, (value, *gradient))):
        place = ", ".join(f"{name} = {number(p)}" for name, p in zip(of.variables, point, strict=True))
        raise InputError("figure_no_derivative", text=shown(of.text), at=place)
    rows = [_finite(row) for row in heights.reshape(_SIDE, _SIDE).tolist()]
    return {"x": x.tolist(), "y": y.tolist(), "heights": rows, "value": value, "gradient": gradient}


def _finite(numbers: Sequence[float]) -> list[float | None]:
    return [n if math.isfinite(n) else None for n in numbers]


def _descent(of: Formula, start: Sequence[float], asked: Asked) -> list[list[float]] | None:
    """Returns the points of gradient descent, each with the value there, until they are no more finite."""
    chosen = asked.descent()
    if chosen is None:
        return None
    rate, steps = chosen
    place = [torch.tensor([p], dtype=torch.float64) for p in start]
    path: list[list[float]] = []
    for _ in range(steps + 1):
        height, gradient = at_points(of, place)
        visited = [*map(float, place), float(height)]
        if not all(map(math.isfinite, visited)):
            break
        path.append(visited)
        place = [p - rate * g for p, g in zip(place, gradient, strict=True)]
    return path
