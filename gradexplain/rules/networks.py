"""Operators of neural networks: softmax, normalisation, attention, dropout."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradexplain.mathematics.terms import NAMESPACE
from gradexplain.rules.entries import rule
from gradexplain.versions.releases import minor_release

_NUMPY: Mapping[str, Any] = NAMESPACE
_exp, _log, _log1p, _sigmoid, _abs = (_NUMPY[name] for name in ("exp", "log", "log1p", "sigmoid", "abs"))

# ----------------------------------------------------------------------------------------------------------- softmax
#
# pᵢ = exp(xᵢ) / Σⱼ exp(xⱼ) has ∂pⱼ/∂xᵢ = pⱼ (δᵢⱼ − pᵢ), so
#     x̄ᵢ = Σⱼ p̄ⱼ pⱼ (δᵢⱼ − pᵢ) = pᵢ (p̄ᵢ − Σⱼ p̄ⱼ pⱼ).
# ℓᵢ = log pᵢ has ∂ℓⱼ/∂xᵢ = δᵢⱼ − pᵢ, so x̄ᵢ = ℓ̄ᵢ − pᵢ Σⱼ ℓ̄ⱼ.


def _softmax_back(g: Tensor, y: Tensor, dim: int) -> Tensor:
    return y * (g - (g * y).sum(dim, keepdim=True))


def _softmax_terms(self: Any, dim: int) -> Any:
    raised = _exp(self)
    return raised / np.sum(raised, axis=dim, keepdims=True)


rule(
    "aten._softmax",
    "pᵢ = exp(xᵢ) / Σⱼ exp(xⱼ)",
    self=("x̄ᵢ = pᵢ (p̄ᵢ − Σⱼ p̄ⱼ pⱼ)", lambda g, y, dim: _softmax_back(g, y, dim)),
    terms=lambda self, dim: _softmax_terms(self, dim),
    example=lambda r: (r(2, 3), 1, False),
)
rule(
    "aten._safe_softmax",
    "pᵢ = exp(xᵢ) / Σⱼ exp(xⱼ), 0 where every x is −∞",
    self=("x̄ᵢ = pᵢ (p̄ᵢ − Σⱼ p̄ⱼ pⱼ)", lambda g, y, dim: _softmax_back(g, y, dim)),
    terms=lambda self, dim: _softmax_terms(self, dim),
    example=lambda r: (r(2, 3), 1),
)
rule(
    "aten._log_softmax",
    "yᵢ = xᵢ − log Σⱼ exp(xⱼ)",
    self=("x̄ᵢ = ȳᵢ − exp(yᵢ) Σⱼ ȳⱼ", lambda g, y, dim: g - y.exp() * g.sum(dim, keepdim=True)),
    terms=lambda self, dim: self - _log(np.sum(_exp(self), axis=dim, keepdims=True)),
    example=lambda r: (r(2, 3), 1, False),
)
rule(
    "aten.glu",
    "y = a · sigmoid(b), where x is a and b side by side",
    self=("ā = ȳ sigmoid(b),  b̄ = ȳ a sigmoid(b) (1 − sigmoid(b))", lambda g, self, dim: _glu_back(g, self, dim)),
    terms=lambda self, dim: np.split(self, 2, axis=dim)[0] * _sigmoid(np.split(self, 2, axis=dim)[1]),
    example=(lambda r: (r(2, 4),), lambda r: (r(4, 3), 0)),
)


def _glu_back(g: Tensor, self: Tensor, dim: int) -> Tensor:
    a, b = self.chunk(2, dim)
    s = b.sigmoid()
    return torch.cat([g * s, g * a * s * (1 - s)], dim)


# -------------------------------------------------------------------------------------------------- normalisation
#
# x̂ = (x − μ) r with r = 1/√(σ² + ε), and y = w x̂ + b. Let h = w ȳ be what arrives at x̂, and ⟨·⟩ the mean over the n
# elements that μ and σ² were taken over. Through x itself: h r. Through μ, which moves every x̂ by −r/n: −r⟨h⟩. Through
# σ²: from dr = −r³/2 dσ² and dσ² = 2 (xᵢ − μ)/n dxᵢ comes −r x̂ ⟨h x̂⟩. Together
#     x̄ = r (h − ⟨h⟩ − x̂ ⟨h x̂⟩),     w̄ = Σ ȳ x̂,     b̄ = Σ ȳ        (Ioffe and Szegedy 2015)


def _normalised_back(h: Tensor, hat: Tensor, r: Tensor, over: tuple[int, ...]) -> Tensor:
    return r * (h - h.mean(over, keepdim=True) - hat * (h * hat).mean(over, keepdim=True))


def _scaled(g: Tensor, weight: Tensor | None) -> Tensor:
    return g if weight is None else g * weight


def _leading(input: Tensor, normalized_shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(range(input.ndim - len(normalized_shape)))


def _layer_norm_back(g: Tensor, input: Tensor, shape: Sequence[int], weight: Any, mean: Tensor, r: Tensor) -> Tensor:
    over = tuple(range(input.ndim - len(shape), input.ndim))
    return _normalised_back(_scaled(g, weight), (input - mean) * r, r, over)


def _affine_terms(hat: Any, weight: Any, bias: Any) -> Any:
    scaled = hat if weight is None else hat * weight
    return scaled if bias is None else scaled + bias


rule(
    "aten.native_layer_norm",
    "x̂ = (x − μ) r with r = 1/√(σ² + ε),  y = w x̂ + b",
    input=(
        "x̄ = r (h − ⟨h⟩ − x̂ ⟨h x̂⟩) with h = w ȳ",
        lambda g, input, normalized_shape, weight, y1, y2: _layer_norm_back(
            g[0], input, normalized_shape, weight, y1, y2
        ),
    ),
    weight=(
        "w̄ = Σ ȳ x̂",
        lambda g, input, normalized_shape, y1, y2: _over(g[0] * (input - y1) * y2, _leading(input, normalized_shape)),
    ),
    bias=("b̄ = Σ ȳ", lambda g, input, normalized_shape: _over(g[0], _leading(input, normalized_shape))),
    terms=lambda input, weight, bias, y1, y2: (_affine_terms((input - y1) * y2, weight, bias), None, None),
    example=(
        lambda r: (r(2, 3, 4), [4], r(4), r(4), 1e-5),
        lambda r: (r(2, 3, 4), [3, 4], r(3, 4), r(3, 4), 1e-5),
        lambda r: (r(3, 4), [4], None, None, 1e-5),
    ),
)


def _over(g: Tensor, axes: tuple[int, ...]) -> Tensor:
    return g.sum(axes) if axes else g


def _by_channel(t: Tensor, like: Tensor) -> Tensor:
    """Gives one number a channel the shape that broadcasts over images (channels are axis 1)."""
    return t.reshape(1, -1, *[1] * (like.ndim - 2))


def but_channels(input: Tensor) -> tuple[int, ...]:
    return (0, *range(2, input.ndim))


def _batch_statistics(
    input: Tensor, running_mean: Any, running_var: Any, training: bool, eps: float, mean: Tensor, r: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns μ and r: those of the batch in training, else those that were kept."""
    if training:
        return _by_channel(mean, input), _by_channel(r, input)
    return _by_channel(running_mean, input), _by_channel(running_var + eps, input).rsqrt()


def _batch_norm_back(
    g: Any, input: Tensor, weight: Any, running_mean: Any, running_var: Any, training: bool, eps: float,
    y1: Tensor, y2: Tensor,
) -> Tensor:  # fmt: skip
    mean, r = _batch_statistics(input, running_mean, running_var, training, eps, y1, y2)
    h = g[0] if weight is None else g[0] * _by_channel(weight, input)
    return _normalised_back(h, (input - mean) * r, r, but_channels(input)) if training else h * r


def _batch_norm_weight(
    g: Any, input: Tensor, running_mean: Any, running_var: Any, training: bool, eps: float, y1: Tensor, y2: Tensor
) -> Tensor:
    mean, r = _batch_statistics(input, running_mean, running_var, training, eps, y1, y2)
    sent: Tensor = (g[0] * (input - mean) * r).sum(but_channels(input))
    return sent


_X_NORMALISED = "x̄ = r (h − ⟨h⟩ − x̂ ⟨h x̂⟩) with h = w ȳ; with kept statistics x̄ = r h"
_BY_CHANNEL = "x̂ = (x − μ) r with r = 1/√(σ² + ε) by channel,  y = w x̂ + b"
_BIAS = ("b̄ = Σ ȳ", lambda g, input: g[0].sum(but_channels(input)))


for _name, _examples in (
    (
        "native_batch_norm",
        (
            lambda r: (r(4, 2, 3), r(2), r(2), None, None, True, 0.1, 1e-5),
            lambda r: (r(4, 2, 3, 2), r(2), r(2), r(2), r.positive(2), False, 0.1, 1e-5),
            lambda r: (r(4, 3), None, None, None, None, True, 0.1, 1e-5),
        ),
    ),
    (
        "_native_batch_norm_legit",
        (
            lambda r: (r(4, 2, 3), r(2), r(2), r(2), r.positive(2), True, 0.1, 1e-5),
            lambda r: (r(4, 2, 3), r(2), r(2), r(2), r.positive(2), False, 0.1, 1e-5),
        ),
    ),
):
    rule(
        f"aten.{_name}",
        _BY_CHANNEL,
        input=(_X_NORMALISED, _batch_norm_back),
        weight=("w̄ = Σ ȳ x̂", _batch_norm_weight),
        bias=_BIAS,
        over="real",
        why="batch_norm",
        example=_examples,
    )


def _with_or_without_update(operator: str, training: bool) -> None:
    """Enters the rule of an operator that says by its name which statistics it takes: the batch's, or those kept."""

    def back(
        g: Any, input: Tensor, weight: Any, running_mean: Any, running_var: Any, eps: float, y1: Tensor, y2: Tensor
    ) -> Tensor:
        return _batch_norm_back(g, input, weight, running_mean, running_var, training, eps, y1, y2)

    def weighed(
        g: Any, input: Tensor, running_mean: Any, running_var: Any, eps: float, y1: Tensor, y2: Tensor
    ) -> Tensor:
        return _batch_norm_weight(g, input, running_mean, running_var, training, eps, y1, y2)

    rule(
        f"aten.{operator}",
        _BY_CHANNEL,
        input=(_X_NORMALISED, back),
        weight=("w̄ = Σ ȳ x̂", weighed),
        bias=_BIAS,
        over="real",
        why="batch_norm",
        example=lambda r: (r(4, 2, 3), r(2), r(2), r(2), r.positive(2), 0.1, 1e-5),
    )


_with_or_without_update("_batch_norm_with_update", True)
_with_or_without_update("_batch_norm_no_update", False)


def _group_norm_parts(input: Tensor, group: int, mean: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """Returns x̂ and r with the channels of a group and their pixels in one axis: (N, group, channels × pixels)."""
    grouped = input.reshape(input.shape[0], group, -1)
    return (grouped - mean.unsqueeze(-1)) * r.unsqueeze(-1), r.unsqueeze(-1)


def _group_norm_back(g: Any, input: Tensor, weight: Any, group: int, mean: Tensor, r: Tensor) -> Tensor:
    """Here μ and r are outputs with cotangents of their own: by the derivation above, μ̄/n and −r̄ r² x̂/n."""
    hat, scale = _group_norm_parts(input, group, mean, r)
    total = torch.zeros_like(hat)
    if g[0] is not None:
        h = g[0] if weight is None else g[0] * _by_channel(weight, input)
        total = total + _normalised_back(h.reshape(hat.shape), hat, scale, (2,))
    if g[1] is not None:
        total = total + g[1].unsqueeze(-1) / hat.shape[2]
    if g[2] is not None:
        total = total - g[2].unsqueeze(-1) * scale**2 * hat / hat.shape[2]
    return total.reshape(input.shape)


def _group_norm_weight(g: Tensor, input: Tensor, group: int, mean: Tensor, r: Tensor) -> Tensor:
    hat, _ = _group_norm_parts(input, group, mean, r)
    return (g * hat.reshape(input.shape)).sum(but_channels(input))


def _but_zeros(g: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if g is None else g


rule(
    "aten.native_group_norm",
    "x̂ = (x − μ) r with r = 1/√(σ² + ε) by group of channels,  y = w x̂ + b",
    input=(
        "x̄ = r (h − ⟨h⟩ − x̂ ⟨h x̂⟩) with h = w ȳ",
        lambda g, input, weight, group, y1, y2: _group_norm_back(g, input, weight, group, y1, y2),
    ),
    weight=(
        "w̄ = Σ ȳ x̂",
        lambda g, input, group, y0, y1, y2: _group_norm_weight(_but_zeros(g[0], y0), input, group, y1, y2),
    ),
    bias=("b̄ = Σ ȳ", lambda g, input, y0: _but_zeros(g[0], y0).sum(but_channels(input))),
    example=(
        lambda r: (r(2, 4, 3), r(4), r(4), 2, 4, 3, 2, 1e-5),
        lambda r: (r(2, 4, 3), None, None, 2, 4, 3, 2, 1e-5),
    ),
)

# w = s v / n with n = ‖v‖ over all axes but one, and dn = ⟨v, dv⟩/n (Salimans and Kingma 2016). Torch calls s "g",
# which is a cotangent here; s/n = ⟨w, v⟩/n².


def _but_one(v: Tensor, dim: int) -> tuple[int, ...]:
    return tuple(axis for axis in range(v.ndim) if axis != dim % v.ndim)


def _weight_norm_back(g: Any, v: Tensor, w: Tensor, n: Tensor, dim: int) -> Tensor:
    n = n.reshape([size if axis == dim % v.ndim else 1 for axis, size in enumerate(v.shape)])
    over, sent = _but_one(v, dim), torch.zeros_like(v)
    if g[0] is not None:
        scale = (w * v).sum(over, keepdim=True) / n**2
        sent = scale * (g[0] - v * (g[0] * v).sum(over, keepdim=True) / n**2)
    return sent if g[1] is None else sent + g[1].reshape(n.shape) * v / n


def _weight_norm_scale(g: Any, v: Tensor, n: Tensor, dim: int) -> Tensor:
    return torch.zeros_like(n) if g[0] is None else (g[0] * v).sum(_but_one(v, dim), keepdim=True).reshape(n.shape) / n


rule(
    "aten._weight_norm_interface",
    "w = s v / n with n = ‖v‖ over all axes but one",
    v=("v̄ = s/n (w̄ − v ⟨w̄, v⟩/n²)", lambda g, v, y0, y1, dim: _weight_norm_back(g, v, y0, y1, dim)),
    g=("s̄ = ⟨w̄, v⟩/n", lambda g, v, y1, dim: _weight_norm_scale(g, v, y1, dim)),
    over="real",
    example=(lambda r: (r(3, 4), r(3, 1)), lambda r: (r(3, 2, 4), r(1, 1, 4), 2)),
)

# ------------------------------------------------------------------------------------------------------ attention
#
# S = s Q Kᵀ + M,  P = softmax(S),  O = P V, for each head. Backwards through the three:
#     V̄ = Pᵀ Ō,   P̄ = Ō Vᵀ,   S̄ᵢⱼ = Pᵢⱼ (P̄ᵢⱼ − Σₖ P̄ᵢₖ Pᵢₖ),   Q̄ = s S̄ K,   K̄ = s S̄ᵀ Q     (Dao et al. 2022, appendix B)


def _attention(query: Tensor, key: Tensor, is_causal: bool, attn_mask: Any, scale: Any) -> tuple[Tensor, float]:
    """Returns P and s. A query that may look nowhere has no weights: its row of P is 0, as torch takes it."""
    s = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = s * query @ key.mT
    if is_causal:
        scores = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), -math.inf)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(-1).masked_fill(scores.isneginf().all(-1, keepdim=True), 0.0), s


def _scores_back(g: Tensor, P: Tensor, value: Tensor) -> Tensor:
    return _softmax_back(g @ value.mT, P, -1)


def _repeated(heads: Tensor, query: Tensor) -> Tensor:
    """Gives every head of the queries its own keys or values: with grouped heads, neighbours share one."""
    return heads.repeat_interleave(query.shape[1] // heads.shape[1], 1)


def _gathered(g: Tensor, heads: Tensor) -> Tensor:
    """Adds up what arrives at the heads that share one."""
    return g.reshape(g.shape[0], heads.shape[1], -1, *g.shape[2:]).sum(2)


def _query_back(g: Tensor, query: Tensor, key: Tensor, value: Tensor, causal: bool, mask: Any, scale: Any) -> Tensor:
    key, value = _repeated(key, query), _repeated(value, query)
    P, s = _attention(query, key, causal, mask, scale)
    return s * _scores_back(g, P, value) @ key


def _key_back(g: Tensor, query: Tensor, key: Tensor, value: Tensor, causal: bool, mask: Any, scale: Any) -> Tensor:
    P, s = _attention(query, _repeated(key, query), causal, mask, scale)
    return _gathered(s * _scores_back(g, P, _repeated(value, query)).mT @ query, key)


def _value_back(g: Tensor, query: Tensor, key: Tensor, value: Tensor, causal: bool, mask: Any, scale: Any) -> Tensor:
    P, _ = _attention(query, _repeated(key, query), causal, mask, scale)
    return _gathered(P.mT @ g, value)


# On torch 2.8 this kernel's backward writes beyond its memory where the heads are grouped.
_GROUPED_HEADS = (
    (lambda r: (r(2, 4, 3, 2), r(2, 2, 4, 2), r(2, 2, 4, 2)),) if minor_release(torch.__version__) >= (2, 9) else ()
)

rule(
    "aten._scaled_dot_product_flash_attention_for_cpu",
    "S = s Q Kᵀ + M,  P = softmax(S),  O = P V",
    query=(
        "Q̄ = s S̄ K with S̄ᵢⱼ = Pᵢⱼ (P̄ᵢⱼ − Σₖ P̄ᵢₖ Pᵢₖ) and P̄ = Ō Vᵀ",
        lambda g, query, key, value, is_causal, attn_mask, scale: _query_back(
            g[0], query, key, value, is_causal, attn_mask, scale
        ),
    ),
    key=(
        "K̄ = s S̄ᵀ Q",
        lambda g, query, key, value, is_causal, attn_mask, scale: _key_back(
            g[0], query, key, value, is_causal, attn_mask, scale
        ),
    ),
    value=(
        "V̄ = Pᵀ Ō",
        lambda g, query, key, value, is_causal, attn_mask, scale: _value_back(
            g[0], query, key, value, is_causal, attn_mask, scale
        ),
    ),
    example=(
        lambda r: (r(1, 2, 3, 2), r(1, 2, 4, 2), r(1, 2, 4, 2)),
        lambda r: (r(1, 2, 4, 2), r(1, 2, 4, 2), r(1, 2, 4, 2), 0.0, True, {"scale": 0.7}),
        lambda r: (r(1, 1, 3, 2), r(1, 1, 4, 2), r(1, 1, 4, 2), {"attn_mask": r(1, 1, 3, 4)}),
        *_GROUPED_HEADS,
    ),
)

# ------------------------------------------------------------------------------------------- derivatives of derivatives
#
# What the backward passes of softmax and dropout run is differentiated where a second derivative is asked for.

rule(
    "aten._softmax_backward_data",
    "zᵢ = pᵢ (gᵢ − Σⱼ gⱼ pⱼ)",
    grad_output=("ḡᵢ = pᵢ (z̄ᵢ − Σⱼ z̄ⱼ pⱼ)", lambda g, output, dim: _softmax_back(g, output, dim)),
    output=(
        "p̄ᵢ = z̄ᵢ (gᵢ − Σⱼ gⱼ pⱼ) − gᵢ Σⱼ z̄ⱼ pⱼ",
        lambda g, grad_output, output, dim: (
            g * (grad_output - (grad_output * output).sum(dim, keepdim=True))
            - grad_output * (g * output).sum(dim, keepdim=True)
        ),
    ),
    terms=lambda grad_output, output, dim: (
        output * (grad_output - np.sum(grad_output * output, axis=dim, keepdims=True))
    ),
    over="real",
    example=lambda r: (r(2, 3), r(2, 3), 1, torch.float64),
)
rule(
    "aten._log_softmax_backward_data",
    "zᵢ = gᵢ − exp(yᵢ) Σⱼ gⱼ",
    grad_output=(
        "ḡᵢ = z̄ᵢ − Σⱼ z̄ⱼ exp(yⱼ)",
        lambda g, output, dim: g - (g * output.exp()).sum(dim, keepdim=True),
    ),
    output=(
        "ȳᵢ = −z̄ᵢ exp(yᵢ) Σⱼ gⱼ",
        lambda g, grad_output, output, dim: -g * output.exp() * grad_output.sum(dim, keepdim=True),
    ),
    terms=lambda grad_output, output, dim: grad_output - _exp(output) * np.sum(grad_output, axis=dim, keepdims=True),
    over="real",
    example=lambda r: (r(2, 3), r(2, 3), 1, torch.float64),
)
rule(
    "aten.native_dropout_backward",
    "z = g m s",
    grad_output=("ḡ = z̄ m s", lambda g, mask, scale: g * mask * scale),
    terms=lambda grad_output, mask, scale: grad_output * mask.astype(float) * scale,
    over="real",
    example=lambda r: (r(2, 3), r.mask(2, 3), 1.7),
)

# --------------------------------------------------------------------------------------------------------- dropout

rule(
    "aten.native_dropout",
    "y = x m / (1 − p), the mask m is 0 with probability p, else 1",
    input=("x̄ = ȳ m / (1 − p)", lambda g, y1, p, train: _dropout_back(g[0], y1, p, train)),
    why="dropout",
    example=(lambda r: (r(3, 4), 0.4, True), lambda r: (r(3, 4), 0.4, False)),
)


def _dropout_back(g: Tensor, mask: Tensor, p: float, train: bool | None) -> Tensor:
    """Without training, p is not used; with p = 1 the mask is 0 everywhere."""
    return g if not train else g * mask / (1 - p if p < 1 else 1)
