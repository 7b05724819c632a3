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

# What each lesson rests on; the others can be read at once.
RESTS_ON: Mapping[str, tuple[str, ...]] = {
    "step-error": ("three-ways",), "cost": ("three-ways",), "differentiable": ("three-ways",), "graph": ("three-ways",),
    "chain-rule": ("graph",), "vector": ("chain-rule",), "matrix": ("vector",), "accumulation": ("chain-rule",),
    "higher-derivatives": ("accumulation",), "stopping": ("accumulation",), "training-step": ("accumulation", "matrix"),
    "descent": ("training-step",), "memory": ("graph", "training-step"), "frozen": ("training-step", "stopping"),
    "gradient-flow": ("training-step",), "nan": ("differentiable", "training-step"), "batch-size": ("training-step",),
    "mixed-precision": ("batch-size", "nan"), "summary": ("cost", "descent"), "sum-of-squares": ("graph",),
    "dimensions": ("sum-of-squares",), "surface": ("dimensions",), "losses": ("sum-of-squares", "training-step"),
    "weight-decay": ("losses", "descent"), "overflow": ("sum-of-squares",), "vectorise": ("sum-of-squares",),
}  # fmt: skip
