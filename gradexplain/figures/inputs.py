"""The gradient against the input: are they proportional, and with which factor?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from gradexplain.errors import InputError
from gradexplain.figures.design import Design
from gradexplain.figures.expressions import OF_ONE, formula, gradient
from gradexplain.figures.fitting import Line, fitted
from gradexplain.figures.parameters import Checked
from gradexplain.figures.style import Style, number, plain
from gradexplain.figures.typesetting import titled
from gradexplain.targets.values import parse_value, shown, tensor_of

if TYPE_CHECKING:
    from torch import Tensor

# More points than this are a line anyway.
MOST = 2000


@dataclass(frozen=True)
class Proportional:
    """The gradient of an expression of one tensor, element by element, and the line through it."""

    expression: str
    variable: str
    inputs: tuple[float, ...]
    gradients: tuple[float, ...]
    line: Line


def proportional(
    expression: Annotated[str, "A function of one tensor that gives one number.", OF_ONE] = "sum(x**2)",
    *,
    at: Annotated[
        str, "The tensor: 1,2,3 or linspace(-2,2,9) or randn(20).", Checked(parse_value)
    ] = "linspace(-2,2,9)",
) -> Proportional:
    """Gradient against input, element by element, with the slope that fits best.

    The line is the one of least squares; it is said whether the points lie on it within rounding, and whether it goes
    through the origin: only then is the gradient proportional to the input.
    """
    f = formula(expression, 1)
    x = vector(at)
    slopes = gradient(f, x)
    line = fitted(x.tolist(), slopes.tolist())
    if line is None:
        raise InputError("figure_one_input", at=shown(at))
    return Proportional(f.text, f.variables[0], tuple(x.tolist()), tuple(slopes.tolist()), line)


def vector(text: str, most: int = MOST) -> Tensor:
    """Returns a VALUE as a vector of float64; raises `InputError` for what is none, or too long."""
    import torch

    spec = parse_value(text)
    tensor = tensor_of(spec, name="at", dtype="float64", generator=torch.Generator().manual_seed(0))
    if tensor.is_complex() or tensor.dtype == torch.bool or tensor.ndim > 1 or not 1 <= tensor.numel() <= most:
        raise InputError("figure_vector", text=shown(text), shape=list(tensor.shape), most=most)
    tensor = tensor.reshape(-1).to(torch.float64)
    if not bool(tensor.isfinite().all()):
        raise InputError("figure_vector_finite", text=shown(text))
    return tensor


def paint(data: Proportional, axes: Sequence[Any], style: Style) -> list[str]:
    """Paints gradients against inputs and the line through them; returns what is to be said below."""
    (panel,) = axes
    line, x = data.line, data.variable
    ends = (min(data.inputs), max(data.inputs))
    formula_ = equation(line, x)
    panel.axhline(0, color=style.palette.soft, linewidth=0.8)
    panel.axvline(0, color=style.palette.soft, linewidth=0.8)
    look = {"color": style.colour(0), "linestyle": "solid"} if line.straight else {
        "color": style.palette.soft, "linestyle": (0, (4, 2)), "linewidth": 1.2,
    }  # fmt: skip
    panel.plot(ends, [line.at(e) for e in ends], label=style.say("fit", formula=formula_), **look)
    panel.plot(
        data.inputs, data.gradients, "o", color=style.colour(1), markersize=6.5,
        label=style.say("gradient_of_element"),
    )  # fmt: skip
    panel.set_xlabel(style.say("input_of", name=f"{x}ᵢ"))
    panel.set_ylabel(style.say("gradient_by", name=f"∂f/∂{x}ᵢ"))
    law = "yes" if line.proportional else "line" if line.straight else "no"
    title = style.say("proportional_title", expression=titled(data.expression, 34), law=style.say(f"law_{law}"))
    style.head(panel, title)
    plain(panel.xaxis, panel.yaxis)
    style.legend(panel)
    said = {"slope": number(line.slope), "formula": formula_, "residual": number(line.residual, 2)}
    return [style.say(f"proportional_{law}", **said)]


def equation(line: Line, x: str) -> str:
    """Returns a line as `2·x + 1`; what rounding left of an intercept is left out."""
    if line.proportional or line.intercept == 0:
        return f"{number(line.slope)}·{x}"
    return f"{number(line.slope)}·{x} {'+' if line.intercept > 0 else '−'} {number(abs(line.intercept))}"


DESIGN = Design(
    "proportional", proportional, paint, (("",),), (7.8, 4.4),
    ("", '"sum(x**3)" --at "linspace(-1,1,21)"', '"sum(x**2 + x)" --at "randn(20)" --language zh'),
)  # fmt: skip
