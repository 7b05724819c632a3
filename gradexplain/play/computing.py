"""What is answered to a page: the explanation's page, and the numbers of a figure that can be dragged."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gradexplain.errors import GradexplainError, InputError, RunError
from gradexplain.figures.derivatives import Curve, broken, curve
from gradexplain.figures.paths import descent
from gradexplain.figures.style import number
from gradexplain.play.asked import Asked, FieldError
from gradexplain.targets.expression import Program

if TYPE_CHECKING:
    from gradexplain.explanation.explanation import Explanation
    from gradexplain.targets.request import Request

# Seconds that a check may take in running the function again.
EFFORT = 0.5
# Fields of faults that name one; the others stand at the target.
_FIELDS: Mapping[str, str] = {
    "unknown_wrt": "wrt", "integer_wrt": "wrt", "bad_order": "order", "cotangent_shape": "cotangent",
}  # fmt: skip
_POINTS = 201


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
    """Returns the numbers of a curve with its tangent, `None` for what is no function of one number."""
    program = request.spec.place
    if not isinstance(program, Program) or explanation.output.tensor.numel() != 1:
        return None
    points = [_real(summary.tensor) for summary in explanation.inputs.values()]
    if len(points) != 1 or len(program.inputs) != 1 or points[0] is None:
        return None
    low, high = asked.ends(points[0])
    drawn = curve(program.text, at=points[0], order=1, ends=(low, high), points=_POINTS)
    return {**_curve(drawn), "ends": [low, high], "descent": _descent(program.text, points[0], asked)}


def _real(tensor: Any) -> float | None:
    return (
        float(tensor) if tensor.numel() == 1 and tensor.is_floating_point() and bool(tensor.isfinite().all()) else None
    )


def _curve(drawn: Curve) -> dict[str, Any]:
    xs, ys = broken(drawn, 0)
    return {
        "variable": drawn.variable,
        "x": xs,
        "y": [y if math.isfinite(y) else None for y in ys],
        "at": drawn.at,
        "value": drawn.there[0],
        "slope": drawn.there[1],
        "sides": drawn.sides,
        "window": drawn.windows[0],
    }


def _descent(text: str, start: float, asked: Asked) -> dict[str, Any] | None:
    """Returns the points of gradient descent from a point, until they are no more finite."""
    chosen = asked.descent()
    if chosen is None:
        return None
    rate, steps = chosen
    (path,) = descent(text, start=start, lr=(rate,), steps=steps).paths
    return {"x": path.points, "y": path.losses, "asked": steps}
