"""The course: one module a lesson, each a generator of parts; the words stand in `locale/*/lessons/`.

A lesson's module has `lesson(...)`, whose keyword parameters are the options that a reader may change.
"""

from collections.abc import Mapping

# The lessons by topic, in the order in which they are read.
COURSE: Mapping[str, tuple[str, ...]] = {
    "differentiation": ("three-ways", "step-error", "cost", "differentiable"),
    "graphs": ("graph", "chain-rule", "vector", "matrix"),
    "gradients": ("accumulation", "higher-derivatives", "stopping"),
    "training": (
        "training-step", "descent", "memory", "frozen", "gradient-flow", "nan", "batch-size", "mixed-precision",
        "summary",
    ),
    "squares": ("sum-of-squares", "dimensions", "surface", "losses", "weight-decay", "overflow", "vectorise"),
}  # fmt: skip
