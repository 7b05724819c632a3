"""Independent ways to get the same gradient. An oracle is one function from a `Question` to checks, and one entry here.

What they share: finite differences, forward mode and hand-written formulas all judge the gradient of one replay in
float64, and start from the same inputs; the rules start from the values that torch recorded in the forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping

from gradexplain.verification.oracles import batched, jacobian
from gradexplain.verification.oracles import by_hand as formulas
from gradexplain.verification.oracles import chain_rule as walk
from gradexplain.verification.oracles import complex_step as analytic
from gradexplain.verification.oracles import finite_differences as differences
from gradexplain.verification.oracles import forward_mode as tangents
from gradexplain.verification.oracles import symbolic as exact
from gradexplain.verification.oracles.answers import Check, Verdict
from gradexplain.verification.oracles.question import Oracle, Question

__all__ = ["ON_REQUEST", "ORACLES", "REFEREE", "Check", "Oracle", "Question", "Verdict"]

ORACLES: Mapping[str, Oracle] = {
    "finite differences": differences.ask,
    "forward mode": tangents.ask,
    "complex step": analytic.ask,
    "rules": walk.ask,
    "by hand": formulas.ask,
}

# Asked on request alone; the first of them also where the others do not agree: it takes more time than all of those.
REFEREE = "symbolic"
ON_REQUEST: Mapping[str, Oracle] = {
    REFEREE: exact.ask,
    "every element": jacobian.ask,
    "batched gradients": batched.ask,
}
