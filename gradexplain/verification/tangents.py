"""What a custom Function's own jvp promises, asked once for each class and signature that a run applies.

A jvp computes t ↦ J t: it is linear in the tangent, it is what differences of the forward tend to, and it is the
transpose of what the backward computes, ⟨v, J t⟩ = ⟨Jᵀ v, t⟩. Torch calls it in its forward mode and nowhere else: a
wrong one is no error of the gradient, nor of torch. All is asked beside the point of the run, for at a kink the two may
follow different conventions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from gradexplain.errors import message_of
from gradexplain.findings.finding import Finding
from gradexplain.recording.computation import Computation, with_dtype
from gradexplain.recording.custom_functions import has_own_jvp, jvp_place
from gradexplain.recording.events import Application, tensors_in
from gradexplain.recording.replay import Alone, applied_anew
from gradexplain.recording.tracing import generic
from gradexplain.verification.oracles.forward_mode import FORWARD_EPS, carried
from gradexplain.verification.oracles.measures import pair

# A power of two scales a tangent without rounding it; the sign shows what is linear on each side alone.
_SCALE = -64.0
# Steps of differences, from where most functions are nearly cubic to where float64 has half of its digits left.
_STEPS = tuple(2.0**-k for k in range(6, 22))
# How far beside the point all is asked, in parts of each element.
_BESIDE = 1 / 64


def asked_of_jvp(alone: Alone) -> Iterator[Finding]:
    """Yields what is wrong with a custom Function's own jvp, and where it is its backward that is."""
    assert isinstance(alone.origin, Application)
    assert alone.operator is not None
    function = alone.origin.function
    if not has_own_jvp(function):
        return
    computation = applied_anew(alone, alone.operator)
    if any(t.is_complex() for t in computation.leaf_values().values()) or not computation.wrt:
        return
    data = {"function": function.__name__}
    try:
        code, numbers = _Jvp.of(computation).answer()
    except (Exception, SystemExit) as fault:
        code, numbers = "own-jvp-failed", {"message": message_of(fault)}
    if code:
        yield Finding(code, data | numbers, jvp_place(function))


@dataclass(frozen=True)
class _Jvp:
    """A Function to be applied anew beside its point, with a tangent for each argument that needs a gradient."""

    computation: Computation
    tangents: Mapping[str, Tensor]

    @classmethod
    def of(cls, computation: Computation) -> _Jvp:
        """Returns the Function in float64, or in its own type where it does not run in that."""
        try:
            return cls._beside(with_dtype(computation, torch.float64))
        except Exception:  # a kernel of the user's may know one type alone
            return cls._beside(computation)

    @classmethod
    def _beside(cls, computation: Computation) -> _Jvp:
        given = {name: computation.inputs[name] for name in computation.wrt}
        point = {n: torch.where(x == 0, 1.0, x) * (1 - _BESIDE * generic(x).abs()) for n, x in given.items()}
        moved = replace(computation, inputs={**computation.inputs, **_but_zeros(point, given)})
        asked = cls(moved, {n: generic(x) * moved.inputs[n].abs() for n, x in given.items()})
        assert asked.outputs
        return asked

    def answer(self) -> tuple[str, dict[str, str]]:
        """Returns the code of what is wrong, "" where nothing is, and its numbers."""
        whole, scaled = (self.carried({n: scale * t for n, t in self.tangents.items()}) for scale in (1.0, _SCALE))
        if not _finite(self.outputs):
            return "", {}  # there is no slope to compare with
        if any(bool((j != 0).any()) for j in whole) and all(map(torch.equal, whole, scaled)):
            return "own-jvp-ignores", {}
        linear = self._same([j / _SCALE for j in scaled], whole) and self._same(self._in_parts(), whole)
        if _finite(whole) and not linear:
            return "own-jvp-not-linear", {}
        seen = self._weighed(whole)
        right, bound = self._differences()
        back, size = self._back()
        slack = FORWARD_EPS * self.eps * (size + sum(float((v * j).abs().sum()) for v, j in self._pairs(whole)))
        numbers = {"seen": f"{seen:.8g}", "right": f"{right:.8g}", "back": f"{back:.8g}"}
        if abs(seen - right) > bound + slack or not _finite(whole):
            return "own-jvp-wrong", numbers
        if abs(seen - back) <= slack:
            return "", {}
        return ("own-jvp-right" if abs(back - right) > bound + slack else "own-jvp-apart"), numbers

    @cached_property
    def outputs(self) -> list[Tensor]:
        """The outputs that carry a gradient, at the point."""
        return self._at(0.0)

    @cached_property
    def cotangents(self) -> list[Tensor]:
        return [generic(y, i) for i, y in enumerate(self.outputs)]

    @property
    def eps(self) -> float:
        return max(torch.finfo(t.dtype).eps for t in (*self.outputs, *self.tangents.values()))

    def carried(self, tangents: Mapping[str, Tensor]) -> list[Tensor]:
        """Returns J t for each output."""
        with self.computation.running() as run:
            return carried(run, self.computation.leaf_values(), tangents, _differentiable)

    def _at(self, step: float) -> list[Tensor]:
        values = self.computation.leaf_values()
        moved = {n: (values[n].detach() + step * t).requires_grad_() for n, t in self.tangents.items()}
        with self.computation.running() as run, torch.enable_grad():
            return [y.detach() for y in _differentiable(run({**values, **moved}))]

    def _in_parts(self) -> list[Tensor]:
        """Returns the sum of J t over two tangents, each of them zero where the other is not."""
        first = {n: (torch.arange(t.numel()) % 2 == 0).reshape(t.shape).to(t) for n, t in self.tangents.items()}
        one = self.carried({n: t * first[n] for n, t in self.tangents.items()})
        other = self.carried({n: t * (1 - first[n]) for n, t in self.tangents.items()})
        return [a + b for a, b in zip(one, other, strict=True)]

    def _same(self, some: Sequence[Tensor], whole: Sequence[Tensor]) -> bool:
        size = max((float(j.abs().max()) for j in whole if j.numel()), default=0.0)
        bound = FORWARD_EPS * self.eps * size
        return all(bool(((a - b).abs() <= bound).all()) for a, b in zip(some, whole, strict=True))

    def _pairs(self, outputs: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.cotangents, outputs, strict=True)

    def _weighed(self, outputs: Sequence[Tensor]) -> float:
        return sum(pair(v, y) for v, y in self._pairs(outputs))

    def _back(self) -> tuple[float, float]:
        """Returns ⟨Jᵀ v, t⟩ by the Function's backward, and the size of what is summed there."""
        values = self.computation.leaf_values()
        with self.computation.running() as run, torch.enable_grad():
            made, leaves = _differentiable(run(values)), [values[n] for n in self.tangents]
            found = torch.autograd.grad(made, leaves, [v.clone() for v in self.cotangents], allow_unused=True)
        products = [g.detach() * t for g, t in zip(found, self.tangents.values(), strict=True) if g is not None]
        return sum(float(p.sum()) for p in products), sum(float(p.abs().sum()) for p in products)

    def _differences(self) -> tuple[float, float]:
        """Returns the slope of ⟨v, y⟩ along t by central differences, and a bound of its error.

        Two steps give Richardson's value; where that of the next pair differs, by so much it may be wrong, and by what
        rounding makes of the values that are subtracted.
        """
        ends = [(self._weighed(self._at(h)), self._weighed(self._at(-h))) for h in _STEPS]
        slopes = [(right - left) / (2 * h) for h, (right, left) in zip(_STEPS, ends, strict=True)]
        finer = [(4 * b - a) / 3 for a, b in pairwise(slopes)]
        noise = self.eps * sum(float((v * y).abs().sum()) for v, y in self._pairs(self.outputs))
        known = [(8 * (abs(b - a) + noise / h), b) for (a, b), h in zip(pairwise(finer), _STEPS[2:], strict=True)]
        bound, slope = min(known)
        return slope, bound


def _finite(tensors: Sequence[Tensor]) -> bool:
    return all(bool(t.isfinite().all()) for t in tensors)


def _differentiable(result: object) -> list[Tensor]:
    return [t for t in tensors_in(result) if t.requires_grad]


def _but_zeros(point: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the point with a small positive number where a 0 was given: on one side of the kink that may be there."""
    return {n: torch.where(given[n] == 0, _BESIDE * p, p) for n, p in point.items()}
