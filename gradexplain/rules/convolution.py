"""Convolution, pooling and resampling: every output is a weighted sum over a window of the input."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradexplain.mathematics.terms import NAMESPACE
from gradexplain.rules.entries import rule
from gradexplain.rules.networks import but_channels

_NUMPY: Mapping[str, Any] = NAMESPACE
_exp, _log, _log1p, _sigmoid, _abs = (_NUMPY[name] for name in ("exp", "log", "log1p", "sigmoid", "abs"))

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
    bias=("b̄[o] = Σₚ ȳ[o, p]", lambda g: g.sum(but_channels(g))),
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
