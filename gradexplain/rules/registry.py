"""Every rule, by the operator's name. The families are read when the first rule is asked for."""

import importlib
from collections.abc import Mapping
from functools import cache

from gradexplain.rules.entries import RULES, Rule

FAMILIES = (
    "pointwise", "reductions", "linear", "decompositions", "shapes", "indexing", "networks", "convolution", "sampling",
    "recurrence", "losses", "transforms",
)  # fmt: skip


def rules() -> Mapping[str, Rule]:
    """Returns every rule by operator, such as `aten.mm.default`."""
    _load()
    return RULES


def rule_of(operator: str | None) -> Rule | None:
    """Returns the rule of an operator, or `None`.

    One that works in place (`aten.add_.Tensor`), or copies where another makes a view (`aten.expand_copy.default`), has
    that of its twin.
    """
    if operator is None:
        return None
    known = rules()
    name, _, overload = operator.rpartition(".")
    twin = name.removesuffix("_").removesuffix("_copy")
    found = known.get(operator) or known.get(f"{twin}.{overload}")
    if found is None and twin != name:  # transpose_ has no overload name where transpose.int has one
        twins = [rule for key, rule in known.items() if key.startswith(f"{twin}.")]
        found = twins[0] if len(twins) == 1 else None
    return found


def is_sparse(operator: str) -> bool:
    """Says whether an operator is there for sparse layouts; rules are of dense tensors."""
    return "sparse" in operator or operator.startswith("aten._to_dense")


@cache
def _load() -> None:
    for family in FAMILIES:
        importlib.import_module(f"gradexplain.rules.{family}")
