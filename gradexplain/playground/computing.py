"""What is answered to a page: the explanation's page, and with it what is read and dragged beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gradexplain.errors import GradexplainError, InputError, RunError
from gradexplain.figures.style import number
from gradexplain.playground.asked import Asked, FieldError
from gradexplain.targets.request import Request

if TYPE_CHECKING:
    from gradexplain.api import Loaded
    from gradexplain.explanation.explanation import Explanation

# Seconds that a check may take in running the function again.
EFFORT = 0.5
# Fields of faults that name one; the others stand at the target.
_FIELDS: Mapping[str, str] = {
    "unknown_wrt": "wrt", "integer_wrt": "wrt", "bad_order": "order", "cotangent_shape": "cotangent",
}  # fmt: skip


def answered(question: bytes, named: Asked, language: str, load: Callable[[Request], Loaded] = Request.load) -> bytes:
    """Returns what a page is answered, as JSON: a page and its figure, a lesson, or a sentence at a field."""
    try:
        name = _lesson(question)
        found = taught(name, language) if name is not None else answer(Asked.read(question), named, language, load)
    except FieldError as fault:
        found = {"field": fault.field, "fault": fault.fault.sentence(language)}
    except GradexplainError as fault:
        found = {"field": _FIELDS.get(fault.key, "target"), "fault": fault.sentence(language)}
    return json.dumps(found, ensure_ascii=False).encode()


def answer(asked: Asked, named: Asked, language: str, load: Callable[[Request], Loaded]) -> dict[str, Any]:
    """Returns the page with its figure; raises `FieldError` or `GradexplainError`.

    `load` returns the function and the inputs of a question.

    An input of an expression that the page does not have yet is asked for: `missing` are their names.
    """
    names = asked.names(named)
    if missing := [name for name in names if name not in asked.inputs]:
        return {"names": names, "missing": missing}
    request = asked.request(named)
    import gradexplain.api as api  # loads torch
    from gradexplain.playground.drawing import figure

    target, inputs = loaded = load(request)
    explanation = api.explained(request, effort=EFFORT, loaded=loaded)
    found = {"names": names, "page": explanation.render("html", language=language), **_summary(explanation)}
    try:
        return {**found, "figure": figure(target, inputs, explanation.output.tensor, asked)}
    except (InputError, RunError) as fault:
        return {**found, "figure": None, "no_figure": fault.sentence(language)}


def _lesson(question: bytes) -> str | None:
    """Returns the name of the lesson that is asked for, if one is."""
    try:
        sent = json.loads(question)
    except (ValueError, RecursionError):
        return None  # said where it is read
    name = sent.get("lesson") if isinstance(sent, dict) and len(sent) == 1 else None
    return name if isinstance(name, str) else None


def taught(name: str, language: str) -> dict[str, Any]:
    """Runs a lesson and returns its page; raises `InputError` for one that does not exist."""
    from gradexplain import lessons

    return {"page": lessons.run(name).render("html", language=language)}


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

    if tensor is None or not TensorSummary(tensor).small:
        return None
    return _row(TensorSummary(tensor).elements)


def _row(elements: Any) -> str:
    if isinstance(elements, list):
        return f"[{', '.join(map(_row, elements))}]"
    if isinstance(elements, complex):
        real, imaginary = number(elements.real, 8), number(elements.imag, 8)
        return f"{real}{'' if imaginary.startswith('−') else '+'}{imaginary}j"
    return number(float(elements), 8)
