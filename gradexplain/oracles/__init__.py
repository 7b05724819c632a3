"""Independent ways to get the same gradient. An oracle is one function from a `Question` to checks, and one entry here.

What they share: finite differences, forward mode and hand-written formulas all judge the gradient of one replay in
float64, and start from the same inputs; the rules start from the values that torch recorded in the forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping

from gradexplain.oracles import analytic, batched, differences, exact, formulas, jacobian, tangents, walk
from gradexplain.oracles.question import Check, Oracle, Question, Verdict

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
