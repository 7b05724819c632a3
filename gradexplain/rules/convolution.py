"""Convolution, pooling and resampling: every output is a weighted sum over a window of the input."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
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


def _each(value: Any, axes: int) -> list[int]:
    """Gives one number to every axis."""
    numbers = [value] if isinstance(value, int) else list(value)
    return numbers * axes if len(numbers) == 1 else numbers


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
    g: Tensor,
    self: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    count_include_pad: bool,
    divisor: Any,
    axes: int,
) -> Tensor:
    kernel, padded = _each(kernel_size, axes), _each(padding, axes)
    steps = _each(stride, axes) if stride else kernel
    along = list(zip(self.shape[-axes:], g.shape[-axes:], kernel, steps, padded, strict=True))
    windows = [_windows(*axis) for axis in along]
    sizes = [_sizes(*axis) for axis in along] if count_include_pad else [w.sum(1) for w in windows]
    counts = _outer(sizes) if divisor is None else torch.tensor(divisor)
    return _separably(g / counts.to(g), windows)


def _outer(sizes: Sequence[Tensor]) -> Tensor:
    """Returns the product of one number of each axis, for every place."""
    return torch.stack(torch.meshgrid(*sizes, indexing="ij")).prod(0)


_CELLS = "y = the mean of each cell of x"


def _averaged(axes: int, *examples: Any) -> None:
    """Enters the rule of a pooling by means, for images with so many axes."""
    rule(
        f"aten.avg_pool{axes}d",
        "y = the mean of each window of x",
        self=(
            "x̄ = Σ ȳ / n over the windows that hold the element, n the size of a window",
            lambda g, self, kernel_size, stride, padding, count_include_pad, divisor_override: _avg_pool_back(
                g, self, kernel_size, stride, padding, count_include_pad, divisor_override, axes
            ),
        ),
        example=examples,
    )


_averaged(
    2,
    lambda r: (r(1, 2, 4, 5), [2, 3]),
    lambda r: (r(2, 4, 5), [3, 2], [2, 1], [1, 0], True),
    lambda r: (r(2, 4, 5), [3, 2], [2, 2], [1, 1], True, False),
    lambda r: (r(2, 4, 5), [2, 2], [2, 2], [0, 0], False, True, 3),
)
_averaged(
    3,
    lambda r: (r(1, 2, 3, 4, 2), [2, 3, 1]),
    lambda r: (r(1, 3, 4, 3), [2, 2, 2], [2, 1, 2], [1, 0, 1], True, False),
)


def _adaptive(inputs: int, outputs: int) -> Tensor:
    """Returns the averaging matrix: row i holds the mean of inputs ⌊i·n/m⌋ … ⌈(i+1)·n/m⌉ − 1."""
    i, place = torch.arange(outputs)[:, None], torch.arange(inputs)
    inside = (place >= i * inputs // outputs) & (place < -((i + 1) * inputs // -outputs))
    return inside / inside.sum(1, keepdim=True).double()


def _cells(axes: int) -> Any:
    """Returns the derivative of the means of cells, for images with so many axes."""
    return (
        "x̄ = Σ ȳ / n over the cells that hold the element, n the size of a cell",
        lambda g, self: _separably(
            g, [_adaptive(*axis) for axis in zip(self.shape[-axes:], g.shape[-axes:], strict=True)]
        ),
    )


rule("aten._adaptive_avg_pool2d", _CELLS, self=_cells(2), example=lambda r: (r(1, 2, 5, 4), [2, 3]))
rule("aten._adaptive_avg_pool3d", _CELLS, self=_cells(3), example=lambda r: (r(1, 2, 5, 4, 2), [2, 3, 1]))

# Along an axis, an output lies at some place among the inputs, and the matrix says how much it takes of each.


def _nearest(inputs: int, outputs: int, scale: float | None, shift: float = 0.0) -> Tensor:
    """Returns the matrix of copies; with `shift` 1/2 the middle of an output looks for the nearest, else its start."""
    ratio = 1 / scale if scale else inputs / outputs
    source = ((torch.arange(outputs) + shift) * ratio).floor().long().clamp(max=inputs - 1)
    return torch.nn.functional.one_hot(source, inputs).double()


def _nearest_exact(inputs: int, outputs: int, scale: float | None) -> Tensor:
    return _nearest(inputs, outputs, scale, 0.5)


def _places(align_corners: bool, inputs: int, outputs: int, scale: float | None) -> Tensor:
    place = torch.arange(outputs, dtype=torch.float64)
    if align_corners:
        return place * ((inputs - 1) / (outputs - 1) if outputs > 1 else 0)
    return (place + 0.5) * (1 / scale if scale else inputs / outputs) - 0.5


def _linear(align_corners: bool, inputs: int, outputs: int, scale: float | None) -> Tensor:
    """Returns the matrix of linear interpolation: each output lies between two inputs, weighted by their distance."""
    source = _places(align_corners, inputs, outputs, scale).clamp(min=0)
    left = source.floor().long().clamp(max=inputs - 1)
    return _weighted(inputs, left, [1 - (source - left), source - left])


def _weighted(inputs: int, first: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Returns the matrix with `weights` at the inputs from `first` on; those beyond the border count for its own."""
    one_hot = torch.nn.functional.one_hot
    taps = [(first + k).clamp(0, inputs - 1) for k in range(len(weights))]
    return torch.stack([one_hot(tap, inputs) * w[:, None] for tap, w in zip(taps, weights, strict=True)]).sum(0)


# The slope of a cubic's weights at distance 1: torch takes −3/4 where it reads four inputs, −1/2 over wider windows.
SHARP, SMOOTH = -0.75, -0.5


def cubic(distance: Tensor, a: float = SMOOTH) -> Tensor:
    """Returns the weight of an input at some distance (Keys 1981, "Cubic convolution interpolation")."""
    d = distance.abs()
    near, far = ((a + 2) * d - (a + 3)) * d * d + 1, (((d - 5) * d + 8) * d - 4) * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, 0))


def tent(distance: Tensor) -> Tensor:
    """Returns the weight of linear interpolation."""
    return (1 - distance.abs()).clamp(min=0)


def _cubic(align_corners: bool, inputs: int, outputs: int, scale: float | None) -> Tensor:
    """Returns the matrix of cubic interpolation: each output is a weighted sum of four inputs."""
    source = _places(align_corners, inputs, outputs, scale)
    left = source.floor()
    return _weighted(inputs, left.long() - 1, [cubic(source - left - k, SHARP) for k in (-1, 0, 1, 2)])


def _smoothed(weight: Any, reach: float) -> Any:
    """Returns a matrix of interpolation without aliasing: a shrunk image takes its weights from wider windows."""

    def matrix(align_corners: bool, inputs: int, outputs: int, scale: float | None) -> Tensor:
        ratio = 1 / scale if scale else inputs / outputs
        if align_corners:
            ratio = (inputs - 1) / (outputs - 1) if outputs > 1 else 0.0
        wide = max(ratio, 1.0)
        middle = (torch.arange(outputs, dtype=torch.float64) + 0.5)[:, None] * ratio
        place = torch.arange(inputs)
        start = (middle - reach * wide + 0.5).long().clamp(min=0)
        inside = (place >= start) & (place < (middle + reach * wide + 0.5).long())
        weights = weight((place - middle + 0.5) / wide) * inside
        normed: Tensor = weights / weights.sum(1, keepdim=True)
        return normed

    return matrix


def _resampled(g: Tensor, self: Tensor, matrix: Any, *scales: float | None) -> Tensor:
    """X̄ = Pᵀ Ȳ along each axis; `matrix` gives P by the numbers of inputs and outputs, and a scale if one was given."""
    return _separably(g, [matrix(n, m, s) for n, m, s in zip(self.shape[2:], g.shape[2:], scales, strict=True)])


def _copied(operator: str, matrix: Any, axes: int, *examples: Any) -> None:
    """Enters the rule of a resampling that copies elements of an image with so many axes."""
    back = {
        1: lambda g, self, scales: _resampled(g, self, matrix, scales),
        2: lambda g, self, scales_h, scales_w: _resampled(g, self, matrix, scales_h, scales_w),
        3: lambda g, self, scales_d, scales_h, scales_w: _resampled(g, self, matrix, scales_d, scales_h, scales_w),
    }
    rule(
        f"aten.{operator}{axes}d",
        "y = the nearest element of x",
        self=("x̄ = Σ ȳ over the copies", back[axes]),
        moves=True,
        example=examples,
    )


_copied("upsample_nearest", _nearest, 1, lambda r: (r(1, 2, 3), [7]))
_copied("upsample_nearest", _nearest, 2, lambda r: (r(1, 2, 3, 2), [6, 5]), lambda r: (r(1, 2, 3, 2), [6, 3], 2.0, 1.5))
_copied("upsample_nearest", _nearest, 3, lambda r: (r(1, 2, 3, 2, 2), [6, 5, 1]))
_copied("_upsample_nearest_exact", _nearest_exact, 1, lambda r: (r(1, 2, 3), [7]))
_copied("_upsample_nearest_exact", _nearest_exact, 2, lambda r: (r(1, 2, 3, 5), [6, 3]))
_copied("_upsample_nearest_exact", _nearest_exact, 3, lambda r: (r(1, 2, 3, 2, 4), [6, 5, 3]))


def _interpolated(operator: str, way: str, matrix: Any, axes: int, *examples: Any) -> None:
    """Enters the rule of a resampling that interpolates an image with so many axes."""
    back = {
        1: lambda g, self, align_corners, scales: _resampled(g, self, partial(matrix, align_corners), scales),
        2: lambda g, self, align_corners, scales_h, scales_w: _resampled(
            g, self, partial(matrix, align_corners), scales_h, scales_w
        ),
        3: lambda g, self, align_corners, scales_d, scales_h, scales_w: _resampled(
            g, self, partial(matrix, align_corners), scales_d, scales_h, scales_w
        ),
    }
    rule(
        f"aten.{operator}",
        f"Y = P X along each axis, P interpolates {way}",
        self=("X̄ = Pᵀ Ȳ along each axis", back[axes]),
        example=examples,
    )


_interpolated(
    "upsample_linear1d", "linearly", _linear, 1,
    lambda r: (r(1, 2, 3), [7], False), lambda r: (r(1, 2, 3), [5], True),
)  # fmt: skip
_interpolated(
    "upsample_bilinear2d", "linearly", _linear, 2,
    lambda r: (r(1, 2, 3, 2), [6, 5], False), lambda r: (r(1, 2, 3, 2), [5, 4], True),
)  # fmt: skip
_interpolated(
    "upsample_trilinear3d", "linearly", _linear, 3,
    lambda r: (r(1, 1, 3, 2, 2), [4, 3, 1], False), lambda r: (r(1, 1, 3, 2, 2), [2, 3, 4], True),
)  # fmt: skip
_interpolated(
    "upsample_bicubic2d", "by cubics", _cubic, 2,
    lambda r: (r(1, 2, 5, 3), [7, 4], False), lambda r: (r(1, 2, 3, 4), [5, 7], True),
)  # fmt: skip
_interpolated(
    "_upsample_bilinear2d_aa", "linearly, over wider windows where it shrinks", _smoothed(tent, 1), 2,
    lambda r: (r(1, 2, 5, 3), [3, 4], False), lambda r: (r(1, 2, 7, 4), [3, 3], True),
)  # fmt: skip
_interpolated(
    "_upsample_bicubic2d_aa", "by cubics, over wider windows where it shrinks", _smoothed(cubic, 2), 2,
    lambda r: (r(1, 2, 5, 3), [3, 4], False), lambda r: (r(1, 2, 7, 4), [3, 3], True),
)  # fmt: skip


def _pooled_back(g: Tensor, self: Tensor, indices: Tensor, axes: int) -> Tensor:
    """Adds each g to the pixel its window took; the indices count pixels within a channel."""
    pixels = torch.zeros_like(self).flatten(-axes)
    return pixels.scatter_add(-1, indices.flatten(-axes), g.flatten(-axes)).reshape(self.shape)


_POOLED = "y = the largest element of each window of x,  i* = its place"
_POOLED_BACK = "x̄[i] = Σ ȳ over the windows with i* = i"


def _largest(operator: str, axes: int, *examples: Any) -> None:
    """Enters the rule of a pooling that also returns which pixels it took, for images with so many axes."""
    rule(
        f"aten.{operator}",
        _POOLED,
        self=(_POOLED_BACK, lambda g, self, y1: _pooled_back(g[0], self, y1, axes)),
        moves=True,
        tie="index",
        why="tie_index",
        example=examples,
    )


_largest(
    "max_pool2d_with_indices", 2,
    lambda r: (r(1, 2, 4, 5), [2, 3]), lambda r: (r(2, 5, 4), [3, 2], [1, 2], [1, 0], [1, 2]),
)  # fmt: skip
_largest("max_pool3d_with_indices", 3, lambda r: (r(1, 3, 4, 2), [2, 2, 2], [1, 1, 1]))
_largest("adaptive_max_pool2d", 2, lambda r: (r(1, 2, 5, 4), [2, 3]))
_largest("adaptive_max_pool3d", 3, lambda r: (r(1, 2, 5, 4, 2), [2, 3, 1]))
_largest("fractional_max_pool2d", 2, lambda r: (r(1, 2, 5, 4), [2, 2], [3, 2], r.between(0, 1, 1, 2, 2)))
_largest("fractional_max_pool3d", 3, lambda r: (r(1, 2, 4, 4, 3), [2, 2, 1], [2, 2, 2], r.between(0, 1, 1, 2, 3)))


def _unpooled_back(g: Tensor, indices: Tensor, axes: int) -> Tensor:
    """Reads each g at its pixel. Of several written to one pixel only the last stays, the others have no influence."""
    flat, pixels = indices.flatten(-axes), g.flatten(-axes)
    order = torch.arange(flat.shape[-1], device=g.device).expand_as(flat)
    last = torch.zeros_like(pixels, dtype=torch.long).scatter_reduce(-1, flat, order, "amax", include_self=False)
    return torch.where(last.gather(-1, flat) == order, pixels.gather(-1, flat), 0).reshape(indices.shape)


def _unpooled(axes: int, *options: Any) -> None:
    shape = (2,) * axes
    rule(
        f"aten.max_unpool{axes}d",
        "y[i] = the x whose place is i, 0 at every other pixel",
        self=("x̄ = ȳ[i]", lambda g, indices: _unpooled_back(g, indices, axes)),
        moves=True,
        why="scatter_repeated",
        example=lambda r: (r(1, 2, *shape), r.places(3**axes, 1, 2, *shape), [3] * axes, *options),
    )


_unpooled(2)
_unpooled(3, [1, 1, 1], [0, 0, 0])
