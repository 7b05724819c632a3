"""Independent ways to get the same gradient. An oracle is one function from a `Question` to checks, and one entry here.

What they share: finite differences, forward mode and hand-written formulas all judge the gradient of one replay in
float64, and start from the same inputs; the rules start from the values that torch recorded in the forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping

from gradexplain.oracles import analytic, differences, exact, formulas, tangents, walk
from gradexplain.oracles.question import Check, Oracle, Question, Verdict

__all__ = ["ORACLES", "REFEREES", "Check", "Oracle", "Question", "Verdict"]

ORACLES: Mapping[str, Oracle] = {
    "finite differences": differences.ask,
    "forward mode": tangents.ask,
    "complex step": analytic.ask,
    "rules": walk.ask,
    "by hand": formulas.ask,
}

# Asked where the others are not of one mind, or on request: they take more time than all of those.
REFEREES: Mapping[str, Oracle] = {"symbolic": exact.ask}
