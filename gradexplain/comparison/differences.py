"""What a difference looks like: a factor and what it is, a sign, some slices, a shift, or what `patterns` knows.

One element is told as one, and those of a vector that stand side by side as a range of elements.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor

from gradexplain.comparison.judging import Judged
from gradexplain.comparison.places import name_of
from gradexplain.recording.trace import Trace
from gradexplain.rules.application import wide
from gradexplain.verification.oracles.patterns import Pattern, beside, pattern, shown

# A fraction of such numbers is a plain number, and no sign of a count.
SMALL = 12
# In float64 a factor is known to some last digits less than its type has.
_KNOWN = 1e-9
# A factor that is known so well is made of a size by chance only where there are many sizes.
_WELL = 1e-6
# A pattern fits where it misses by so many times less than what would be seen.
_WITHIN = 100


Recognised = tuple[str, Mapping[str, Any]]


def pattern_of(judged: Judged) -> Pattern:
    """Returns what the difference of a pair looks like, in float64 where both formulas are known there.

    A factor has beside it how well it is `known`, as a share of it.
    """
    pair = judged.pair
    right, seen = wide(pair.one), wide(pair.other)
    slack = judged.allowed + judged.allowed.new_tensor(pair.eps) * right.abs()
    if judged.formulas > 1 and pair.truth is not None and pair.formula is not None:
        right, seen = pair.truth, pair.formula
        slack = slack * (torch.finfo(torch.float64).eps / pair.eps) + _KNOWN * 1e-3 * right.abs()
        slack += _KNOWN * 1e-4 * right.abs().max()  # what float64 leaves of an element that cancels to 0
        if judged.resolved is not None:
            slack = torch.minimum(slack, judged.resolved / _WITHIN)
    if judged.vanishes:
        return Pattern("nothing")
    wrong = ~((seen - right).abs() <= slack)
    if not bool(wrong.any()):  # no element tells alone
        wrong = torch.ones_like(wrong)
    found = pattern(beside(seen, right, slack.flatten(), wrong.flatten()), seen.shape)
    if found.data["count"] == 1 and seen.numel() > 1:
        found = replace(found, kind="one") if found.kind == "elements" else found
    elif found.kind in ("elements", "some-factor", "offset", "masked"):
        other = next((o for find in (_shifted, _slices) for o in find(seen, right, slack, wrong)), None)
        found = found if other is None else Pattern(other[0], {**found.data, **other[1]}, found.place)
    ratio = found.data.get("ratio")
    if not isinstance(ratio, float) or ratio == 0:
        return found
    known = float(torch.where(wrong & (right != 0), slack / right.abs(), torch.inf).min()) / abs(ratio)
    return replace(found, data={**found.data, "known": max(known, _KNOWN)})


def _shifted(seen: Tensor, right: Tensor, slack: Tensor, wrong: Tensor) -> Iterator[Recognised]:
    """Yields along which dimension all elements stand one place off, but for those that fall out at the end."""
    for dim, size in enumerate(seen.shape):
        for by in (1, -1) if size > 2 else ():
            close = (seen - right.roll(by, dim)).abs() <= slack + slack.roll(by, dim)
            moved = close.narrow(dim, int(by > 0), size - 1)
            if bool(moved.all()) and bool((right.roll(by, dim) != right).any()):
                yield "shifted", {"dim": dim, "by": by}


def _slices(seen: Tensor, right: Tensor, slack: Tensor, wrong: Tensor) -> Iterator[Recognised]:
    """Yields along which dimension the wrong elements are one slice, or a block of them, with their common factor."""
    if seen.dim() == 0:
        return
    blocks = []
    for dim, size in enumerate(seen.shape):
        others = [d for d in range(seen.dim()) if d != dim]
        hit = wrong.any(dim=others) if others else wrong
        count = int(hit.sum())
        first, last = int(hit.int().argmax()), size - 1 - int(hit.flip(0).int().argmax())
        if 0 < count < size and last - first + 1 == count:
            filled = float(wrong.narrow(dim, first, count).float().mean())
            blocks.append((filled, -count / size, dim, first, last, size))
    blocks = [b for b in blocks if b[0] > 0.5]
    if not blocks:
        return
    _, _, dim, first, last, size = max(blocks)
    ours, theirs, near = (t.narrow(dim, first, last - first + 1).flatten() for t in (seen, right, slack))
    data: dict[str, Any] = {"dim": dim, "first": first, "last": last, "size": size}
    compared = pattern(beside(ours, theirs, near, torch.ones_like(near, dtype=torch.bool)), ours.shape)
    if compared.kind in ("factor", "sign", "zero"):
        ratio = {"factor": compared.data.get("ratio"), "sign": -1.0, "zero": 0.0}[compared.kind]
        data |= {"ratio": ratio, "factor": shown(float(ratio))}  # type: ignore[arg-type]
    kind = "slice" if first == last else "range" if seen.dim() == 1 else "slices"
    yield kind + ("-factor" if "ratio" in data else ""), data


@dataclass(frozen=True)
class Size:
    """A number of the problem that a factor may be made of, and what it is: a piece of code, or what `kind` says.

    That is of the `ranks` or the `parts`, the `elements` that the step `what` gives, or a `dimension` of these.
    """

    n: int
    what: str = ""
    kind: Literal["code", "ranks", "parts", "elements", "dimension"] = "code"


def meant(found: Pattern, sizes: Sequence[Size]) -> Pattern:
    """Returns a pattern with what its factor is made of: `formula` in n (and m), and what these are.

    It says nothing where no size that is there gives the factor, or where sizes give several that the factor, as well
    as it is known, cannot be told from. Sizes of steps are many: they are asked last, of a factor that is known well.
    """
    ratio, known = found.data.get("ratio"), found.data.get("known")
    if not isinstance(ratio, float) or not isinstance(known, float) or ratio == 1.0:
        return found
    named = sorted((s for s in sizes if s.n > 1), key=lambda s: s.n)
    own = [s for s in named if s.kind not in ("elements", "dimension")]
    steps = [s for s in named if s not in own and s.n > SMALL] if known <= _WELL else []
    for fits in (_forms(own, ratio, known), _quotients(own, ratio, known), _forms(steps, ratio, known)):
        found_forms = list(fits)
        if found_forms:
            value, meaning = found_forms[0]
            alone = all(_close(other, value, _KNOWN) for other, _ in found_forms)
            return replace(found, data={**found.data, **meaning}) if alone else found
    return found


def _forms(sizes: Sequence[Size], ratio: float, known: float) -> Iterator[tuple[float, Mapping[str, Any]]]:
    for size in sizes:
        n = size.n
        forms = {"1/n": 1 / n, "n": float(n), "(n − 1)/n": (n - 1) / n, "n/(n − 1)": n / (n - 1)}
        for form, value in forms.items():
            if _close(ratio, value, known):
                factor = str(Fraction(value).limit_denominator(2 * n))
                yield value, {"formula": form, "n": n, "what": size.what, "kind": size.kind, "factor": factor}


def _quotients(sizes: Sequence[Size], ratio: float, known: float) -> Iterator[tuple[float, Mapping[str, Any]]]:
    for one in sizes:
        for other in sizes:
            n, m = one.n, other.n
            # Two of many sizes have some small fraction by chance; of counts, that is telling.
            telling = max(Fraction(n, m).as_integer_ratio()) > SMALL or "sum()" in one.what + other.what
            if telling and n != m and _close(ratio, n / m, known):
                data = {"n": n, "what": one.what, "kind": one.kind, "m": m, "other": other.what}
                yield n / m, {"formula": "n/m", **data, "factor": str(Fraction(n, m))}


def _close(ratio: float, value: float, known: float) -> bool:
    return abs(ratio - value) <= known * abs(value)


def sizes_of(inputs: Mapping[str, Any]) -> Iterator[Size]:
    """Yields the sizes of inputs, and how many labels count."""
    for name, value in inputs.items():
        if not isinstance(value, Tensor):
            continue
        yield from (Size(size, f"{name}.shape[{dim}]") for dim, size in enumerate(value.shape))
        if value.dim() > 1:
            yield Size(value.numel(), f"{name}.numel()")
        if value.dtype == torch.bool:
            yield Size(int(value.sum()), f"{name}.sum()")
        elif not value.is_floating_point() and not value.is_complex() and value.numel():
            yield Size(int((value >= 0).sum()), f"({name} >= 0).sum()")
            yield Size(int((value != 0).sum()), f"({name} != 0).sum()")


def sizes_in(trace: Trace) -> Iterator[Size]:
    """Yields the sizes of what the steps of a run give, each of them once."""
    seen = set[tuple[int, str]]()
    for node in trace.nodes:
        for output in node.outputs if node.leaf is None else ():
            kinds = [(n, "dimension") for n in output.shape] if output is not None else []
            for n, kind in [(output.numel(), "elements"), *kinds] if output is not None else ():
                if (n, kind) not in seen:
                    seen.add((n, kind))
                    yield Size(n, name_of(node), kind)  # type: ignore[arg-type]
