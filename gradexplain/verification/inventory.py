"""What is known of operators: their rule, its kinks, whether torch differentiates it twice, and how it is proved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from gradexplain.documents.shown import Shown
from gradexplain.errors import InputError
from gradexplain.recording.tracing import generic
from gradexplain.rules.application import call
from gradexplain.rules.entries import Rule, full_name, overload
from gradexplain.rules.registry import is_sparse, rule_of, rules
from gradexplain.rules.samples import examples
from gradexplain.targets.vocabulary import FUNCTIONS
from gradexplain.verification.oracles.definitions import is_defined
from gradexplain.versions.internals import schema_of

# Whether the gradient has a gradient: "yes"; "zero" where it does not change with the inputs; or torch "refuses".
Second = Literal["yes", "zero", "refuses"]
# How the tests prove a rule, besides by differences in float64 at every element: the "formula" by sympy for every
# point, the "definition" of the operator by sympy at a point, or by "differences" alone.
Proof = Literal["formula", "definition", "differences"]
# Why there is no rule: torch makes the operator of "others", it gives no "tensor", it is of "sparse" layouts, or nobody
# wrote one "yet".
Without = Literal["others", "tensor", "sparse", "yet"]


@dataclass(frozen=True)
class Known:
    """What is known of one operator; without a rule, why there is none."""

    operator: str
    rule: Rule | None
    second: Second | None = None
    refusal: str = ""
    proof: Proof | None = None
    without: Without | None = None


@dataclass(frozen=True)
class Inventory(Shown):
    """What is known of the operators of some names, or of all that have a rule where no name was given."""

    names: Sequence[str]
    known: Sequence[Known]


def inventory(names: Sequence[str] = ()) -> Inventory:
    """Returns what is known of the operators with these names, such as `tanh` or `aten.mm`; of all without one.

    Raises `InputError` for a name that no operator has.
    """
    found = [operator for name in names for operator in _named(name)] if names else sorted(rules())
    return Inventory(tuple(names), tuple(map(known_of, dict.fromkeys(found))))


def _named(name: str) -> Iterator[str]:
    """Yields the operators of a name: those with a rule, and where there are none, every one that torch has."""
    short = name.removeprefix("torch.").removeprefix("nn.functional.").removeprefix("aten.")
    with_rule = [o for o in rules() if short in (o.removeprefix("aten."), _family(o), _family(o).strip("_"))]
    with_rule += [o for o in rules() if o == f"aten.{short}.default" and o not in with_rule]
    if with_rule:
        yield from sorted(with_rule)
        return
    packet = getattr(torch.ops.aten, short.partition(".")[0], None)
    if packet is None and short in FUNCTIONS:
        yield FUNCTIONS[short]
        return
    if packet is None:
        raise InputError("unknown_operator", name=name, close=", ".join(_close(short)) or "–")
    wanted = [o for o in packet.overloads() if not o.endswith("out")]
    yield from (f"aten.{short.partition('.')[0]}.{o}" for o in wanted)


def _family(operator: str) -> str:
    return operator.split(".")[1]


def _close(name: str) -> list[str]:
    import difflib

    return difflib.get_close_matches(name, {_family(o) for o in rules()}, n=3)


def known_of(operator: str) -> Known:
    """Returns what is known of one operator, by its whole name."""
    rule = rule_of(operator)
    if rule is None:
        return Known(operator, None, without="others" if operator.startswith("torch.") else _why_none(operator))
    second, refusal = _second(rule)
    proof: Proof = "formula" if rule.elementwise else "definition" if is_defined(rule) else "differences"
    return Known(operator, rule, second, refusal, proof)


def _why_none(operator: str) -> Without:
    if is_sparse(operator):
        return "sparse"
    schema = schema_of(overload(full_name(operator)))
    if torch._C._dispatch_has_kernel_for_dispatch_key(_dispatched(schema), "CompositeImplicitAutograd"):
        return "others"
    return "yet" if any(str(given.type) == "Tensor" for given in schema.returns) else "tensor"


def _dispatched(schema: Any) -> str:
    return f"{schema.name}.{schema.overload_name}" if schema.overload_name else str(schema.name)


def _second(rule: Rule) -> tuple[Second | None, str]:
    """Differentiates the operator twice by each argument, at its first example; no answer where torch has no kernel."""
    given = examples(rule)[0]
    wanted = [n for n in rule.slopes or rule.derivatives if given[n] is not None]
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        try:
            leaves, outputs = _tracked(rule, given, wanted)
        except (RuntimeError, NotImplementedError):
            return None, ""
        made = [y for y in outputs if y.requires_grad]
        if not made:
            return None, ""
        seeds = [generic(y).requires_grad_() for y in made]
        try:
            first = torch.autograd.grad(made, leaves, seeds, create_graph=True, allow_unused=True)
            again = [g for g in first if g is not None and g.requires_grad]
            if not again:
                return "zero", ""
            sent = torch.autograd.grad(again, leaves, list(map(generic, again)), allow_unused=True)
        except (RuntimeError, NotImplementedError) as fault:
            return "refuses", str(fault).strip().split("\n", 1)[0]
    return ("yes" if any(s is not None and bool(s.any()) for s in sent) else "zero"), ""


def _tracked(rule: Rule, given: dict[str, Any], wanted: Sequence[str]) -> tuple[list[Tensor], Sequence[Any]]:
    leaves: list[Tensor] = []

    def leaf(value: Any) -> Any:
        if isinstance(value, list):
            return [leaf(v) for v in value]
        leaves.append(value.clone().requires_grad_())
        return leaves[-1].clone()  # operators may write in place

    arguments = {n: leaf(v) if n in wanted else v.clone() if isinstance(v, Tensor) else v for n, v in given.items()}
    return leaves, [y for y in call(rule.operator, arguments) if isinstance(y, Tensor)]
