"""What is answered to a page: the explanation's page, and the numbers of a figure that can be dragged."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gradexplain.errors import GradexplainError, InputError, RunError
from gradexplain.figures.derivatives import broken, curve
from gradexplain.figures.expressions import Formula, at_points, formula, spaced, values
from gradexplain.figures.style import number
from gradexplain.playground.asked import Asked, FieldError
from gradexplain.targets.expression import Program
from gradexplain.targets.values import shown

if TYPE_CHECKING:
    from gradexplain.explanation.explanation import Explanation
    from gradexplain.targets.request import Request

# Seconds that a check may take in running the function again.
EFFORT = 0.5
# Fields of faults that name one; the others stand at the target.
_FIELDS: Mapping[str, str] = {
    "unknown_wrt": "wrt", "integer_wrt": "wrt", "bad_order": "order", "cotangent_shape": "cotangent",
}  # fmt: skip
# Points of a curve, and along each side of a grid.
_POINTS, _SIDE = 201, 41


def answered(question: bytes, named: Asked, language: str) -> bytes:
    """Returns what a page is answered, as JSON: the page and its figure, or a sentence at a field."""
    try:
        found = answer(Asked.read(question), named, language)
    except FieldError as fault:
        found = {"field": fault.field, "fault": fault.fault.sentence(language)}
    except GradexplainError as fault:
        found = {"field": _FIELDS.get(fault.key, "target"), "fault": fault.sentence(language)}
    return json.dumps(found, ensure_ascii=False).encode()


def answer(asked: Asked, named: Asked, language: str) -> dict[str, Any]:
    """Returns the page with its figure; raises `FieldError` or `GradexplainError`.

    An input of an expression that the page does not have yet is asked for: `missing` are their names.
    """
    names = asked.names(named)
    if missing := [name for name in names if name not in asked.inputs]:
        return {"names": names, "missing": missing}
    request = asked.request(named)
    import gradexplain.api as api  # loads torch

    explanation = api.explained(request, effort=EFFORT)
    found = {"names": names, "page": explanation.render("html", language=language), **_summary(explanation)}
    try:
        return {**found, "figure": _figure(request, explanation, asked)}
    except (InputError, RunError) as fault:
        return {**found, "figure": None, "no_figure": fault.sentence(language)}


def _summary(explanation: Explanation) -> dict[str, Any]:
    """Returns the value and the gradients of a few numbers, as they are read."""
    gradients = {name: _told(g) for name, g in explanation.gradients.items()}
    return {
        "verdict": explanation.verdict,
        "output": [explanation.output_name, _told(explanation.output.tensor)],
        "scalar": explanation.scalar,
        "gradients": {name: text for name, text in gradients.items() if text is not None},
    }


def _told(tensor: Any) -> str | None:
    from gradexplain.recording.summaries import TensorSummary

    if tensor is None or not TensorSummary(tensor).small or tensor.is_complex():
        return None
    return _row(TensorSummary(tensor).elements)


def _row(elements: Any) -> str:
    if isinstance(elements, list):
        return f"[{', '.join(map(_row, elements))}]"
    return number(float(elements), 8)


# --------------------------------------------------------------------------------------------------------------- figure


def _figure(request: Request, explanation: Explanation, asked: Asked) -> dict[str, Any] | None:
    """Returns the numbers of a curve with its tangent, or of contours with the gradient; `None` of what is neither.

    `at`, `gradient` and `ends` have a number, or two, for each variable; `descent` has the points of its path.
    """
    program = request.spec.place
    if not isinstance(program, Program) or explanation.output.tensor.numel() != 1:
        return None
    point = [_real(explanation.inputs[name].tensor) for name in program.inputs]
    numbers = [p for p in point if p is not None]
    if numbers != point or len(numbers) not in (1, 2):
        return None
    ends = asked.ends(numbers)
    drawn = _curve(program.text, numbers, ends) if len(numbers) == 1 else _contours(program.text, numbers, ends)
    path = _descent(formula(program.text, len(numbers)), numbers, asked)
    return {**drawn, "variables": program.inputs, "at": numbers, "ends": ends, "descent": path}


def _real(tensor: Any) -> float | None:
    if tensor.numel() != 1 or not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
        return None
    return float(tensor)


def _curve(text: str, point: Sequence[float], ends: Sequence[Sequence[float]]) -> dict[str, Any]:
    drawn = curve(text, at=point[0], order=1, ends=(ends[0][0], ends[0][1]), points=_POINTS)
    xs, ys = broken(drawn, 0)
    return {
        "x": xs,
        "y": _finite(ys),
        "value": drawn.there[0],
        "gradient": [drawn.there[1]],
        "window": drawn.windows[0],
    }


def _contours(text: str, point: Sequence[float], ends: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Returns the values on a grid, row by row of the second variable, and the gradient at the point."""
    import torch

    of = formula(text, 2)
    x, y = (spaced(low, high, _SIDE) for low, high in ends)
    heights = values(of, [p.reshape(-1) for p in torch.meshgrid(x, y, indexing="xy")]).detach().double()
    there, slopes = at_points(of, [torch.tensor([p], dtype=torch.float64) for p in point])
    (value,), gradient = there.tolist(), [float(slope) for slope in slopes]
    if not all(map(math.isfinite, (value, *gradient))):
        place = ", ".join(f"{name} = {number(p)}" for name, p in zip(of.variables, point, strict=True))
        raise InputError("figure_no_derivative", text=shown(text), at=place)
    rows = [_finite(row) for row in heights.reshape(_SIDE, _SIDE).tolist()]
    return {"x": x.tolist(), "y": y.tolist(), "heights": rows, "value": value, "gradient": gradient}


def _finite(numbers: Sequence[float]) -> list[float | None]:
    return [n if math.isfinite(n) else None for n in numbers]


def _descent(of: Formula, start: Sequence[float], asked: Asked) -> list[list[float]] | None:
    """Returns the points of gradient descent, each with the value there, until they are no more finite."""
    import torch

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
