"""Operators of neural networks: softmax, normalisation, convolution, pooling, attention, losses."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradexplain.rules import rule
from gradexplain.rules.application import summed_to
from gradexplain.terms import NAMESPACE, Constant, Term

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


def _but_channels(input: Tensor) -> tuple[int, ...]:
    return (0, *range(2, input.ndim))


def _batch_statistics(
    input: Tensor, running_mean: Any, running_var: Any, training: bool, eps: float, mean: Tensor, r: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns μ and r: those of the batch in training, else those that were kept."""
    if training:
        return _by_channel(mean, input), _by_channel(r, input)
    return _by_channel(running_mean, input), _by_channel(running_var + eps, input).rsqrt()


def _batch_norm_back(
    g: Tensor, input: Tensor, weight: Any, running_mean: Any, running_var: Any, training: bool, eps: float,
    y1: Tensor, y2: Tensor,
) -> Tensor:  # fmt: skip
    mean, r = _batch_statistics(input, running_mean, running_var, training, eps, y1, y2)
    h = g if weight is None else g * _by_channel(weight, input)
    return _normalised_back(h, (input - mean) * r, r, _but_channels(input)) if training else h * r


def _batch_norm_weight(
    g: Tensor, input: Tensor, running_mean: Any, running_var: Any, training: bool, eps: float, y1: Tensor, y2: Tensor
) -> Tensor:
    mean, r = _batch_statistics(input, running_mean, running_var, training, eps, y1, y2)
    return (g * (input - mean) * r).sum(_but_channels(input))


rule(
    "aten.native_batch_norm",
    "x̂ = (x − μ) r with r = 1/√(σ² + ε) by channel,  y = w x̂ + b",
    input=(
        "x̄ = r (h − ⟨h⟩ − x̂ ⟨h x̂⟩) with h = w ȳ; with kept statistics x̄ = r h",
        lambda g, input, weight, running_mean, running_var, training, eps, y1, y2: _batch_norm_back(
            g[0], input, weight, running_mean, running_var, training, eps, y1, y2
        ),
    ),
    weight=(
        "w̄ = Σ ȳ x̂",
        lambda g, input, running_mean, running_var, training, eps, y1, y2: _batch_norm_weight(
            g[0], input, running_mean, running_var, training, eps, y1, y2
        ),
    ),
    bias=("b̄ = Σ ȳ", lambda g, input: g[0].sum(_but_channels(input))),
    why="batch_norm",
    example=(
        lambda r: (r(4, 2, 3), r(2), r(2), None, None, True, 0.1, 1e-5),
        lambda r: (r(4, 2, 3, 2), r(2), r(2), r(2), r.positive(2), False, 0.1, 1e-5),
        lambda r: (r(4, 3), None, None, None, None, True, 0.1, 1e-5),
    ),
)


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
    return (g * hat.reshape(input.shape)).sum(_but_channels(input))


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
    bias=("b̄ = Σ ȳ", lambda g, input, y0: _but_zeros(g[0], y0).sum(_but_channels(input))),
    example=(
        lambda r: (r(2, 4, 3), r(4), r(4), 2, 4, 3, 2, 1e-5),
        lambda r: (r(2, 4, 3), None, None, 2, 4, 3, 2, 1e-5),
    ),
)

# ---------------------------------------------------------------------------------------------------- convolution
#
# y[n, o, p] = Σ_c Σ_k w[o, c, k] x[n, c, s p + d k − padding], with stride s and dilation d. Tap k of the kernel joins
# output p to input s p + d k − padding; the gradients walk the same taps the other way:
#     x̄[n, c, s p + d k − padding] += Σ_o ȳ[n, o, p] w[o, c, k]
#     w̄[o, c, k] = Σ_n Σ_p ȳ[n, o, p] x[n, c, s p + d k − padding]
# A transposed convolution is the first of these lines as a forward, so it exchanges the parts of x and ȳ.


def _taps(kernel: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return product(*(range(size) for size in kernel))


def _reached(tap: Sequence[int], sizes: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Any:
    """Returns the slices s p + d k of a padded image, p through `sizes`."""
    steps = zip(tap, sizes, stride, dilation, strict=True)
    return (..., *(slice(d * k, d * k + s * (n - 1) + 1, s) for k, n, s, d in steps))


def _tap(kernels: Tensor, tap: tuple[int, ...]) -> Tensor:
    """Returns the weights of one tap of every kernel."""
    place: Any = (..., *tap)
    return kernels[place]


def _grouped(t: Tensor, groups: int) -> Tensor:
    """Splits the channels, axis 1, into (groups, channels of a group)."""
    return t.reshape(t.shape[0], groups, -1, *t.shape[2:])


def _kernels(weight: Tensor, groups: int) -> Tensor:
    """Splits the first axis of the weight into (groups, channels of a group)."""
    return weight.reshape(groups, -1, *weight.shape[1:])


def _padded(t: Tensor, padding: Sequence[int]) -> Tensor:
    return torch.nn.functional.pad(t, [p for size in reversed(padding) for p in (size, size)])


def _spread_out(
    g: Tensor, weight: Tensor, like: Tensor, stride: Any, padding: Any, dilation: Any, groups: int
) -> Tensor:
    """x̄[n, c, s p + d k] += Σ_o ȳ[n, o, p] w[o, c, k], in the shape of `like`."""
    g, w = _grouped(g, groups), _kernels(weight, groups)
    sizes = [size + 2 * p for size, p in zip(like.shape[2:], padding, strict=True)]
    image = g.new_zeros(like.shape[0], groups, like.shape[1] // groups, *sizes)
    for tap in _taps(weight.shape[2:]):
        image[_reached(tap, g.shape[3:], stride, dilation)] += torch.einsum("ngo...,goc->ngc...", g, _tap(w, tap))
    inner: Any = (..., *(slice(p, p + size) for p, size in zip(padding, like.shape[2:], strict=True)))
    return image[inner].reshape(like.shape)


def _gathered(g: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int, like: Tensor) -> Tensor:
    """y[n, o, p] = Σ_c Σ_k w[o, c, k] x[n, c, s p + d k], in the shape of `like`: the convolution itself."""
    image, w = _grouped(_padded(g, padding), groups), _kernels(weight, groups)
    total = torch.zeros_like(_grouped(like, groups))
    for tap in _taps(weight.shape[2:]):
        window = image[_reached(tap, like.shape[2:], stride, dilation)]
        total = total + torch.einsum("ngc...,goc->ngo...", window, _tap(w, tap))
    return total.reshape(like.shape)


def _correlated(
    image: Tensor, out: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int
) -> Tensor:
    """w̄[o, c, k] = Σ_n Σ_p ȳ[n, o, p] x[n, c, s p + d k]."""
    image, out = _grouped(_padded(image, padding), groups), _grouped(out, groups)
    taps = [
        torch.einsum("ngo...,ngc...->goc", out, image[_reached(tap, out.shape[3:], stride, dilation)])
        for tap in _taps(weight.shape[2:])
    ]
    return torch.stack(taps, -1).reshape(weight.shape)


def _convolution_input(
    g: Tensor, input: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, transposed: bool, groups: int
) -> Tensor:
    if transposed:
        return _gathered(g, weight, stride, padding, dilation, groups, input)
    return _spread_out(g, weight, input, stride, padding, dilation, groups)


def _convolution_weight(
    g: Tensor, input: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, transposed: bool, groups: int
) -> Tensor:
    image, out = (g, input) if transposed else (input, g)
    return _correlated(image, out, weight, stride, padding, dilation, groups)


def _convolution_terms(
    input: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, groups: int, y: Any
) -> Any:
    """Writes out plain convolutions; padding contributes nothing and is left out of the sums."""
    if transposed or groups != 1:
        return None
    made = np.empty(y.shape, dtype=object)
    for n, o, *p in np.ndindex(*y.shape):
        summands: list[Any] = []
        for c, tap in product(range(weight.shape[1]), _taps(weight.shape[2:])):
            at = [s * i + d * k - pad for s, i, d, k, pad in zip(stride, p, dilation, tap, padding, strict=True)]
            if all(0 <= i < size for i, size in zip(at, input.shape[2:], strict=True)):
                summands.append(input[(n, c, *at)] * weight[(o, c, *tap)])
        made[(n, o, *p)] = sum(summands[1:], summands[0]) if bias is None else sum(summands[1:], summands[0]) + bias[o]
    return made


rule(
    "aten.convolution",
    "y[o, p] = b[o] + Σ_c Σₖ w[o, c, k] x[c, s p + d k − padding]",
    input=(
        "x̄[c, s p + d k − padding] += Σₒ ȳ[o, p] w[o, c, k]",
        lambda g, input, weight, stride, padding, dilation, transposed, groups: _convolution_input(
            g, input, weight, stride, padding, dilation, transposed, groups
        ),
    ),
    weight=(
        "w̄[o, c, k] = Σₚ ȳ[o, p] x[c, s p + d k − padding]",
        lambda g, input, weight, stride, padding, dilation, transposed, groups: _convolution_weight(
            g, input, weight, stride, padding, dilation, transposed, groups
        ),
    ),
    bias=("b̄[o] = Σₚ ȳ[o, p]", lambda g: g.sum(_but_channels(g))),
    terms=_convolution_terms,
    example=(
        lambda r: (r(2, 2, 5), r(3, 2, 2), r(3), [2], [1], [2], False, [0], 1),
        lambda r: (r(1, 2, 4, 5), r(2, 2, 2, 3), None, [1, 2], [0, 1], [1, 1], False, [0, 0], 1),
        lambda r: (r(2, 4, 5), r(2, 2, 3), r(2), [1], [1], [1], False, [0], 2),
        lambda r: (r(2, 2, 3), r(2, 3, 2), r(3), [2], [1], [2], True, [1], 1),
        lambda r: (r(1, 4, 2, 3), r(4, 1, 2, 2), r(2), [2, 1], [0, 1], [1, 1], True, [1, 0], 2),
    ),
)

# -------------------------------------------------------------------------------------------- pooling and resampling
#
# Along each axis these are matrices: Y = P X Qᵀ for an image X, so X̄ = Pᵀ Ȳ Q.


def _separably(g: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Multiplies each of the last axes of g by the transpose of its matrix of (outputs, inputs)."""
    for axis, matrix in enumerate(matrices, -len(matrices)):
        g = torch.tensordot(g, matrix.to(g), ([axis], [0])).movedim(-1, axis)
    return g


def _pair(value: Any, size: int = 2) -> list[int]:
    numbers = [value] if isinstance(value, int) else list(value)
    return numbers * size if len(numbers) == 1 else numbers


def _windows(inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> Tensor:
    """Returns the matrix of which inputs a window holds: 1 in row p, columns s p − padding … + kernel − 1."""
    start = torch.arange(outputs)[:, None] * stride - padding
    place = torch.arange(inputs)
    return ((place >= start) & (place < start + kernel)).double()


def _sizes(inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> Tensor:
    """Returns how long each window is where it stays on the padded image."""
    start = torch.arange(outputs) * stride - padding
    return (start + kernel).clamp(max=inputs + padding) - start


def _avg_pool_back(
    g: Tensor, self: Tensor, kernel_size: Any, stride: Any, padding: Any, count_include_pad: bool, divisor: Any
) -> Tensor:
    kernel, padded = _pair(kernel_size), _pair(padding)
    axes = list(zip(self.shape[-2:], g.shape[-2:], kernel, _pair(stride) if stride else kernel, padded, strict=True))
    windows = [_windows(*axis) for axis in axes]
    rows, columns = [_sizes(*axis) for axis in axes] if count_include_pad else [w.sum(1) for w in windows]
    counts = rows[:, None] * columns if divisor is None else torch.tensor(divisor)
    return _separably(g / counts.to(g), windows)


rule(
    "aten.avg_pool2d",
    "y = the mean of each window of x",
    self=(
        "x̄ = Σ ȳ / n over the windows that hold the element, n the size of a window",
        lambda g, self, kernel_size, stride, padding, count_include_pad, divisor_override: _avg_pool_back(
            g, self, kernel_size, stride, padding, count_include_pad, divisor_override
        ),
    ),
    example=(
        lambda r: (r(1, 2, 4, 5), [2, 3]),
        lambda r: (r(2, 4, 5), [3, 2], [2, 1], [1, 0], True),
        lambda r: (r(2, 4, 5), [3, 2], [2, 2], [1, 1], True, False),
        lambda r: (r(2, 4, 5), [2, 2], [2, 2], [0, 0], False, True, 3),
    ),
)


def _adaptive(inputs: int, outputs: int) -> Tensor:
    """Returns the averaging matrix: row i holds the mean of inputs ⌊i·n/m⌋ … ⌈(i+1)·n/m⌉ − 1."""
    i, place = torch.arange(outputs)[:, None], torch.arange(inputs)
    inside = (place >= i * inputs // outputs) & (place < -((i + 1) * inputs // -outputs))
    return inside / inside.sum(1, keepdim=True).double()


rule(
    "aten._adaptive_avg_pool2d",
    "y = the mean of each cell of x",
    self=(
        "x̄ = Σ ȳ / n over the cells that hold the element, n the size of a cell",
        lambda g, self: _separably(g, [_adaptive(*axis) for axis in zip(self.shape[-2:], g.shape[-2:], strict=True)]),
    ),
    example=lambda r: (r(1, 2, 5, 4), [2, 3]),
)


def _nearest(inputs: int, outputs: int, scale: float | None) -> Tensor:
    ratio = 1 / scale if scale else inputs / outputs
    source = (torch.arange(outputs) * ratio).floor().long().clamp(max=inputs - 1)
    return torch.nn.functional.one_hot(source, inputs).double()


def _linear(inputs: int, outputs: int, align_corners: bool, scale: float | None) -> Tensor:
    """Returns the matrix of linear interpolation: each output lies between two inputs, weighted by their distance."""
    place = torch.arange(outputs, dtype=torch.float64)
    if align_corners:
        source = place * ((inputs - 1) / (outputs - 1) if outputs > 1 else 0)
    else:
        source = ((place + 0.5) * (1 / scale if scale else inputs / outputs) - 0.5).clamp(min=0)
    left = source.floor().long().clamp(max=inputs - 1)
    right, share = (left + 1).clamp(max=inputs - 1), (source - left)[:, None]
    one_hot = torch.nn.functional.one_hot
    return (1 - share) * one_hot(left, inputs) + share * one_hot(right, inputs)


rule(
    "aten.upsample_nearest2d",
    "y = the nearest element of x",
    self=(
        "x̄ = Σ ȳ over the copies",
        lambda g, self, scales_h, scales_w: _separably(
            g, [_nearest(n, m, s) for n, m, s in zip(self.shape[2:], g.shape[2:], (scales_h, scales_w), strict=True)]
        ),
    ),
    moves=True,
    example=(lambda r: (r(1, 2, 3, 2), [6, 5]), lambda r: (r(1, 2, 3, 2), [6, 3], 2.0, 1.5)),
)
rule(
    "aten.upsample_nearest1d",
    "y = the nearest element of x",
    self=(
        "x̄ = Σ ȳ over the copies",
        lambda g, self, scales: _separably(g, [_nearest(self.shape[2], g.shape[2], scales)]),
    ),
    moves=True,
    example=lambda r: (r(1, 2, 3), [7]),
)
rule(
    "aten.upsample_bilinear2d",
    "Y = P X Qᵀ, P and Q interpolate linearly",
    self=(
        "X̄ = Pᵀ Ȳ Q",
        lambda g, self, align_corners, scales_h, scales_w: _separably(
            g,
            [
                _linear(n, m, align_corners, s)
                for n, m, s in zip(self.shape[2:], g.shape[2:], (scales_h, scales_w), strict=True)
            ],
        ),
    ),
    example=(lambda r: (r(1, 2, 3, 2), [6, 5], False), lambda r: (r(1, 2, 3, 2), [5, 4], True)),
)
rule(
    "aten.upsample_linear1d",
    "y = P x, P interpolates linearly",
    self=(
        "x̄ = Pᵀ ȳ",
        lambda g, self, align_corners, scales: _separably(
            g, [_linear(self.shape[2], g.shape[2], align_corners, scales)]
        ),
    ),
    example=(lambda r: (r(1, 2, 3), [7], False), lambda r: (r(1, 2, 3), [5], True)),
)


def _pooled_back(g: Tensor, self: Tensor, indices: Tensor, axes: int) -> Tensor:
    """Adds each g to the pixel its window took; the indices count pixels within a channel."""
    pixels = torch.zeros_like(self).flatten(-axes)
    return pixels.scatter_add(-1, indices.flatten(-axes), g.flatten(-axes)).reshape(self.shape)


_POOLED = "y = the largest element of each window of x,  i* = its place"
_POOLED_BACK = "x̄[i] = Σ ȳ over the windows with i* = i"
rule(
    "aten.max_pool2d_with_indices",
    _POOLED,
    self=(_POOLED_BACK, lambda g, self, y1: _pooled_back(g[0], self, y1, 2)),
    moves=True,
    tie="index",
    why="tie_index",
    example=(lambda r: (r(1, 2, 4, 5), [2, 3]), lambda r: (r(2, 5, 4), [3, 2], [1, 2], [1, 0], [1, 2])),
)
rule(
    "aten.max_pool3d_with_indices",
    _POOLED,
    self=(_POOLED_BACK, lambda g, self, y1: _pooled_back(g[0], self, y1, 3)),
    moves=True,
    tie="index",
    why="tie_index",
    example=lambda r: (r(1, 3, 4, 2), [2, 2, 2], [1, 1, 1]),
)
rule(
    "aten.adaptive_max_pool2d",
    _POOLED,
    self=(_POOLED_BACK, lambda g, self, y1: _pooled_back(g[0], self, y1, 2)),
    moves=True,
    tie="index",
    why="tie_index",
    example=lambda r: (r(1, 2, 5, 4), [2, 3]),
)

# ------------------------------------------------------------------------------------------------------ attention
#
# S = s Q Kᵀ + M,  P = softmax(S),  O = P V, for each head. Backwards through the three:
#     V̄ = Pᵀ Ō,   P̄ = Ō Vᵀ,   S̄ᵢⱼ = Pᵢⱼ (P̄ᵢⱼ − Σₖ P̄ᵢₖ Pᵢₖ),   Q̄ = s S̄ K,   K̄ = s S̄ᵀ Q     (Dao et al. 2022, appendix B)


def _attention(query: Tensor, key: Tensor, is_causal: bool, attn_mask: Any, scale: Any) -> tuple[Tensor, float]:
    """Returns P and s."""
    s = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = s * query @ key.mT
    if is_causal:
        scores = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), -math.inf)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(-1), s


def _scores_back(g: Tensor, P: Tensor, value: Tensor) -> Tensor:
    return _softmax_back(g @ value.mT, P, -1)


def _query_back(g: Tensor, query: Tensor, key: Tensor, value: Tensor, causal: bool, mask: Any, scale: Any) -> Tensor:
    P, s = _attention(query, key, causal, mask, scale)
    return s * _scores_back(g, P, value) @ key


def _key_back(g: Tensor, query: Tensor, key: Tensor, value: Tensor, causal: bool, mask: Any, scale: Any) -> Tensor:
    P, s = _attention(query, key, causal, mask, scale)
    return s * _scores_back(g, P, value).mT @ query


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
        lambda g, query, key, is_causal, attn_mask, scale: (
            _attention(query, key, is_causal, attn_mask, scale)[0].mT @ g[0]
        ),
    ),
    example=(
        lambda r: (r(1, 2, 3, 2), r(1, 2, 4, 2), r(1, 2, 4, 2)),
        lambda r: (r(1, 2, 4, 2), r(1, 2, 4, 2), r(1, 2, 4, 2), 0.0, True, {"scale": 0.7}),
        lambda r: (r(1, 1, 3, 2), r(1, 1, 4, 2), r(1, 1, 4, 2), {"attn_mask": r(1, 1, 3, 4)}),
    ),
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


def _smooth_l1(self: Tensor, target: Tensor, beta: float) -> Tensor:
    d = self - target
    return torch.where(d.abs() < beta, d / beta, d.sign())


rule(
    "aten.smooth_l1_loss",
    "d = xᵢ − tᵢ,  ℓᵢ = d²/(2β) if |d| < β else |d| − β/2" + _MEAN_WORDS,
    self=(
        "x̄ᵢ = ℓ̄ᵢ (d/β if |d| < β else sign d)",
        lambda g, self, target, reduction, beta: _each(g, self, reduction) * _smooth_l1(self, target, beta),
    ),
    target=(
        "t̄ᵢ = −x̄ᵢ",
        lambda g, self, target, reduction, beta: -_each(g, self, reduction) * _smooth_l1(self, target, beta),
    ),
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
        lambda g, self, target, weight, reduction: (
            _weighed(g, weight, self, reduction) * (self - target) / (self * (1 - self)).clamp(min=1e-12)
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
    return torch.zeros_like(self).scatter_add(axis, index, sent.reshape(index.shape))


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


def _margins(self: Tensor, target: Tensor, p: float, margin: float, weight: Tensor | None) -> Tensor:
    """Returns ∂ℓₙ/∂xₙⱼ of ℓₙ = w[tₙ] Σⱼ≠ₜ max(0, margin − x[t] + x[j])ᵖ / C, for rows of x."""
    at = target[:, None]
    gap = margin - self.gather(1, at) + self
    own = torch.zeros_like(self).scatter(1, at, 1)
    wrong = (gap > 0) * (1 - own) * (1 if p == 1 else 2 * gap) / self.shape[1]
    if weight is not None:
        wrong = wrong * weight[at]
    return wrong - own * wrong.sum(1, keepdim=True)


def _multi_margin_back(
    g: Tensor, self: Tensor, target: Tensor, p: float, margin: float, weight: Tensor | None, reduction: int
) -> Tensor:
    rows, targets = self.reshape(-1, self.shape[-1]), target.reshape(-1)
    each = g / rows.shape[0] if reduction == _MEAN else g
    return (each.reshape(-1, 1) * _margins(rows, targets, p, margin, weight)).reshape(self.shape)


rule(
    "aten.multi_margin_loss",
    "ℓ = w[t] Σⱼ≠ₜ max(0, m − x[t] + x[j])ᵖ / C",
    self=(
        "x̄[j] = ℓ̄ w[t] p max(0, m − x[t] + x[j])ᵖ⁻¹ / C where that is > 0;  x̄[t] = −Σⱼ≠ₜ x̄[j]",
        lambda g, self, target, p, margin, weight, reduction: _multi_margin_back(
            g, self, target, p, margin, weight, reduction
        ),
    ),
    why="kink_hinge",
    example=(
        lambda r: (r(3, 4), r.ints(4, 3)),
        lambda r: (r(3, 4), r.ints(4, 3), 2, 0.7, r.positive(4), _NONE),
    ),
)

# ------------------------------------------------------------------------------------------------------- distances


def _cdist_back(g: Tensor, x1: Tensor, x2: Tensor, y: Tensor, p: float) -> Tensor:
    """Returns ȳᵢⱼ ∂yᵢⱼ/∂(x1ᵢ − x2ⱼ) for each pair: sign(d) (|d|/y)ᵖ⁻¹, 0 where the two are the same point."""
    d = x1.unsqueeze(-2) - x2.unsqueeze(-3)
    distance = y.unsqueeze(-1)
    if p == 0:
        return torch.zeros_like(d)
    if math.isinf(p):
        return g.unsqueeze(-1) * d.sign() * (d.abs() == distance)
    ratio = torch.where(distance == 0, 0, d.abs() / distance)
    return g.unsqueeze(-1) * d.sign() * torch.where(ratio == 0, 0, ratio ** (p - 1))


rule(
    "aten._cdist_forward",
    "yᵢⱼ = ‖aᵢ − bⱼ‖ₚ",
    x1=(
        "āᵢ = Σⱼ ȳᵢⱼ sign(aᵢ − bⱼ) (|aᵢ − bⱼ| / yᵢⱼ)ᵖ⁻¹",
        lambda g, x1, x2, y, p: summed_to(_cdist_back(g, x1, x2, y, p).sum(-2), x1.shape),
    ),
    x2=(
        "b̄ⱼ = −Σᵢ ȳᵢⱼ sign(aᵢ − bⱼ) (|aᵢ − bⱼ| / yᵢⱼ)ᵖ⁻¹",
        lambda g, x1, x2, y, p: -summed_to(_cdist_back(g, x1, x2, y, p).sum(-3), x2.shape),
    ),
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
    x1=("āᵢ = Σⱼ ȳᵢⱼ (aᵢ − bⱼ) / yᵢⱼ", lambda g, x1, x2, y: _cdist_back(g, x1, x2, y, 2).sum(-2)),
    x2=("b̄ⱼ = −Σᵢ ȳᵢⱼ (aᵢ − bⱼ) / yᵢⱼ", lambda g, x1, x2, y: -_cdist_back(g, x1, x2, y, 2).sum(-3)),
    why="norm_at_zero",
    example=lambda r: (r(3, 2), r(4, 2)),
)
