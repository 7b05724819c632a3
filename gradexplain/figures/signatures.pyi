"""What checkers of types know of the figures: made from them by `./scripts/test --update-golden`."""

from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = [
    "curve",
    "descent",
    "dimensions",
    "gradient_flow",
    "proportional",
    "step_error",
    "surface",
]

def curve(
    expression: str = "x**3",
    *,
    at: float = 1.0,
    order: int = 2,
    ends: tuple[float, ...] = (-2.0, 2.0),
    points: int = 201,
    ax: Axes | Sequence[Axes] | None = None,
    language: Literal["en", "zh"] = "en",
    style: Literal["light", "dark"] = "light",
    size: Literal["column"] | tuple[float, ...] | None = None,
    title: str | None = None,
) -> Figure:
    """A function of one variable with its derivatives, and the tangent at a point."""

def descent(
    expression: str = "x**2 + 2*x",
    *,
    start: float = 1.0,
    lr: tuple[float, ...] = (0.1, 0.8, 1.01),
    steps: int = 20,
    dtype: Literal["float32", "float64"] = "float64",
    ax: Axes | Sequence[Axes] | None = None,
    language: Literal["en", "zh"] = "en",
    style: Literal["light", "dark"] = "light",
    size: Literal["column"] | tuple[float, ...] | None = None,
    title: str | None = None,
) -> Figure:
    """Gradient descent: path and loss for several learning rates."""

def dimensions(
    expression: str = "sum(x**2)",
    *,
    n: int = 5,
    at: str = "arange",
    ax: Axes | Sequence[Axes] | None = None,
    language: Literal["en", "zh"] = "en",
    style: Literal["light", "dark"] = "light",
    size: Literal["column"] | tuple[float, ...] | None = None,
    title: str | None = None,
) -> Figure:
    """Gradient against component, for tensors of 1 to n dimensions."""

def gradient_flow(
    *,
    networks: tuple[Literal["sigmoid", "relu", "tanh", "linear"], ...] = ("sigmoid", "relu", "linear"),
    depth: int = 20,
    width: int = 64,
    batch: int = 64,
    seed: int = 0,
    ax: Axes | Sequence[Axes] | None = None,
    language: Literal["en", "zh"] = "en",
    style: Literal["light", "dark"] = "light",
    size: Literal["column"] | tuple[float, ...] | None = None,
    title: str | None = None,
) -> Figure:
    """Norm and local gain of signal and gradient by layer, for healthy, vanishing and exploding networks."""

def proportional(
    expression: str = "sum(x**2)",
    *,
    at: str = "linspace(-2,2,9)",
    ax: Axes | Sequence[Axes] | None = None,
    language: Literal["en", "zh"] = "en",
    style: Literal["light", "dark"] = "light",
    size: Literal["column"] | tuple[float, ...] | None = None,
    title: str | None = None,
) -> Figure:
    """Gradient against input, element by element, with the slope that fits best."""

def step_error(
    expression: str = "x**3",
    *,
    at: float = 0.7,
    dtypes: tuple[Literal["float64", "float32"], ...] = ("float64", "float32"),
    powers: tuple[int, ...] = (-16, 0),
    density: int = 6,
    ax: Axes | Sequence[Axes] | None = None,
    language: Literal["en", "zh"] = "en",
    style: Literal["light", "dark"] = "light",
    size: Literal["column"] | tuple[float, ...] | None = None,
    title: str | None = None,
) -> Figure:
    """Error of numerical differentiation against step size, beside automatic differentiation."""

def surface(
    expression: str = "x**2 + y**2",
    *,
    x_ends: tuple[float, ...] = (-2.0, 2.0),
    y_ends: tuple[float, ...] = (-2.0, 2.0),
    points: int = 101,
    at: tuple[float, ...] | None = None,
    descent: float | None = None,
    steps: int = 30,
    ax: Axes | Sequence[Axes] | None = None,
    language: Literal["en", "zh"] = "en",
    style: Literal["light", "dark"] = "light",
    size: Literal["column"] | tuple[float, ...] | None = None,
    title: str | None = None,
) -> Figure:
    """Surface and contours of a function of two variables, with gradient arrows."""
