"""What a difference looks like: a factor and what it is, a sign, some slices, a shift, or what `patterns` knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from gradexplain.comparison.judging import Judged
from gradexplain.rules.application import wide
from gradexplain.verification.oracles.patterns import Pattern, beside, pattern, shown

# A fraction of such numbers is a plain number, and no sign of a count.
SMALL = 12
# In float64 a factor is known to some last digits less than its type has.
_KNOWN = 1e-9
# A pattern fits where it misses by so many times less than what would be seen.
_WITHIN = 100


Recognised = tuple[str, Mapping[str, Any]]


def pattern_of(judged: Judged, sizes: Mapping[str, int]) -> Pattern:
    """Returns what the difference of a pair looks like, in float64 where both formulas are known there.

    `sizes` are the numbers of the problem that a factor may be made of, by what they are.
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
    if found.kind in ("elements", "some-factor", "one-factor", "offset", "masked"):
        other = next((o for find in (_shifted, _slices) for o in find(seen, right, slack, wrong)), None)
        found = found if other is None else Pattern(other[0], {**found.data, **other[1]}, found.place)
    ratio = found.data.get("ratio")
    meaning = meaning_of(ratio, sizes) if isinstance(ratio, float) else {}
    return Pattern(found.kind, {**found.data, **meaning}, found.place)


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
    yield ("slice" if first == last else "slices") + ("-factor" if "ratio" in data else ""), data


def meaning_of(ratio: float, sizes: Mapping[str, int]) -> Mapping[str, Any]:
    """Returns what a factor is made of: `formula` in n (and m), and what these are; nothing where it is just a number.

    A size of the problem is preferred to what is merely a small fraction.
    """
    named = sorted(((what, n) for what, n in sizes.items() if n > 1), key=lambda pair: pair[1])
    for what, n in named:
        forms = {"1/n": 1 / n, "n": float(n), "(n − 1)/n": (n - 1) / n, "n/(n − 1)": n / (n - 1)}
        for form, value in forms.items():
            if _close(ratio, value) and ratio != 1.0:
                return {"formula": form, "n": n, "what": what, "factor": str(Fraction(value).limit_denominator(2 * n))}
    for what, n in named:
        for other, m in named:
            # Two of many sizes have some small fraction by chance; of counts, that is telling.
            telling = max(Fraction(n, m).as_integer_ratio()) > SMALL or "sum()" in what + other
            if telling and n != m and _close(ratio, n / m):
                return {"formula": "n/m", "n": n, "what": what, "m": m, "other": other, "factor": str(Fraction(n, m))}
    fraction = Fraction(ratio).limit_denominator(4096)
    if (
        _close(ratio, float(fraction))
        and abs(fraction.numerator - fraction.denominator) == 1
        and fraction.denominator > SMALL
    ):
        n = max(fraction.numerator, fraction.denominator)
        form = "(n − 1)/n" if fraction < 1 else "n/(n − 1)"
        return {"formula": form, "n": n, "what": "", "factor": str(fraction)}
    return {}


def _close(ratio: float, value: float) -> bool:
    return abs(ratio - value) <= _KNOWN * abs(value)


def sizes_of(inputs: Mapping[str, Any]) -> dict[str, int]:
    """Returns the numbers that a factor may be made of: sizes of inputs, and how many labels count."""
    found: dict[str, int] = {}
    for name, value in inputs.items():
        if not isinstance(value, Tensor):
            continue
        for dim, size in enumerate(value.shape):
            found.setdefault(f"{name}.shape[{dim}]", size)
        if value.dim() > 1:
            found.setdefault(f"{name}.numel()", value.numel())
        if value.dtype == torch.bool:
            found[f"{name}.sum()"] = int(value.sum())
        elif not value.is_floating_point() and not value.is_complex() and value.numel():
            found[f"({name} >= 0).sum()"] = int((value >= 0).sum())
            found[f"({name} != 0).sum()"] = int((value != 0).sum())
    return found
