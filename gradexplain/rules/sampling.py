"""Sampling an image at places that are inputs as well: grids, and where they come from.

y[n, c, p] = Σ_taps w(tap) x[n, c, tap], and the weight is a product of one factor for each axis, so that

    x̄[n, c, tap] += w(tap) ȳ[n, c, p],    ∂y/∂u_d = Σ_taps w′_d(tap) Πₑ≠d wₑ(tap) x[n, c, tap]

for the place u_d along axis d, counted in pixels. The grid gives places in −1 … 1; what lies beyond the image is 0, or
is brought back to its border, or mirrored there, and the grid's slope goes through that as well (Jaderberg et al. 2015,
"Spatial transformer networks").
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from gradexplain.rules.convolution import SHARP, cubic
from gradexplain.rules.entries import rule

LINEAR, NEAREST, CUBIC = 0, 1, 2
ZEROS, BORDER, MIRROR = 0, 1, 2
# For one axis: the pixel that a tap reads, its factor in the weight, and how that changes with the place.
_Tap = tuple[Tensor, Tensor, Tensor]


def _in_pixels(u: Tensor, size: int, align_corners: bool) -> tuple[Tensor, float]:
    """Returns the places along an axis in pixels, and how many pixels a step of 1 is."""
    step = (size - 1) / 2 if align_corners else size / 2
    return (u + 1) * step - (0.0 if align_corners else 0.5), step


def _brought_in(u: Tensor, size: int, padding: int, align_corners: bool) -> tuple[Tensor, Tensor]:
    """Returns places brought into the image, and the slope of that: 1, −1 in a mirror image, 0 beyond the border."""
    slope = torch.ones_like(u)
    if padding == ZEROS:
        return u, slope
    if padding == MIRROR:
        low, span = (0.0, size - 1) if align_corners else (-0.5, size)
        if span == 0:
            return torch.zeros_like(u), torch.zeros_like(u)
        flips, rest = torch.floor((u - low).abs() / span), torch.remainder((u - low).abs(), span)
        slope = torch.where(u < low, -1.0, 1.0) * torch.where(flips % 2 == 0, 1.0, -1.0).to(u)
        u = low + torch.where(flips % 2 == 0, rest, span - rest)
    inside = (u > 0) & (u < size - 1)
    return u.clamp(0, size - 1), torch.where(inside, slope, 0)


def _taps(u: Tensor, size: int, mode: int, padding: int, align_corners: bool) -> list[_Tap]:
    pixels, step = _in_pixels(u, size, align_corners)
    if mode == CUBIC:
        left = pixels.floor()
        read = [_brought_in(left + k, size, padding, align_corners)[0] for k in (-1, 0, 1, 2)]
        distances = [pixels - left - k for k in (-1, 0, 1, 2)]
        return [(p, cubic(d, SHARP), _cubic_slope(d) * step) for p, d in zip(read, distances, strict=True)]
    pixels, slope = _brought_in(pixels, size, padding, align_corners)
    if mode == NEAREST:
        return [(pixels.round(), torch.ones_like(u), torch.zeros_like(u))]
    left = pixels.floor()
    return [(left, 1 - (pixels - left), -slope * step), (left + 1, pixels - left, slope * step)]


def _cubic_slope(distance: Tensor) -> Tensor:
    d, a = distance.abs(), SHARP
    near, far = (3 * (a + 2) * d - 2 * (a + 3)) * d, ((3 * d - 10) * d + 8) * a
    return distance.sign() * torch.where(d <= 1, near, far)


def _reads(input: Tensor, grid: Tensor, mode: int, padding: int, align_corners: bool) -> Any:
    """Yields for each tap what it reads: its place in the flattened image, whether it is in it, and its factors."""
    sizes = input.shape[2:]
    along = [
        _taps(grid[..., -1 - axis], size, mode, padding, align_corners) for axis, size in enumerate(sizes)
    ]  # the grid names the last axis first
    for taps in product(*along):
        inside = torch.ones_like(grid[..., 0], dtype=torch.bool)
        flat = torch.zeros_like(grid[..., 0], dtype=torch.long)
        for (pixel, _, _), size in zip(taps, sizes, strict=True):
            inside &= (pixel >= 0) & (pixel < size)
            flat = flat * size + pixel.clamp(0, size - 1).long()
        yield flat.flatten(1), inside.flatten(1), [t[1].flatten(1) for t in taps], [t[2].flatten(1) for t in taps]


def _product(factors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(factors)).prod(0)


def _image_back(g: Tensor, input: Tensor, grid: Tensor, *how: Any) -> Tensor:
    total, arrived = torch.zeros_like(input).flatten(2), g.flatten(2)
    for flat, inside, factors, _ in _reads(input, grid, *how):
        weighted = arrived * (_product(factors) * inside)[:, None]
        total = total.scatter_add(2, flat[:, None].expand_as(weighted), weighted)
    return total.reshape(input.shape)


def _grid_back(g: Tensor, input: Tensor, grid: Tensor, *how: Any) -> Tensor:
    image, arrived, axes = input.flatten(2), g.flatten(2), input.ndim - 2
    sums = [torch.zeros_like(grid[..., 0]).flatten(1) for _ in range(axes)]
    for flat, inside, factors, slopes in _reads(input, grid, *how):
        read = image.gather(2, flat[:, None].expand_as(arrived))
        met = (read * arrived).sum(1) * inside
        for axis in range(axes):
            others = [f for other, f in enumerate(factors) if other != axis]
            sums[axis] = sums[axis] + met * _product([slopes[axis], *others])
    return torch.stack(sums[::-1], -1).reshape(grid.shape)


def _places(r: Any, size: int, *shape: int) -> Tensor:
    """Places of which some lie beyond the image, and none on a pixel or at the border."""
    step = 2 / size
    inner = (r.ints(size + 4, *shape) - 2 + r.between(0.1, 0.4, *shape)) * step
    placed: Tensor = inner - 1
    return placed


def _sampled(axes: int, *ways: tuple[int, int, bool]) -> None:
    """Enters the rule for images with so many axes; an example of each way to interpolate, to pad and to align."""

    def drawn(way: tuple[int, int, bool]) -> Any:
        return lambda r: (r(2, 2, *[4] * axes), _places(r, 4, 2, *(3, 1, 2)[:axes], axes), *way)

    rule(
        f"aten.grid_sampler_{axes}d",
        "y[p] = Σₖ w(uₚ − k) x[k], the pixels k about the place uₚ that the grid gives",
        input=(
            "x̄[k] = Σₚ w(uₚ − k) ȳ[p]",
            lambda g, input, grid, interpolation_mode, padding_mode, align_corners: _image_back(
                g, input, grid, interpolation_mode, padding_mode, align_corners
            ),
        ),
        grid=(
            "ūₚ = ȳ[p] Σₖ w′(uₚ − k) x[k]",
            lambda g, input, grid, interpolation_mode, padding_mode, align_corners: _grid_back(
                g, input, grid, interpolation_mode, padding_mode, align_corners
            ),
        ),
        over="real",
        why="pixel",
        example=tuple(map(drawn, ways)),
    )


_WAYS = (
    (LINEAR, ZEROS, False),
    (LINEAR, BORDER, True),
    (LINEAR, MIRROR, False),
    (LINEAR, MIRROR, True),
    (NEAREST, ZEROS, False),
)
_sampled(2, *_WAYS, (CUBIC, ZEROS, False), (CUBIC, BORDER, True), (CUBIC, MIRROR, False))
_sampled(3, *_WAYS)


def _coordinates(like: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Returns the grid that shows an image as it is, with a 1 behind each place: what θ multiplies."""
    along = []
    for n in size[2:]:
        line = torch.linspace(-1, 1, n, dtype=like.dtype, device=like.device) if n > 1 else like.new_zeros(1)
        along.append(line if align_corners else line * (n - 1) / n)
    places = torch.meshgrid(*along, indexing="ij")
    return torch.stack([*places[::-1], torch.ones_like(places[0])], -1).reshape(-1, len(size) - 1)


rule(
    "aten.affine_grid_generator",
    "uₚ = θ (p, 1) for every place p of the image",
    theta=(
        "θ̄ = Σₚ ūₚ (p, 1)ᵀ",
        lambda g, size, align_corners: g.reshape(g.shape[0], -1, g.shape[-1]).mT @ _coordinates(g, size, align_corners),
    ),
    example=(lambda r: (r(2, 2, 3), [2, 1, 3, 4], False), lambda r: (r(1, 3, 4), [1, 2, 2, 1, 3], True)),
)
