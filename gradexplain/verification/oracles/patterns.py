"""What an error in a gradient looks like: a factor, a sign, a transposed matrix, a term too few.

A wrong gradient is held beside the right one, at all elements or at those where the right one is known. A pattern is
said only if it explains every one of these to within the error bounds, and one with a tensor in it (a missing factor
x, a dropped term) only if the elements tell it from a plain number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from torch import Tensor

from gradexplain.mathematics.indices import unravelled
from gradexplain.verification.oracles.measures import plain

# A pattern with a tensor in it needs this many elements that tell: with fewer, too many tensors fit by chance.
LEAST_TELLING = 2
# Plain numbers as people write them into formulas: p/q up to here, or 1/n for a forgotten mean.
LARGEST_DENOMINATOR, LARGEST_MEAN = 12, 100_000


@dataclass(frozen=True)
class Pattern:
    """What an error looks like: the key of a sentence, its data, and the first element that is wrong."""

    kind: str
    data: Mapping[str, object] = field(default_factory=dict)
    place: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Beside:
    """A wrong gradient beside the right one, element by element.

    All are vectors over the elements compared. `slack` is how far a pattern may miss, `wrong` says which elements
    differ; `turned` is the wrong gradient's transpose there, where it has one. `tensors` are what a formula may have
    lost or gained as a factor: arguments, output, cotangent.
    """

    seen: Tensor
    right: Tensor
    slack: Tensor
    wrong: Tensor
    turned: Tensor | None = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def fits(self, claim: Tensor, scale: Tensor | float = 1.0) -> bool:
        """Says whether `claim` is the wrong gradient, where the right one, multiplied by `scale`, went into it."""
        slack = self.slack * torch.as_tensor(scale, device=self.seen.device).abs().clamp_min(1.0)
        return bool(((claim - self.seen).abs() <= slack).all())


def beside(
    seen: Tensor,
    right: Tensor,
    slack: Tensor,
    wrong: Tensor,
    *,
    positions: Tensor | None = None,
    tensors: Mapping[str, Tensor] | None = None,
) -> Beside:
    """Returns the comparison at `positions` of the flattened gradient (all without them).

    `right`, `slack` and `wrong` have the gradient's shape, or one element for each position.
    """
    at = torch.arange(seen.numel(), device=seen.device) if positions is None else positions
    square = seen.dim() >= 2 and seen.shape[-1] == seen.shape[-2]
    return Beside(
        seen.flatten()[at],
        right.flatten(),
        slack.flatten(),
        wrong.flatten(),
        seen.mT.flatten()[at] if square else None,
        {name: spread for name, t in (tensors or {}).items() if (spread := _spread(t, seen, at)) is not None},
    )


def _spread(tensor: Tensor, like: Tensor, at: Tensor) -> Tensor | None:
    """Returns a tensor's elements where `like` has those at `at`, if the one can be broadcast to the other."""
    try:
        return tensor.to(like.dtype).expand(like.shape).flatten()[at]
    except RuntimeError:
        return None


def pattern(compared: Beside, shape: torch.Size, positions: Tensor | None = None) -> Pattern:
    """Returns what the error looks like; at least, how many elements are wrong, and the first of them."""
    wrong = compared.wrong
    first = int(wrong.int().argmax())
    place = unravelled(int(positions[first]) if positions is not None else first, shape)
    data: dict[str, object] = {
        "count": int(wrong.sum()),
        "total": wrong.numel(),
        "place": place,
        "seen": plain(compared.seen[first]),
        "right": plain(compared.right[first]),
    }
    if bool(compared.seen.isfinite().all() & compared.right.isfinite().all()):
        for recognise in (_zero, _factor, _transposed, _mask, _some, _tensor_factor, _term, _offset):
            for kind, more in recognise(compared):
                return Pattern(kind, {**data, **more}, place)
    return Pattern("elements", data, place)


Recognised = Iterator[tuple[str, Mapping[str, object]]]


def _zero(compared: Beside) -> Recognised:
    if bool((compared.seen == 0).all()):
        yield "zero", {}


def _factor(compared: Beside) -> Recognised:
    ratio = _ratio(compared)
    if ratio is not None and ratio != 1.0 and compared.fits(ratio * compared.right, ratio):
        yield ("sign", {}) if ratio == -1.0 else ("factor", {"factor": shown(ratio), "ratio": ratio})


def _transposed(compared: Beside) -> Recognised:
    if compared.turned is not None and bool(((compared.turned - compared.right).abs() <= compared.slack).all()):
        yield "transposed", {}


def _some(compared: Beside) -> Recognised:
    """A few elements that are wrong among many that are right say more than a formula that covers them all."""
    wrong, count = compared.wrong, int(compared.wrong.sum())
    if wrong.numel() == 1 or (count > 1 and 4 * count > wrong.numel()):
        return
    those = Beside(compared.seen[wrong], compared.right[wrong], compared.slack[wrong], wrong[wrong])
    ratio = _ratio(those)
    if ratio is not None and those.fits(ratio * those.right, ratio):
        one = "one-factor" if count == 1 else "some-factor"
        yield one, {"factor": shown(ratio), "ratio": ratio}
    else:
        yield "elements", {}


def _mask(compared: Beside) -> Recognised:
    """Some elements are zero that should not be, or the other way round; all others are right."""
    seen, right, slack = (t[compared.wrong] for t in (compared.seen, compared.right, compared.slack))
    if bool((right.abs() <= slack).all()):
        yield "unmasked", {}
    elif bool((seen == 0).all()):
        yield "masked", {}


def _offset(compared: Beside) -> Recognised:
    offset = (compared.seen - compared.right)[0]
    if compared.seen.numel() > 1 and compared.fits(compared.right + offset):
        number = simplest(float(offset), float(compared.slack.max())) if not offset.is_complex() else plain(offset)
        yield "offset", {"offset": number}


def _tensor_factor(compared: Beside) -> Recognised:
    """seen = c · right · t (t is too many), or right = c · seen · t (t is missing)."""
    for name, t in compared.tensors.items():
        if not _tells(compared, t):
            continue
        c = _constant(compared.seen, compared.right * t, compared.slack)
        if c is not None and compared.fits(c * compared.right * t, c * t):
            yield "superfluous", {"factor": _product(c, name)}
        c = _constant(compared.right, compared.seen * t, compared.slack)
        if c is not None and bool(((c * compared.seen * t - compared.right).abs() <= compared.slack).all()):
            yield "missing", {"factor": _product(c, name)}


def _term(compared: Beside) -> Recognised:
    """right = seen + c · t, where t is one of the tensors or the product of two."""
    lacking = compared.right - compared.seen
    names = list(compared.tensors)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i:]]
    terms = {n: compared.tensors[n] for n in names} | {
        f"{a}*{b}": compared.tensors[a] * compared.tensors[b] for a, b in pairs
    }
    for name, t in terms.items():
        if not _tells(compared, t):
            continue
        c = _constant(lacking, t, compared.slack)
        if c is not None and bool(((c * t - lacking).abs() <= compared.slack).all()):
            yield (
                ("term-missing", {"term": _product(c, name)}) if c > 0 else ("term-extra", {"term": _product(-c, name)})
            )


def _tells(compared: Beside, t: Tensor) -> bool:
    """Says whether enough elements tell `t` from a plain number."""
    used = t[compared.wrong & (t != 0)]
    return used.numel() >= LEAST_TELLING and not t.is_complex() and len(set(used.abs().tolist())) >= LEAST_TELLING


def _product(c: float, name: str) -> str:
    return name if c == 1.0 else f"{shown(c)}*{name}" if c != -1.0 else f"-{name}"


# -------------------------------------------------------------------------------------------------------- numbers


def _ratio(compared: Beside) -> float | None:
    """Returns seen / right as a plain number, read at the element that resolves it best."""
    if compared.seen.is_complex() or not bool(compared.seen.isfinite().all() & compared.right.isfinite().all()):
        return None
    return _quotient(compared.seen, compared.right, compared.slack)


def _quotient(above: Tensor, below: Tensor, slack: Tensor) -> float | None:
    """Returns above / below, the simplest number that the slack allows, at the element that resolves it best."""
    relative = torch.where(below != 0, slack / below.abs(), torch.inf)
    at = int(relative.argmin()) if relative.numel() else 0
    if not relative.numel() or not bool(relative[at].isfinite()):
        return None
    value = float(above[at] / below[at])
    return simplest(value, float(relative[at]) / 2 * max(abs(value), 1.0))


def _constant(above: Tensor, below: Tensor, slack: Tensor) -> float | None:
    """Returns above / below if it is a number such as people write into formulas."""
    quotient = _quotient(above, below, slack)
    return quotient if quotient is not None and quotient != 0.0 and _as_fraction(quotient) is not None else None


def simplest(value: float, slack: float) -> float:
    """Returns the simplest number within `slack` of `value`: a small fraction, else the one with the fewest digits."""
    for fraction in _fractions(value):
        if abs(float(fraction) - value) <= slack:
            return float(fraction)
    rounded: Callable[[int], float] = lambda digits: float(f"{value:.{digits}g}")  # noqa: E731  # a local shorthand
    return next((r for digits in range(1, 16) if abs((r := rounded(digits)) - value) <= slack), value)


def _fractions(value: float) -> Iterator[Fraction]:
    yield Fraction(value).limit_denominator(LARGEST_DENOMINATOR)
    if value != 0 and abs(1 / value) <= LARGEST_MEAN:
        yield Fraction(1, round(1 / value) or 1)


def _as_fraction(value: float) -> Fraction | None:
    near = (f for f in _fractions(value) if abs(float(f) - value) <= 1e-15 * abs(value))
    fraction = next(near, None)
    return (
        fraction
        if fraction is not None and (abs(fraction.numerator) <= LARGEST_DENOMINATOR or fraction.denominator == 1)
        else None
    )


def shown(factor: float) -> str:
    """Returns a number as a fraction if it is a simple one (1/3), else in decimals."""
    fraction = _as_fraction(factor)
    short = f"{factor:.7g}"
    if fraction is not None:
        return min(str(fraction), short if float(short) == factor else str(fraction), key=len)
    if float(short) == factor:
        return short
    beyond_one = abs(factor - 1.0)
    return f"{factor:.{max(6, 3 - math.floor(math.log10(beyond_one))) if beyond_one else 6}g}"
