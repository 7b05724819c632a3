"""The stages in which a receipt's claims are derived again; each rests on the one before."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gradexplain.errors import RunError
from gradexplain.receipts.claims import (
    answer_claims,
    file_claims,
    foreign_source,
    input_claims,
    names_by_code,
    step_claims,
)
from gradexplain.receipts.derivation import Derived, Stopped, derive
from gradexplain.receipts.findings import finding_claims
from gradexplain.receipts.ledger import Ledger
from gradexplain.receipts.tensors import Comparison
from gradexplain.receipts.verdicts import Judging, is_cheap
from gradexplain.recording.tracing import differentiated, trace
from gradexplain.targets.loading import file_of, parse_target
from gradexplain.targets.provenance import machine
from gradexplain.verification.derivatives import derivative_of
from gradexplain.verification.verdicts import EFFORT, verify_trace
from gradexplain.versions.releases import __version__


def derived_claims(ledger: Ledger, receipt: Mapping[str, Any]) -> None:
    """Loads the target, runs it, and checks what the receipt says of it."""
    try:
        derived = derive(receipt)
    except Stopped as stop:
        (ledger.refusals if stop.refused else ledger.undecided).append(stop.remark)
        return
    elsewhere = foreign_source(receipt, derived.trace)
    if receipt["asked"] is None and elsewhere is not None:  # the target is no more than a title
        ledger.leave_open("$.target", "source_elsewhere", file=elsewhere)
        return
    if not file_claims(ledger, receipt["files"], derived, file_of(parse_target(receipt["target"]).place)):
        return
    _settings(ledger, receipt)
    exact = receipt["torch"] == torch.__version__ and receipt["machine"] == machine()
    checking = _Checking(receipt, Comparison(ledger, exact), (receipt["asked"] or {}).get("effort", EFFORT))
    if receipt["kind"] == "verification":
        checking.verification(derived)
    else:
        checking.explanation(derived)


def _settings(ledger: Ledger, receipt: Mapping[str, Any]) -> None:
    """Says where the receipt was made under other conditions than these."""
    for key, here in (("gradexplain", __version__), ("torch", torch.__version__), ("machine", machine())):
        if receipt[key] != here:
            ledger.note(f"$.{key}", "other_setting", seen=receipt[key], here=here)


class _Checking:
    """Checks the parts of one receipt, one order after another."""

    def __init__(self, receipt: Mapping[str, Any], compared: Comparison, effort: float) -> None:
        self.receipt, self.compared, self.effort = receipt, compared, effort
        self.ledger = compared.ledger

    def verification(self, derived: Derived) -> None:
        """Checks a report: its inputs, its gradients, its verdicts."""
        self._parameters(derived)
        if self._answer(self.receipt, "$", derived):
            finding_claims(self.ledger, self.receipt, "$", derived.trace, names_by_code(derived.trace))
            self._judged(self.receipt, "$", derived)

    def explanation(self, derived: Derived) -> None:
        """Checks an explanation and those of its higher derivatives."""
        self._parameters(derived)
        self._followed(derived)
        self._part(self.receipt, "$", derived, derived.output_name)
        self._orders()
        below, seed = derived, derived.trace.cotangent if self.receipt["cotangent"]["given"] else None
        for place, part in enumerate(self.receipt["higher"]):
            path = f"$.higher[{place}]"
            if self.ledger.refusals or part["wrt"] not in derived.trace.gradients:
                self.ledger.claim("step", bool(self.ledger.refusals), f"{path}.wrt", "higher_wrt", seen=part["wrt"])
                return
            found = self._derivative(below, part, path, seed if place == 0 else None)
            if found is None:
                return
            self._part(part, path, found, found.output_name)
            below = found

    def _derivative(self, below: Derived, part: Mapping[str, Any], path: str, seed: Tensor | None) -> Derived | None:
        """Returns the next derivative; `None` where it is constant, which the receipt must say, and no other may."""
        computation = derivative_of(below.computation, part["wrt"], self.receipt["scalar"], part["order"], seed)
        try:
            recorded = trace(computation)
        except RunError as fault:
            constant = fault.key == "constant_derivative"
            self.ledger.claim("step", constant and part["constant"], path, "higher_constant", seen=part["constant"])
            return None
        if not self.ledger.claim("step", not part["constant"], path, "higher_constant", seen=part["constant"]):
            return None
        report = verify_trace(recorded, computation, effort=self.effort)
        found = Derived(computation, recorded, report, computation.name)
        self._hessian(found, part, path)
        return found

    def _part(self, part: Mapping[str, Any], path: str, derived: Derived, name: str | None) -> None:
        if not self._answer(part, path, derived):
            return
        names = step_claims(self.compared, part, path, derived.trace, self.receipt, name)
        if names is None:
            return
        input_claims(self.compared, part, path, derived.trace, names, self.receipt)
        finding_claims(self.ledger, part, path, derived.trace, names)
        self._judged(part, path, derived)

    def _answer(self, part: Mapping[str, Any], path: str, derived: Derived) -> bool:
        if any(c.reason == "not_deterministic" for c in derived.report.checks):
            self.ledger.leave_open(f"{path}.output.value", "not_deterministic")
            return False
        answer_claims(self.compared, part, path, derived.trace)
        return True

    def _parameters(self, derived: Derived) -> None:
        seen, right = self.receipt["parameters"], list(derived.computation.parameters)
        data = {"seen": ", ".join(seen) or "–", "right": ", ".join(right) or "–"}
        self.ledger.claim("input", seen == right, "$.parameters", "input_names", **data)

    def _followed(self, derived: Derived) -> None:
        """An element or a module that alone is shown must be there."""
        asked = self.receipt["asked"] or {"element": None, "module": None}
        element, module, inputs = asked["element"], asked["module"], derived.trace.inputs
        found = element is None or re.split(r"\s*\[", element.strip())[0] in inputs
        self.ledger.claim("input", found, "$.asked.element", "followed_missing", seen=element)
        paths = [f"{node.module}." for node in derived.trace.nodes]
        found = module is None or any(path.startswith(f"{module}.") for path in paths)
        self.ledger.claim("input", found, "$.asked.module", "followed_missing", seen=module)

    def _orders(self) -> None:
        """An order was asked for: all up to it are there, or the last says that nothing is left to differentiate."""
        orders = [part["order"] for part in self.receipt["higher"]]
        asked = self.receipt["asked"]
        whole = orders == list(range(2, len(orders) + 2))
        ended = bool(orders) and self.receipt["higher"][-1]["constant"]
        if asked is not None:
            whole = whole and (len(orders) == asked["order"] - 1 or (ended and len(orders) < asked["order"]))
        self.ledger.claim("step", whole, "$.higher", "higher_orders", seen=", ".join(map(str, orders)) or "–")

    def _judged(self, part: Mapping[str, Any], path: str, derived: Derived) -> None:
        repeated = self.compared.exact and is_cheap(derived, self.effort)
        formulas = (self.receipt["asked"] or {}).get("by_hand", {})
        Judging(self.ledger, repeated, formulas).report(part, path, derived.report)

    def _hessian(self, derived: Derived, part: Mapping[str, Any], path: str) -> None:
        """Checks the rows of second derivatives by one backward pass a row, without recording."""
        if part["hessian"] is None:
            return
        leaves = derived.computation.leaf_values()
        x = leaves[part["wrt"]]
        with torch.enable_grad():
            gradient = derived.computation.output(leaves)
        units = torch.eye(gradient.numel(), dtype=gradient.dtype)
        rows = [differentiated(gradient, [x], u.reshape(gradient.shape), retain_graph=True)[0] for u in units]
        whole = torch.stack([torch.zeros_like(x).flatten() if r is None else r.flatten() for r in rows])
        self.compared.tensor("gradient", f"{path}.hessian", "hessian_value", part["hessian"], whole.detach())
