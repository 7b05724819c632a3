"""Operators that move or copy elements: the cotangent goes back the way the elements came.

Every one is y[k] = x[σ(k)], or a constant where nothing was put. So x̄[i] = Σ ȳ[k] over the k with σ(k) = i. Where this
has a name (a view, a transpose) the rule says so; where it has none, `brought_back` sends the positions 1, 2, 3, …
through the operator, reads σ off the result, and adds each cotangent to the element it stands for.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from gradexplain.rules.application import Unrecorded, summed_to
from gradexplain.rules.entries import rule


def brought_back(g: Tensor, self: Tensor, move: Callable[[Tensor], Tensor]) -> Tensor:
    """Adds each element of `g` to the one of `self` that `move` took it from; 0 marks one that came from nowhere.

    Of `self` the shape is enough: the positions lie where g does.
    """
    positions = torch.empty_strided(self.shape, self.stride(), dtype=torch.float64, device=g.device)
    positions.copy_(torch.arange(1, self.numel() + 1).reshape(self.shape))
    source = move(positions).long().reshape(-1)
    return g.new_zeros(self.numel() + 1).index_add(0, source, g.reshape(-1))[1:].reshape(self.shape)


def _arrived(g: Sequence[Tensor | None], sizes: Sequence[int], self: Tensor, dim: int) -> list[Tensor]:
    """Returns the cotangents of the pieces of a split, zeros for those that got none."""
    shapes = [(*self.shape[:dim], size, *self.shape[dim + 1 :]) for size in sizes]
    return [self.new_zeros(shape) if part is None else part for part, shape in zip(g, shapes, strict=True)]


def _joined(g: Sequence[Tensor | None], sizes: Sequence[int], self: Tensor, dim: int) -> Tensor:
    dim %= self.ndim
    return torch.cat(_arrived(g, sizes, self, dim), dim)


def _even(self: Tensor, size: int, dim: int) -> list[int]:
    length = self.shape[dim]
    return [min(size, length - start) for start in range(0, length, size)] if size else [length]


def _cut(g: Tensor, tensors: Sequence[Tensor], dim: int) -> list[Tensor]:
    """Returns the part of g that came from each of `tensors`; an empty tensor of one axis joins anything."""
    sizes = [0 if t.shape == (0,) else t.shape[dim] for t in tensors]
    starts = [0, *accumulate(sizes)]
    return [g.narrow(dim, start, size).reshape(t.shape) for t, start, size in zip(tensors, starts, sizes, strict=False)]


# fmt: off
_RESHAPED = "the same elements in the same order, in another shape"
_SAME = ("x̄ = ȳ in the shape of x", lambda g, self: g.reshape(self.shape))
_COPIED = ("x̄ = ȳ", lambda g, self: g.to(self.dtype))

rule("aten.view",         _RESHAPED, moves=True, self=_SAME, example=lambda r: (r(3, 4), [2, 6]))
rule("aten._unsafe_view", _RESHAPED, moves=True, self=_SAME, example=lambda r: (r(3, 4), [2, -1]))
rule("aten._reshape_alias", _RESHAPED, moves=True, self=_SAME, example=lambda r: (r(3, 4), [2, 6], [6, 1]))
rule("aten.squeeze",      "axes of size 1 removed", moves=True, self=_SAME, example=lambda r: (r(3, 1, 2),))
rule("aten.squeeze.dim",  "an axis of size 1 removed", moves=True, self=_SAME, example=lambda r: (r(3, 1, 2), 1))
rule("aten.squeeze.dims", "axes of size 1 removed", moves=True, self=_SAME, example=lambda r: (r(3, 1, 2, 1), [1, 3]))
rule("aten.unsqueeze",    "an axis of size 1 put in", moves=True, self=_SAME, example=lambda r: (r(3, 2), 1))
rule("aten.clone",        "y = x", moves=True, self=_COPIED, example=lambda r: (r(3, 2),))
rule("aten.alias",        "y = x", moves=True, self=_COPIED, example=lambda r: (r(3, 2),))
rule("aten._to_copy",     "y = x, in another type", moves=True, why="cast", self=_COPIED,
     example=lambda r: (r(3, 2), {"dtype": torch.float64}))
rule("aten.t",             "Y = Xᵀ", moves=True, self=("X̄ = Ȳᵀ", lambda g: g.t()), example=lambda r: (r(3, 4),))
rule("aten.transpose.int", "two axes exchanged", moves=True, example=lambda r: (r(3, 4, 2), 0, -1),
     self=("x̄ = ȳ with the same two exchanged", lambda g, dim0, dim1: g.transpose(dim0, dim1)))
rule("aten.permute",       "the axes in another order", moves=True, example=lambda r: (r(3, 4, 2), [2, 0, -2]),
     self=("x̄ = ȳ with the axes put back in order",
           lambda g, dims: g.permute(sorted(range(g.ndim), key=lambda axis: dims[axis] % g.ndim))))
rule("aten.expand",        "elements repeated along axes of size 1", moves=True,
     example=lambda r: (r(3, 1), [2, -1, 4]),
     self=("x̄ = Σ ȳ over the repetitions", lambda g, self: summed_to(g, self.shape)))
rule("aten.repeat",        "the whole repeated along each axis", moves=True, example=lambda r: (r(3, 2), [2, 1, 3]),
     self=("x̄ = Σ ȳ over the repetitions",
           lambda g, self, repeats: brought_back(g, self, lambda x: x.repeat(repeats))))
rule("aten.flip",          "the order along axes reversed", moves=True, example=lambda r: (r(3, 2), [0, -1]),
     self=("x̄ = ȳ, reversed again", lambda g, dims: g.flip(dims)))
rule("aten.roll",          "elements moved along axes, round the end", moves=True,
     example=lambda r: (r(3, 4), [1, -2], [0, 1]),
     self=("x̄ = ȳ, moved back", lambda g, shifts, dims: g.roll(_negative(shifts), dims)))
rule("aten.rot90",         "quarter turns", moves=True, example=lambda r: (r(3, 4), 3, [0, 1]),
     self=("x̄ = ȳ, turned back", lambda g, k, dims: g.rot90(-k, dims)))
rule("aten.select.int",    "y = x[…, i, …]", moves=True, example=lambda r: (r(3, 4), 1, -2),
     self=("x̄ = ȳ at index i, 0 elsewhere",
           lambda g, self, dim, index: brought_back(g, self, lambda x: x.select(dim, index))))
rule("aten.slice.Tensor",  "y = x[…, start:end:step, …]", moves=True,
     example=(lambda r: (r(3, 4), 1, 1, 4, 2), lambda r: (r(3, 4), 0, -2)),
     self=("x̄ = ȳ at start:end:step, 0 elsewhere", lambda g, self, dim, start, end, step: brought_back(
         g, self, lambda x: torch.ops.aten.slice(x, dim, start, end, step))))
rule("aten.diagonal",      "y = the diagonal of x", moves=True, example=lambda r: (r(3, 4, 2), 1, 0, 1),
     self=("x̄ = ȳ on the diagonal, 0 elsewhere", lambda g, self, offset, dim1, dim2: brought_back(
         g, self, lambda x: x.diagonal(offset, dim1, dim2))))
rule("aten.diagonal_copy", "y = the diagonal of x", moves=True, example=lambda r: (r(3, 4, 2), 1, 0, 1),
     self=("x̄ = ȳ on the diagonal, 0 elsewhere", lambda g, self, offset, dim1, dim2: brought_back(
         g, self, lambda x: x.diagonal(offset, dim1, dim2))))
rule("aten.diag_embed",    "x on a diagonal, 0 elsewhere", moves=True, example=lambda r: (r(2, 3), -1),
     self=("x̄ = the diagonal of ȳ", lambda g, offset, dim1, dim2: g.diagonal(offset, dim1, dim2)))
rule("aten.tril",          "y = the lower triangle of x, 0 elsewhere", moves=True, example=lambda r: (r(3, 4), 1),
     self=("x̄ = the lower triangle of ȳ", lambda g, diagonal: g.tril(diagonal)))
rule("aten.triu",          "y = the upper triangle of x, 0 elsewhere", moves=True, example=lambda r: (r(3, 4), -1),
     self=("x̄ = the upper triangle of ȳ", lambda g, diagonal: g.triu(diagonal)))
rule("aten.unfold",        "windows of x along an axis", moves=True, example=lambda r: (r(2, 5), 1, 3, 2),
     self=("x̄ = Σ ȳ over the windows that hold the element", lambda g, self, dimension, size, step: brought_back(
         g, self, lambda x: x.unfold(dimension, size, step))))
rule("aten.pixel_shuffle", "channels become finer pixels", moves=True, example=lambda r: (r(2, 4, 2, 3), 2),
     self=("x̄ = ȳ, pixels back to channels", lambda g, self, upscale_factor: brought_back(
         g, self, lambda x: torch.pixel_shuffle(x, upscale_factor))))
rule("aten.pixel_unshuffle", "pixels become channels", moves=True, example=lambda r: (r(2, 1, 4, 6), 2),
     self=("x̄ = ȳ, channels back to pixels", lambda g, self, downscale_factor: brought_back(
         g, self, lambda x: torch.pixel_unshuffle(x, downscale_factor))))
rule("aten.im2col",        "windows of an image, as columns", moves=True,
     example=lambda r: (r(2, 2, 4, 5), [2, 2], [1, 2], [1, 0], [2, 1]),
     self=("x̄ = Σ ȳ over the windows that hold the element",
           lambda g, self, kernel_size, dilation, padding, stride: brought_back(
               g, self, lambda x: torch.ops.aten.im2col(x, kernel_size, dilation, padding, stride))))
rule("aten.col2im",        "columns added up into an image, each at its window",
     example=lambda r: (r(2, 8, 9), [4, 4], [2, 2], [1, 1], [0, 0], [1, 1]),
     self=("x̄ = the windows of ȳ, as columns", lambda g, kernel_size, dilation, padding, stride: torch.ops.aten.im2col(
         g, kernel_size, dilation, padding, stride)))
rule("aten.constant_pad_nd", "y = x within a border of a constant", moves=True,
     example=lambda r: (r(2, 3), [1, 2, 1, 0], 0.7),
     self=("x̄ = ȳ without the border", lambda g, self, pad: brought_back(
         g, self, lambda x: torch.constant_pad_nd(x, pad, 0))))
# fmt: on


def _negative(shifts: Any) -> list[int]:
    return [-shift for shift in ([shifts] if isinstance(shifts, int) else shifts)]


def _padding(operator: str, border: str, size: int) -> None:
    """Enters the rule of a padding by copies of elements, for images with `size` axes."""
    pad = getattr(torch.ops.aten, operator)
    rule(
        f"aten.{operator}",
        f"y = x within a border of {border}",
        self=(
            "x̄ = Σ ȳ over the copies",
            lambda g, self, padding: brought_back(g, self, lambda x: pad(x, padding)),
        ),
        moves=True,
        example=lambda r: (r(2, *(3, 4, 3)[:size]), [1, 2] * size),
    )


for _size in (1, 2, 3):
    _padding(f"reflection_pad{_size}d", "its mirror image", _size)
    _padding(f"replication_pad{_size}d", "its outermost elements", _size)


def _as_strided_back(g: Tensor, self: Tensor, size: Any, stride: Any, storage_offset: int | None) -> Tensor:
    """Strides address the storage, so the positions are laid out in a storage like that of `self`."""
    if self.is_meta:  # what stands for a tensor that was not recorded has its shape alone
        raise Unrecorded("self")
    offset = self.storage_offset()
    length = 1 + offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride(), strict=True))
    storage = torch.zeros(length, dtype=torch.long, device=g.device)
    own = storage.as_strided(self.shape, self.stride(), offset)
    own.copy_(torch.arange(1, self.numel() + 1).reshape(self.shape))
    source = storage.as_strided(size, stride, offset if storage_offset is None else storage_offset).reshape(-1)
    return g.new_zeros(self.numel() + 1).index_add(0, source, g.reshape(-1))[1:].reshape(self.shape)


rule(
    "aten.as_strided",
    "y = the elements of x that stand at given strides in memory",
    self=(
        "x̄ = Σ ȳ over the elements that share the place in memory",
        lambda g, self, size, stride, storage_offset: _as_strided_back(g, self, size, stride, storage_offset),
    ),
    moves=True,
    example=(lambda r: (r(3, 4), [2, 3], [2, 1]), lambda r: (r(3, 4), [2, 2], [4, 2], 1)),
)
rule(
    "aten.cat",
    "tensors joined along an axis",
    tensors=("each x̄ = its part of ȳ", lambda g, tensors, dim: _cut(g, tensors, dim)),
    moves=True,
    example=(lambda r: ([r(2, 3), r(2, 1)], 1), lambda r: ([r(2, 3), r(1, 3)], -2)),
)
rule(
    "aten.stack",
    "tensors joined along a new axis",
    tensors=("each x̄ = its slice of ȳ", lambda g, dim: list(g.unbind(dim))),
    moves=True,
    example=lambda r: ([r(2, 3), r(2, 3)], 1),
)
rule(
    "aten.block_diag",
    "matrices along a diagonal, 0 elsewhere",
    tensors=("each Ā = its block of C̄", lambda g, tensors: _blocks(g, tensors)),
    moves=True,
    example=lambda r: ([r(2, 3), r(1, 2)],),
)


def _blocks(g: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    matrices = [t.reshape(1, -1) if t.ndim < 2 else t for t in tensors]
    rows = [0, *accumulate(m.shape[0] for m in matrices)]
    columns = [0, *accumulate(m.shape[1] for m in matrices)]
    return [
        g[row : row + m.shape[0], column : column + m.shape[1]].reshape(t.shape)
        for t, m, row, column in zip(tensors, matrices, rows, columns, strict=False)
    ]


for _name in ("split", "unsafe_split"):
    rule(
        f"aten.{_name}.Tensor",
        "x cut into pieces of one size along an axis",
        self=(
            "x̄ = the ȳ joined again",
            lambda g, self, split_size, dim: _joined(g, _even(self, split_size, dim), self, dim),
        ),
        moves=True,
        example=lambda r: (r(3, 5), 2, 1),
    )
    rule(
        f"aten.{_name}_with_sizes",
        "x cut into pieces along an axis",
        self=("x̄ = the ȳ joined again", lambda g, self, split_sizes, dim: _joined(g, split_sizes, self, dim)),
        moves=True,
        example=lambda r: (r(3, 5), [1, 4], -1),
    )
rule(
    "aten.unbind.int",
    "x cut into its slices along an axis",
    self=(
        "x̄ = the ȳ stacked again",
        lambda g, self, dim: torch.stack([self.select(dim, 0) * 0 if part is None else part for part in g], dim),
    ),
    moves=True,
    example=lambda r: (r(3, 2), 1),
)


rule(
    "aten.channel_shuffle",
    "the channels of each group, one of every group in turn",
    self=(
        "x̄ = ȳ with the channels put back",
        lambda g, groups: g.unflatten(1, (g.shape[1] // groups, groups)).transpose(1, 2).flatten(1, 2),
    ),
    moves=True,
    example=lambda r: (r(2, 6, 3), 2),
)
rule(
    "aten.narrow_copy",
    "y = length elements of x from start on, along an axis",
    self=(
        "x̄ = ȳ at these places, 0 elsewhere",
        lambda g, self, dim, start, length: brought_back(g, self, lambda x: x.narrow(dim, start, length)),
    ),
    moves=True,
    example=lambda r: (r(3, 5), 1, 1, 3),
)
rule(
    "aten.unfold_backward",
    "windows along an axis added up, each at its place",
    grad_in=("ḡ = the windows of ȳ", lambda g, dim, size, step: g.unfold(dim, size, step)),
    example=lambda r: (r(2, 2, 3), [2, 5], 1, 3, 2),
)
