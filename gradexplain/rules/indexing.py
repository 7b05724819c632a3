"""Operators that pick elements by index or mask, and those that write into a copy. Repeated indices add up."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gradexplain.rules.application import summed_to
from gradexplain.rules.entries import rule
from gradexplain.rules.reductions import placed
from gradexplain.rules.shapes import brought_back


def _kept(g: Tensor, overwritten: Tensor) -> Tensor:
    """Returns g, 0 where the operator wrote something else over what was there."""
    return torch.where(overwritten, 0, g)


def _at(self: Tensor, dim: int, index: Tensor) -> Tensor:
    """Returns a mask of `self`, true in the slices `index` along `dim`."""
    mask = torch.zeros_like(self, dtype=torch.bool)
    return mask.index_fill(dim, index, True) if self.ndim else mask | True


def _in_corner(g: Tensor, src: Tensor) -> Tensor:
    """A scatter reads the first `index.shape` elements of its source; the others get nothing."""
    return torch.nn.functional.pad(
        g, [n for axis in reversed(range(src.ndim)) for n in (0, src.shape[axis] - g.shape[axis])]
    )


# ----------------------------------------------------------------------------------------------------------- reading

rule(
    "aten.index.Tensor",
    "y = x[i, j, …]",
    self=(
        "x̄ = Σ ȳ over the places that read the element",
        lambda g, self, indices: torch.ops.aten.index_put(g.new_zeros(self.shape), indices, g, True),
    ),
    moves=True,
    example=(
        lambda r: (r(3, 4), [r.ints(3, 5)]),
        lambda r: (r(3, 4), [None, r.ints(4, 2, 3)]),
        lambda r: (r(3, 4), [r.ints(3, 2, 1), r.ints(4, 3)]),
        lambda r: (r(3, 4), [r.mask(3, 4)]),
    ),
)
rule(
    "aten.gather",
    "y[k] = x[iₖ] along an axis",
    self=("x̄[i] = Σ ȳ[k] over the k with iₖ = i", lambda g, self, dim, index: placed(g, self, dim, index)),
    moves=True,
    example=lambda r: (r(3, 4), 1, r.ints(4, 3, 5)),
)
rule(
    "aten.index_select",
    "y[k] = x[iₖ], whole slices along an axis",
    self=(
        "x̄[i] = Σ ȳ[k] over the k with iₖ = i",
        lambda g, self, dim, index: (
            g.new_zeros(self.shape).index_add(dim, index, g) if self.ndim else g.sum().reshape(())
        ),
    ),
    moves=True,
    example=lambda r: (r(3, 4), 1, r.ints(4, 6)),
)
rule(
    "aten.take",
    "y[k] = x[iₖ], x read in order",
    self=(
        "x̄[i] = Σ ȳ[k] over the k with iₖ = i",
        lambda g, self, index: brought_back(g, self, lambda x: x.take(index)),
    ),
    moves=True,
    example=lambda r: (r(3, 4), r.ints(12, 2, 4)),
)
rule(
    "aten.masked_select",
    "y = the elements of x where the mask is true, in order",
    self=(
        "x̄ = the ȳ in order where the mask is true, 0 elsewhere",
        lambda g, self, mask: brought_back(g, self, lambda x: x.masked_select(mask)),
    ),
    moves=True,
    example=(lambda r: (r(3, 4), r.mask(3, 4)), lambda r: (r(3, 1), r.mask(4))),
)
rule(
    "aten.embedding",
    "y[k] = W[iₖ]",
    weight=(
        "W̄[i] = Σ ȳ[k] over the k with iₖ = i",
        lambda g, weight, indices, padding_idx, scale_grad_by_freq: _embedding_back(
            g, weight, indices, padding_idx, scale_grad_by_freq
        ),
    ),
    moves=True,
    why="embedding",
    example=lambda r: (r(5, 3), r.ints(4, 2, 4)),
)


def _embedding_back(g: Tensor, weight: Tensor, indices: Tensor, padding_idx: int, scale_grad_by_freq: bool) -> Tensor:
    """The sum over the uses of a row; the padding row gets none, and the sum becomes the mean if it is so asked."""
    rows, flat = indices.reshape(-1), g.reshape(-1, weight.shape[1])
    if scale_grad_by_freq:
        flat = flat / torch.bincount(rows, minlength=weight.shape[0])[rows][:, None]
    if padding_idx >= 0:
        flat = flat * (rows != padding_idx)[:, None]
    return weight.new_zeros(weight.shape).index_add_(0, rows, flat)


# ----------------------------------------------------------------------------------------------------------- writing


def _lasting(
    sent: Tensor, g: Tensor, write: Callable[[Tensor, Tensor], Tensor], read: Callable[[Tensor], Tensor]
) -> Tensor:
    """Returns `sent` where what was written is what is read again: where an index occurs twice, one value stays."""
    numbers = torch.arange(sent.numel(), device=g.device).reshape(sent.shape)
    whole = torch.zeros(g.shape, dtype=torch.long, device=g.device)
    return torch.where(read(write(whole, numbers)) == numbers, sent, 0)


rule(
    "aten.scatter.src",
    "y = x with y[iₖ] = s[k] along an axis",
    self=("x̄ = ȳ, 0 where s was written", lambda g, dim, index: g.scatter(dim, index, 0)),
    src=(
        "s̄[k] = ȳ[iₖ] where s[k] was not written over",
        lambda g, src, dim, index: _in_corner(
            _lasting(g.gather(dim, index), g, lambda x, s: x.scatter(dim, index, s), lambda x: x.gather(dim, index)),
            src,
        ),
    ),
    moves=True,
    why="scatter_repeated",
    example=lambda r: (r(3, 4), 1, torch.tensor([[2, 0], [1, 3]]), r(2, 2)),
)
rule(
    "aten.scatter.value",
    "y = x with y[iₖ] = v along an axis",
    self=("x̄ = ȳ, 0 where v was written", lambda g, dim, index: g.scatter(dim, index, 0)),
    moves=True,
    example=lambda r: (r(3, 4), 1, r.ints(4, 2, 2), 0.7),
)
rule(
    "aten.scatter_add",
    "y = x with y[iₖ] += s[k] along an axis",
    self=("x̄ = ȳ", lambda g: g),
    src=("s̄[k] = ȳ[iₖ]", lambda g, src, dim, index: _in_corner(g.gather(dim, index), src)),
    example=lambda r: (r(3, 4), 1, r.ints(4, 2, 5), r(2, 5)),
)
rule(
    "aten.index_add",
    "y = x with y[iₖ] += α s[k], whole slices along an axis",
    self=("x̄ = ȳ", lambda g: g),
    source=("s̄[k] = α ȳ[iₖ]", lambda g, source, dim, index, alpha: _slices(g, dim, index, source) * alpha),
    example=lambda r: (r(3, 4), 1, r.ints(4, 5), r(3, 5), {"alpha": 0.7}),
)


def _slices(g: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    return (g.index_select(dim, index) if g.ndim else g).reshape(source.shape)


rule(
    "aten.index_copy",
    "y = x with y[iₖ] = s[k], whole slices along an axis",
    self=("x̄ = ȳ, 0 where s was written", lambda g, self, dim, index: _kept(g, _at(self, dim, index))),
    source=(
        "s̄[k] = ȳ[iₖ] where s[k] was not written over",
        lambda g, source, dim, index: _lasting(
            _slices(g, dim, index, source),
            g,
            lambda x, s: x.index_copy(dim, index, s),
            lambda x: _slices(x, dim, index, source),
        ),
    ),
    moves=True,
    why="scatter_repeated",
    example=lambda r: (r(3, 4), 1, torch.tensor([2, 0]), r(3, 2)),
)
rule(
    "aten.index_fill.int_Scalar",
    "y = x with y[iₖ] = v, whole slices along an axis",
    self=("x̄ = ȳ, 0 where v was written", lambda g, self, dim, index: _kept(g, _at(self, dim, index))),
    moves=True,
    example=lambda r: (r(3, 4), 1, r.ints(4, 2), 0.7),
)
rule(
    "aten.index_fill.int_Tensor",
    "y = x with y[iₖ] = v, whole slices along an axis",
    self=("x̄ = ȳ, 0 where v was written", lambda g, self, dim, index: _kept(g, _at(self, dim, index))),
    value=("v̄ = Σ ȳ where v was written", lambda g, self, dim, index: (g * _at(self, dim, index)).sum()),
    moves=True,
    example=lambda r: (r(3, 4), 1, r.ints(4, 2), r()),
)


def _index_put_self(g: Tensor, self: Tensor, indices: Any, accumulate: bool) -> Tensor:
    if accumulate:
        return g
    return _kept(g, torch.ops.aten.index_put(torch.zeros_like(self, dtype=torch.bool), indices, torch.tensor(True)))


def _index_put_values(g: Tensor, indices: Any, accumulate: bool) -> Tensor:
    def read(x: Tensor) -> Tensor:
        found: Tensor = torch.ops.aten.index(x, indices)
        return found

    return read(g) if accumulate else _lasting(read(g), g, lambda x, v: torch.ops.aten.index_put(x, indices, v), read)


rule(
    "aten.index_put",
    "y = x with y[i, j, …] = v, or += v to accumulate",
    self=(
        "x̄ = ȳ, 0 where v was written",
        lambda g, self, indices, accumulate: _index_put_self(g, self, indices, accumulate),
    ),
    values=(
        "v̄ = ȳ[i, j, …] where v was not written over",
        lambda g, values, indices, accumulate: summed_to(_index_put_values(g, indices, accumulate), values.shape),
    ),
    why="scatter_repeated",
    example=(
        lambda r: (r(3, 4), [torch.tensor([2, 0])], r(4)),
        lambda r: (r(3, 4), [None, r.ints(4, 5)], r(3, 5), True),
        lambda r: (r(3, 4), [r.mask(3, 4)], r()),
    ),
)
rule(
    "aten.masked_scatter",
    "y = x with the elements of s in order where the mask is true",
    self=("x̄ = ȳ, 0 where the mask is true", lambda g, self, mask: summed_to(_kept(g, mask), self.shape)),
    source=(
        "s̄ = the ȳ where the mask is true, in order, then 0",
        lambda g, source, mask: _first(g.masked_select(mask), source),
    ),
    moves=True,
    example=lambda r: (r(3, 4), r.mask(3, 4), r(3, 5)),
)


def _first(g: Tensor, source: Tensor) -> Tensor:
    return torch.nn.functional.pad(g, [0, source.numel() - g.numel()]).reshape(source.shape)


def _window(self: Tensor, mark: Any) -> Tensor:
    """Returns a mask of `self`, true at the elements of the view that `mark` takes of it."""
    mask = torch.zeros(self.shape, dtype=torch.bool, device=self.device)
    mark(mask).fill_(True)
    return mask


_WRITTEN, _READ = "x̄ = ȳ, 0 where s was written", "s̄ = ȳ where s was written"
rule(
    "aten.select_scatter",
    "y = x with y[…, i, …] = s",
    self=(_WRITTEN, lambda g, dim, index: _kept(g, _window(g, lambda x: x.select(dim, index)))),
    src=(_READ, lambda g, dim, index: g.select(dim, index)),
    moves=True,
    example=lambda r: (r(3, 4), r(3), 1, -2),
)
rule(
    "aten.slice_scatter",
    "y = x with y[…, start:end:step, …] = s",
    self=(
        _WRITTEN,
        lambda g, dim, start, end, step: _kept(g, _window(g, lambda x: torch.ops.aten.slice(x, dim, start, end, step))),
    ),
    src=(_READ, lambda g, dim, start, end, step: torch.ops.aten.slice(g, dim, start, end, step)),
    moves=True,
    example=lambda r: (r(3, 5), r(3, 2), 1, 1, 5, 2),
)
rule(
    "aten.diagonal_scatter",
    "y = x with s on the diagonal",
    self=(_WRITTEN, lambda g, offset, dim1, dim2: _kept(g, _window(g, lambda x: x.diagonal(offset, dim1, dim2)))),
    src=(_READ, lambda g, offset, dim1, dim2: g.diagonal(offset, dim1, dim2)),
    moves=True,
    example=lambda r: (r(3, 4), r(3), 1),
)
rule(
    "aten.as_strided_scatter",
    "y = x with s at given strides in memory",
    self=(
        _WRITTEN,
        lambda g, size, stride, storage_offset: _kept(
            g, _window(g, lambda x: x.as_strided(size, stride, storage_offset))
        ),
    ),
    src=(
        _READ,
        lambda g, size, stride, storage_offset: g.contiguous().as_strided(size, stride, storage_offset),
    ),
    moves=True,
    example=lambda r: (r(3, 4), r(2, 2), [2, 2], [4, 1], 1),
)
rule(
    "aten.copy_",
    "y = s, in the place of x",
    self=("x̄ = 0", lambda g: torch.zeros_like(g)),
    src=("s̄ = ȳ", lambda g, src: summed_to(g, src.shape).to(src.dtype)),
    moves=True,
    example=lambda r: (r(3, 4), r(4)),
)
rule(
    "aten.fill.Tensor",
    "y = v everywhere",
    self=("x̄ = 0", lambda g: torch.zeros_like(g)),
    value=("v̄ = Σ ȳ", lambda g: g.sum()),
    moves=True,
    example=lambda r: (r(3, 4), r()),
)
rule(
    "aten.fill.Scalar", "y = v everywhere", self=("x̄ = 0", lambda g: torch.zeros_like(g)), example=lambda r: (r(3), 0.7)
)
rule("aten.zero", "y = 0 everywhere", self=("x̄ = 0", lambda g: torch.zeros_like(g)), example=lambda r: (r(3),))


def _scatter_reduce_self(g: Tensor, self: Tensor, dim: int, index: Tensor, reduce: str, include_self: bool) -> Tensor:
    if not include_self:
        g = g.scatter(dim, index, 0)
    return g / _met(self, dim, index, include_self) if reduce == "mean" else g


def _met(self: Tensor, dim: int, index: Tensor, include_self: bool) -> Tensor:
    """Returns how many numbers met at each place, at least 1."""
    start = torch.ones_like(self) if include_self else torch.zeros_like(self)
    return start.scatter_add(dim, index, torch.ones(index.shape, dtype=self.dtype, device=self.device)).clamp(min=1)


rule(
    "aten.scatter_reduce.two",
    "y = x with the s[k] added, or averaged, at place iₖ",
    self=(
        "x̄ = ȳ, divided by the number averaged",
        lambda g, self, dim, index, reduce, include_self: (
            _only_sums(reduce) and _scatter_reduce_self(g, self, dim, index, reduce, include_self)
        ),
    ),
    src=(
        "s̄[k] = ȳ[iₖ], divided by the number averaged",
        lambda g, self, src, dim, index, reduce, include_self: (
            _only_sums(reduce)
            and _in_corner(
                (g / _met(self, dim, index, include_self) if reduce == "mean" else g).gather(dim, index), src
            )
        ),
    ),
    example=(
        lambda r: (r(3, 4), 1, r.ints(4, 3, 5), r(3, 5), "sum"),
        lambda r: (r(3, 4), 1, r.ints(4, 3, 5), r(3, 5), "mean"),
        lambda r: (r(3, 4), 1, r.ints(4, 3, 5), r(3, 5), "mean", {"include_self": False}),
    ),
)


def _only_sums(reduce: str) -> bool:
    if reduce not in ("sum", "mean"):
        raise NotImplementedError(reduce)
    return True
