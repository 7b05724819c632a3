"""Losses and distances: a number for each element or row, then their sum or mean."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradexplain.mathematics.terms import NAMESPACE, Constant, Term
from gradexplain.rules.application import summed_to
from gradexplain.rules.entries import rule
from gradexplain.rules.reductions import are_norms, cancel, is_whole, norm_slopes, signs

_NUMPY: Mapping[str, Any] = NAMESPACE
_exp, _log, _log1p, _sigmoid, _abs = (_NUMPY[name] for name in ("exp", "log", "log1p", "sigmoid", "abs"))

# ---------------------------------------------------------------------------------------------------------- losses

_NONE, _MEAN, _SUM = 0, 1, 2


def _each(g: Tensor, like: Tensor, reduction: int) -> Tensor:
    """Returns what arrives at each element of an elementwise loss: with the mean, ȳ / n."""
    return g / like.numel() if reduction == _MEAN else g


def _reduced(elements: Any, reduction: int) -> Any:
    if reduction == _NONE:
        return elements
    total = np.sum(elements)
    return total / np.size(elements) if reduction == _MEAN else total


_REDUCTIONS = (
    lambda r: (r(2, 3), r(2, 3)),
    lambda r: (r(2, 3), r(2, 3), _NONE),
    lambda r: (r(2, 3), r(2, 3), _SUM),
)
_MEAN_WORDS = "; the mean over n elements divides by n"

rule(
    "aten.mse_loss",
    "ℓᵢ = (xᵢ − tᵢ)²" + _MEAN_WORDS,
    self=(
        "x̄ᵢ = 2 ℓ̄ᵢ (xᵢ − tᵢ)",
        lambda g, self, target, reduction: 2 * _each(g, self, reduction) * (self - target),
    ),
    target=(
        "t̄ᵢ = −2 ℓ̄ᵢ (xᵢ − tᵢ)",
        lambda g, self, target, reduction: -2 * _each(g, self, reduction) * (self - target),
    ),
    terms=lambda self, target, reduction: _reduced((self - target) ** 2, reduction),
    example=_REDUCTIONS,
)


def _distances(self: Any, target: Any) -> Any:
    """Returns |x − t| as numbers, to choose the branch that a loss takes."""
    return np.vectorize(lambda x, t: abs(x.value - t.value), otypes=[float])(self, target)


def _smooth_l1(d: Tensor, beta: float, side: Any) -> Tensor:
    """Returns the slopes by d; with β = 0 there is a kink at 0."""
    return torch.where(d.abs() < beta, d / beta, signs(d, side))


rule(
    "aten.smooth_l1_loss",
    "d = xᵢ − tᵢ,  ℓᵢ = d²/(2β) if |d| < β else |d| − β/2" + _MEAN_WORDS,
    self=(
        "x̄ᵢ = ℓ̄ᵢ (d/β if |d| < β else sign d)",
        lambda g, self, target, reduction, beta, side: (
            _each(g, self, reduction) * _smooth_l1(self - target, beta, side)
        ),
    ),
    target=(
        "t̄ᵢ = −x̄ᵢ",
        lambda g, self, target, reduction, beta, side: (
            _each(g, self, reduction) * _smooth_l1(target - self, beta, side)
        ),
    ),
    together=lambda slopes, opposite: cancel(slopes, opposite),
    why="kink_piece",
    terms=lambda self, target, reduction, beta: _reduced(
        np.where(_distances(self, target) < beta, (self - target) ** 2 / (2 * beta), _abs(self - target) - beta / 2),
        reduction,
    ),
    example=(*_REDUCTIONS, lambda r: (r(2, 3), r(2, 3), _MEAN, 0.7)),
)


def _huber(self: Tensor, target: Tensor, delta: float) -> Tensor:
    return (self - target).clamp(-delta, delta)


rule(
    "aten.huber_loss",
    "d = xᵢ − tᵢ,  ℓᵢ = d²/2 if |d| ≤ δ else δ (|d| − δ/2)" + _MEAN_WORDS,
    self=(
        "x̄ᵢ = ℓ̄ᵢ (d, cut to −δ … δ)",
        lambda g, self, target, reduction, delta: _each(g, self, reduction) * _huber(self, target, delta),
    ),
    target=(
        "t̄ᵢ = −x̄ᵢ",
        lambda g, self, target, reduction, delta: -_each(g, self, reduction) * _huber(self, target, delta),
    ),
    terms=lambda self, target, reduction, delta: _reduced(
        np.where(
            _distances(self, target) <= delta, (self - target) ** 2 / 2, delta * (_abs(self - target) - delta / 2)
        ),
        reduction,
    ),
    example=(*_REDUCTIONS, lambda r: (r(2, 3), r(2, 3), _MEAN, 0.7)),
)
rule(
    "aten.soft_margin_loss",
    "ℓᵢ = log(1 + exp(−tᵢ xᵢ))" + _MEAN_WORDS,
    self=(
        "x̄ᵢ = −ℓ̄ᵢ tᵢ sigmoid(−tᵢ xᵢ)",
        lambda g, self, target, reduction: -_each(g, self, reduction) * target * (-target * self).sigmoid(),
    ),
    terms=lambda self, target, reduction: _reduced(_log1p(_exp(-target * self)), reduction),
    example=(lambda r: (r(2, 3), r(2, 3).sign()), lambda r: (r(2, 3), r(2, 3).sign(), _SUM)),
)


def _weighed(g: Tensor, weight: Tensor | None, like: Tensor, reduction: int) -> Tensor:
    g = _each(g, like, reduction)
    return g if weight is None else g * weight


def _bce_slopes(x: Tensor, t: Tensor, side: Any) -> Tensor:
    """Returns the slopes of −t log x − (1 − t) log(1 − x), where 0 log 0 is 0; beyond 0 and 1 there are none.

    Many are infinite at 0 and at 1, where the middle is then 0.
    """
    inside = torch.where(t == 1, 0, (1 - t) / (1 - x)) - torch.where(t == 0, 0, t / x)
    side = torch.as_tensor(side, dtype=x.dtype, device=x.device)
    part = torch.where(x == 0, (1 + side) / 2, torch.where(x == 1, (1 - side) / 2, 1))
    return torch.where((part == 0) | (inside.isinf() & (side == 0)), 0, part * inside)


_BCE = (
    lambda r: (r.between(0.1, 0.9, 2, 3), r.between(0.1, 0.9, 2, 3)),
    lambda r: (r.between(0.1, 0.9, 2, 3), r.between(0.1, 0.9, 2, 3), r.positive(3), _NONE),
    lambda r: (r.between(0.1, 0.9, 2, 3), r.between(0.1, 0.9, 2, 3), None, _SUM),
)
rule(
    "aten.binary_cross_entropy",
    "ℓᵢ = −w (tᵢ log xᵢ + (1 − tᵢ) log(1 − xᵢ))" + _MEAN_WORDS,
    self=(
        "x̄ᵢ = ℓ̄ᵢ w (xᵢ − tᵢ) / (xᵢ (1 − xᵢ))",
        lambda g, self, target, weight, reduction, side: (
            _weighed(g, weight, self, reduction) * _bce_slopes(self, target, side)
        ),
    ),
    target=(
        "t̄ᵢ = ℓ̄ᵢ w (log(1 − xᵢ) − log xᵢ)",
        lambda g, self, target, weight, reduction: (
            _weighed(g, weight, self, reduction) * ((1 - self).log().clamp(min=-100) - self.log().clamp(min=-100))
        ),
    ),
    terms=lambda self, target, weight, reduction: _reduced(
        _weigh(-(target * _log(self) + (1 - target) * _log(1 - self)), weight), reduction
    ),
    why="bce_clamped",
    example=_BCE,
)


def _weigh(elements: Any, weight: Any) -> Any:
    return elements if weight is None else weight * elements


def _logits_back(self: Tensor, target: Tensor, pos_weight: Tensor | None) -> Tensor:
    """ℓ = (1 − t) x + (1 + (p − 1) t) log(1 + exp(−x)), and log(1 + exp(−x)) has the derivative −sigmoid(−x)."""
    positive = 1 if pos_weight is None else 1 + (pos_weight - 1) * target
    return (1 - target) - positive * (-self).sigmoid()


def _logits_target(self: Tensor, pos_weight: Tensor | None) -> Tensor:
    return -self if pos_weight is None else -self - (pos_weight - 1) * torch.nn.functional.logsigmoid(self)


def _logits_terms(self: Any, target: Any, weight: Any, pos_weight: Any, reduction: int) -> Any:
    positive = 1 if pos_weight is None else 1 + (pos_weight - 1) * target
    return _reduced(_weigh((1 - target) * self + positive * _log1p(_exp(-self)), weight), reduction)


rule(
    "aten.binary_cross_entropy_with_logits",
    "ℓᵢ = w ((1 − tᵢ) xᵢ + (1 + (p − 1) tᵢ) log(1 + exp(−xᵢ)))" + _MEAN_WORDS,
    self=(
        "x̄ᵢ = ℓ̄ᵢ w (sigmoid(xᵢ) − tᵢ), with p = 1",
        lambda g, self, target, weight, pos_weight, reduction: (
            _weighed(g, weight, self, reduction) * _logits_back(self, target, pos_weight)
        ),
    ),
    target=(
        "t̄ᵢ = −ℓ̄ᵢ w xᵢ, with p = 1",
        lambda g, self, target, weight, pos_weight, reduction: (
            _weighed(g, weight, self, reduction) * _logits_target(self, pos_weight)
        ),
    ),
    terms=_logits_terms,
    example=(
        lambda r: (r(2, 3), r.between(0.0, 1.0, 2, 3)),
        lambda r: (r(2, 3), r.between(0.0, 1.0, 2, 3), r.positive(3), None, _NONE),
        lambda r: (r(2, 3), r.between(0.0, 1.0, 2, 3), None, r.positive(3), _SUM),
    ),
)


def _class_weights(target: Tensor, weight: Tensor | None, ignored: int, like: Tensor) -> Tensor:
    """Returns the weight of each target: that of its class, 0 for an ignored one."""
    safe = target.clamp(min=0)
    chosen = torch.ones_like(target, dtype=like.dtype) if weight is None else weight[safe]
    return torch.where(target == ignored, 0, chosen)


def _nll_back(g: Tensor, self: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignored: int) -> Tensor:
    weights = _class_weights(target, weight, ignored, self)
    each = g / weights.sum() if reduction == _MEAN else g
    axis = 1 if self.ndim > 1 else 0
    sent = (-each * weights).expand(target.shape).unsqueeze(axis)
    index = torch.where(target == ignored, 0, target).unsqueeze(axis)
    return sent.new_zeros(self.shape).scatter_add(axis, index, sent.reshape(index.shape))


def _nll_terms(self: Any, target: Any, weight: Any, reduction: int, ignore_index: int) -> Any:
    if self.ndim != 2:
        return None
    rows = [
        (Constant(0.0), Constant(0.0)) if t == ignore_index else _nll_row(self[n, t], weight, t)
        for n, t in enumerate(target)
    ]
    if reduction == _NONE:
        return np.array([loss for loss, _ in rows], dtype=object), None
    total: Any = sum((loss for loss, _ in rows[1:]), rows[0][0])
    if reduction == _SUM:
        return total, None
    counted: Any = sum((share for _, share in rows[1:]), rows[0][1])
    return total / counted, None


def _nll_row(x: Term, weight: Any, t: int) -> tuple[Term, Term]:
    return (-x, Constant(1.0)) if weight is None else (-(x * weight[t]), weight[t])


_NLL = "ℓₙ = −w[tₙ] x[n, tₙ]; the mean divides by Σ w[tₙ]"
_NLL_BACK = "x̄[n, tₙ] = −ℓ̄ₙ w[tₙ], 0 elsewhere"
rule(
    "aten.nll_loss_forward",
    _NLL,
    self=(
        _NLL_BACK,
        lambda g, self, target, weight, reduction, ignore_index: _nll_back(
            g[0], self, target, weight, reduction, ignore_index
        ),
    ),
    terms=_nll_terms,
    why="ignore_index",
    example=(
        lambda r: (r(4, 3), r.ints(3, 4), None, _MEAN, -100),
        lambda r: (r(4, 3), torch.tensor([0, 2, 1, 2]), r.positive(3), _MEAN, 1),
        lambda r: (r(4, 3), r.ints(3, 4), r.positive(3), _NONE, -100),
    ),
)
rule(
    "aten.nll_loss2d_forward",
    _NLL,
    self=(
        _NLL_BACK,
        lambda g, self, target, weight, reduction, ignore_index: _nll_back(
            g[0], self, target, weight, reduction, ignore_index
        ),
    ),
    why="ignore_index",
    example=(
        lambda r: (r(2, 3, 2, 2), r.ints(3, 2, 2, 2), r.positive(3), _MEAN, -100),
        lambda r: (r(2, 3, 2, 2), r.ints(3, 2, 2, 2), None, _NONE, 1),
    ),
)


def _margins(self: Tensor, target: Tensor, p: float, margin: float, weight: Tensor | None, side: Any) -> Tensor:
    """Returns ∂ℓₙ/∂xₙⱼ of ℓₙ = w[tₙ] Σⱼ≠ₜ max(0, margin − x[t] + x[j])ᵖ / C, for rows of x.

    With p = 1, a margin that is met exactly is a kink. What moves x[t] to the left moves every margin to the right.
    """
    at = target[:, None]
    gap = margin - self.gather(1, at) + self
    own = torch.zeros_like(self).scatter(1, at, 1)
    scale = (1 - own) * (1 if p == 1 else 2 * gap) / self.shape[1] * (1 if weight is None else weight[at])
    moved, held = (scale * torch.where(gap == 0, (1 + s) / 2, (gap > 0).to(gap)) for s in (side, _seen_from_t(side)))
    return moved - own * held.sum(1, keepdim=True)


def _seen_from_t(side: Any) -> Any:
    """A number means one side for every element; a tensor has the measured side of each margin already."""
    return side if isinstance(side, Tensor) else -side


def _multi_margin_back(
    g: Tensor, self: Tensor, target: Tensor, p: float, margin: float, weight: Tensor | None, reduction: int, side: Any
) -> Tensor:
    rows = self.reshape(-1, self.shape[-1] if self.ndim else 1)
    each = g / rows.shape[0] if reduction == _MEAN else g
    side = side.reshape(rows.shape) if isinstance(side, Tensor) else side
    slopes = _margins(rows, target.reshape(-1), p, margin, weight, side)
    return (each.reshape(-1, 1) * slopes).reshape(self.shape)


def _are_margins(slopes: Tensor) -> Tensor:
    """Says whether slopes are possible together: a number added to all of a row changes no margin."""
    return is_whole(slopes, 0, -1)


rule(
    "aten.multi_margin_loss",
    "ℓ = w[t] Σⱼ≠ₜ max(0, m − x[t] + x[j])ᵖ / C",
    self=(
        "x̄[j] = ℓ̄ w[t] p max(0, m − x[t] + x[j])ᵖ⁻¹ / C where that is > 0;  x̄[t] = −Σⱼ≠ₜ x̄[j]",
        lambda g, self, target, p, margin, weight, reduction, side: _multi_margin_back(
            g, self, target, p, margin, weight, reduction, side
        ),
    ),
    together=_are_margins,
    why="kink_hinge",
    example=(
        lambda r: (r(3, 4), r.ints(4, 3)),
        lambda r: (r(3, 4), r.ints(4, 3), 2, 0.7, r.positive(4), _NONE),
    ),
)


def _multilabel_back(g: Tensor, self: Tensor, target: Tensor, reduction: int) -> Tensor:
    """Of a row of targets those before the first −1 count."""
    rows, aims = (
        self.reshape(-1, self.shape[-1] if self.ndim else 1),
        target.reshape(-1, target.shape[-1] if target.ndim else 1),
    )
    counted = (aims >= 0).cumprod(1).bool()
    each = (g / rows.shape[0] if reduction == _MEAN else g).reshape(-1, 1).expand(rows.shape[0], 1)
    among = torch.zeros_like(rows).scatter_add(1, aims.clamp(min=0), counted.to(rows)) > 0
    wanted = rows.gather(1, aims.clamp(min=0))
    short = ((1 - wanted[:, :, None] + rows[:, None] > 0) & counted[:, :, None] & ~among[:, None]).to(rows)
    slopes = short.sum(1).scatter_add(1, aims.clamp(min=0), -short.sum(2))
    return (each * slopes / rows.shape[1]).reshape(self.shape)


rule(
    "aten.multilabel_margin_loss_forward",
    "ℓ = Σₜ Σⱼ max(0, 1 − x[t] + x[j]) / C over the targets t and the other classes j",
    self=(
        "x̄[j] = ℓ̄ / C for each t with 1 − x[t] + x[j] > 0;  x̄[t] = −ℓ̄ / C for each such j",
        lambda g, self, target, reduction: _multilabel_back(g[0], self, target, reduction),
    ),
    over="real",
    why="kink_hinge",
    example=(
        lambda r: (r(3, 4), torch.tensor([[2, 0, -1, 1], [3, -1, 0, 0], [1, 2, 3, -1]]), _MEAN),
        lambda r: (r(3, 4), torch.tensor([[2, 0, -1, 1], [-1, 3, 0, 0], [1, 2, 3, -1]]), _NONE),
    ),
)

# ------------------------------------------------------------------------------- connectionist temporal classification
#
# The loss is −log of the sum, over all ways to spell the target with blanks between and repetitions, of the product of
# the pₜ[s] on the way. So ∂ℓ/∂(log pₜ[c]) = −γₜ[c], the share of the ways that have c at time t. With the target as
# z = ␣ z₁ ␣ z₂ … ␣, αₜ[s] sums over the ways that come to z[s] at time t, βₜ[s] over those from there on:
#     αₜ[s] = pₜ[z[s]] (αₜ₋₁[s] + αₜ₋₁[s−1] + αₜ₋₁[s−2] if z[s] is no blank and not z[s−2]),
# β is the same from the end, and γₜ[c] = Σ over s with z[s] = c of αₜ[s] βₜ[s] / pₜ[c] / Σ (Graves et al. 2006).
#
# Torch takes log p for what a log_softmax made, and another one changes nothing of that: its gradient is the one of the
# loss of log_softmax(log p), where of ȳ = −γ comes ȳ − p Σ ȳ = p − γ. A log_softmax before it makes the same of both.


def _come_to(log_p: Tensor, z: Tensor, blank: int) -> Tensor:
    """Returns log α of one sequence, (times, states); `log_p` is (times, classes)."""
    read = log_p[:, z]
    skips = torch.zeros_like(z, dtype=torch.bool)
    skips[2:] = (z[2:] != blank) & (z[2:] != z[:-2])
    never = read.new_full((2,), -math.inf)
    alpha = read.new_full((len(z),), -math.inf)
    alpha[:2] = read[0, :2]
    found = [alpha]
    for now in read[1:]:
        padded = torch.cat([never, alpha])
        two = torch.where(skips, padded[:-2], -math.inf)
        alpha = now + torch.stack([alpha, padded[1:-1], two]).logsumexp(0)
        found.append(alpha)
    return torch.stack(found)


def _shares(log_p: Tensor, labels: Tensor, blank: int) -> Tensor:
    """Returns γ of one sequence, (times, classes); nan where no way spells the target."""
    z = labels.new_full((2 * len(labels) + 1,), blank)
    z[1::2] = labels
    alpha = _come_to(log_p, z, blank)
    beta = _come_to(log_p.flip(0), z.flip(0), blank).flip(0, 1)
    joint = alpha + beta - log_p[:, z]
    joint = torch.where(alpha.isneginf() | beta.isneginf(), -math.inf, joint)
    ways = alpha[-1, -2:].logsumexp(0)
    return torch.zeros_like(log_p).index_add(1, z, (joint - ways).exp())


def _ctc_back(
    g: Any, log_probs: Tensor, targets: Tensor, input_lengths: Any, target_lengths: Any, blank: int, zero_infinity: bool
) -> Tensor:
    times, spelled = ([int(n) for n in lengths] for lengths in (input_lengths, target_lengths))
    sent, start = torch.zeros_like(log_probs), 0
    for n, (time, length) in enumerate(zip(times, spelled, strict=True)):
        labels = targets[n, :length] if targets.ndim == 2 else targets[start : start + length]
        start += length
        log_p = log_probs[:time, n]
        missed = log_p.exp() - _shares(log_p, labels.long(), blank)
        if zero_infinity:
            missed = torch.where(missed.isfinite(), missed, 0)
        sent[:time, n] = g[0][n] * missed
    return sent


def _log_p(r: Any, times: int, classes: int) -> Tensor:
    drawn: Tensor = r(times, 2, classes)
    return drawn.log_softmax(-1)


def _ctc(operator: str, lengths: Any) -> None:
    """Enters the rule of an operator that takes its lengths as a list, or as a tensor."""
    rule(
        f"aten.{operator}",
        "ℓ = −log Σ Πₜ pₜ[way(t)] over the ways to spell the target",
        log_probs=("x̄ₜ[c] = ℓ̄ (pₜ[c] − γₜ[c]), γ the share of the ways that have c at time t", _ctc_back),
        over="real",
        why="ctc",
        example=(
            lambda r: (_log_p(r, 5, 4), torch.tensor([[1, 2, 2], [3, 1, 0]]), lengths([5, 4]), lengths([3, 2])),
            lambda r: (_log_p(r, 4, 3), torch.tensor([0, 1, 0]), lengths([4, 3]), lengths([1, 2]), 2),
        ),
    )


_ctc("_ctc_loss", list)
_ctc("_ctc_loss.Tensor", torch.tensor)

# ------------------------------------------------------------------------------------------------------- distances


def _cdist_back(g: Tensor, a: Tensor, b: Tensor, y: Tensor, p: float, side: Any) -> Tensor:
    """Returns Σⱼ ȳᵢⱼ ∂yᵢⱼ/∂aᵢ: a norm of aᵢ − bⱼ for each pair."""
    d = a.unsqueeze(-2) - b.unsqueeze(-3)
    if isinstance(side, Tensor):
        side = side.reshape(d.shape)
    return summed_to((g.unsqueeze(-1) * norm_slopes(d, y.unsqueeze(-1), p, -1, side)).sum(-2), a.shape)


def _pairs(x1: Tensor, x2: Tensor) -> dict[str, Tensor]:
    """Returns each pair of points as a batch of its own: two tensors (…, P, R, 1, M)."""
    first, second = x1.unsqueeze(-2).unsqueeze(-2), x2.unsqueeze(-2).unsqueeze(-4)
    return dict(zip(("x1", "x2"), torch.broadcast_tensors(first, second), strict=True))


def _are_distances(
    slopes: Tensor, opposite: Tensor, argument: str, x1: Tensor, x2: Tensor, y: Tensor, p: float
) -> Tensor:
    return are_norms(slopes, x1 - x2 if argument == "x1" else x2 - x1, y, p, -1) & cancel(slopes, opposite)


rule(
    "aten._cdist_forward",
    "yᵢⱼ = ‖aᵢ − bⱼ‖ₚ",
    x1=(
        "āᵢ = Σⱼ ȳᵢⱼ sign(aᵢ − bⱼ) (|aᵢ − bⱼ| / yᵢⱼ)ᵖ⁻¹",
        lambda g, x1, x2, y, p, side: _cdist_back(g, x1, x2, y, p, side),
    ),
    x2=(
        "b̄ⱼ = −Σᵢ ȳᵢⱼ sign(aᵢ − bⱼ) (|aᵢ − bⱼ| / yᵢⱼ)ᵖ⁻¹",
        lambda g, x1, x2, y, p, side: _cdist_back(g.mT, x2, x1, y.mT, p, _turned(side)),
    ),
    together=_are_distances,
    apart=_pairs,
    why="norm_at_zero",
    example=(
        lambda r: (r(3, 2), r(4, 2), 2.0, None),
        lambda r: (r(3, 2), r(4, 2), 3.0, None),
        lambda r: (r(3, 2), r(4, 2), 1.0, None),
        lambda r: (r(3, 2), r(4, 2), math.inf, None),
    ),
)
rule(
    "aten._euclidean_dist",
    "yᵢⱼ = ‖aᵢ − bⱼ‖",
    x1=("āᵢ = Σⱼ ȳᵢⱼ (aᵢ − bⱼ) / yᵢⱼ", lambda g, x1, x2, y, side: _cdist_back(g, x1, x2, y, 2, side)),
    x2=("b̄ⱼ = −Σᵢ ȳᵢⱼ (aᵢ − bⱼ) / yᵢⱼ", lambda g, x1, x2, y, side: _cdist_back(g.mT, x2, x1, y.mT, 2, _turned(side))),
    together=lambda slopes, opposite, argument, x1, x2, y: _are_distances(slopes, opposite, argument, x1, x2, y, 2),
    apart=_pairs,
    why="norm_at_zero",
    example=lambda r: (r(3, 2), r(4, 2)),
)


def _turned(side: Any) -> Any:
    """Returns the sides of the pairs (i, j) as those of the pairs (j, i)."""
    return side.transpose(-4, -3) if isinstance(side, Tensor) else side


def _pdist_back(g: Tensor, self: Tensor, y: Tensor, p: float, side: Any) -> Tensor:
    """The distances of the pairs i < j, in order."""
    i, j = torch.triu_indices(len(self), len(self), 1, device=self.device)
    sent = g[:, None] * norm_slopes(self[i] - self[j], y[:, None], p, -1, side)
    return torch.zeros_like(self).index_add(0, i, sent).index_add(0, j, -sent)


rule(
    "aten._pdist_forward",
    "y = ‖xᵢ − xⱼ‖ₚ for the pairs i < j",
    self=(
        "x̄ᵢ = Σⱼ ȳᵢⱼ sign(xᵢ − xⱼ) (|xᵢ − xⱼ| / yᵢⱼ)ᵖ⁻¹",
        lambda g, self, y, p: _pdist_back(g, self, y, p, 0),
    ),
    over="real",
    why="norm_at_zero",
    example=(lambda r: (r(4, 2), 2.0), lambda r: (r(4, 3), 1.0), lambda r: (r(4, 3), 3.0)),
)
