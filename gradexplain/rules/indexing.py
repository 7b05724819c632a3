"""Operators that pick elements by index or mask, and those that write into a copy. Repeated indices add up."""

from collections.abc import Callable
from dataclasses import dataclass
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
    "aten._unsafe_masked_index",
    "y = x[i, j, …] where the mask is true, else a number",
    self=(
        "x̄ = Σ ȳ over the places that read the element",
        lambda g, self, mask, indices: torch.ops.aten.index_put(
            g.new_zeros(self.shape), _inside(indices, mask), g * mask, True
        ),
    ),
    moves=True,
    example=lambda r: (r(3, 4), r.mask(2, 5), [r.ints(3, 2, 1), r.ints(4, 5)], 0.0),
)


def _inside(indices: Any, mask: Tensor) -> list[Tensor | None]:
    """Returns indices that read the first element where the mask is false."""
    return [None if i is None else torch.where(mask, i, 0) for i in indices]


rule(
    "aten._unsafe_masked_index_put_accumulate",
    "y = x with y[i, j, …] += v where the mask is true",
    self=("x̄ = ȳ", lambda g: g),
    values=(
        "v̄ = ȳ[i, j, …] where the mask is true, else 0",
        lambda g, mask, indices, values: torch.ops.aten.index(g, _inside(indices, mask)) * mask,
    ),
    example=lambda r: (r(3, 4), r.mask(2, 5), [r.ints(3, 2, 1), r.ints(4, 5)], r(2, 5)),
)
rule(
    "aten.put",
    "y = x with y[iₖ] = s[k], or += s[k] to accumulate, x read in order",
    self=(
        "x̄ = ȳ, 0 where s was written",
        lambda g, index, accumulate: g if accumulate else g.put(index, g.new_zeros(index.shape)),
    ),
    source=(
        "s̄[k] = ȳ[iₖ] where s[k] was not written over",
        lambda g, index, source, accumulate: _taken(g, index, accumulate).reshape(source.shape),
    ),
    why="scatter_repeated",
    example=(lambda r: (r(3, 4), r.places(12, 2, 3), r(2, 3)), lambda r: (r(3, 4), r.ints(12, 6), r(6), True)),
)


def _taken(g: Tensor, index: Tensor, accumulate: bool) -> Tensor:
    """Reads g at the places written; of several that wrote to one, the last alone stayed."""
    flat = index.reshape(-1) % g.numel()
    order = torch.arange(flat.numel(), device=g.device)
    last = order.new_zeros(g.numel()).scatter_reduce(0, flat, order, "amax", include_self=False)
    read = g.take(flat)
    return read if accumulate else torch.where(last[flat] == order, read, 0)


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


# A bag k is a run of indices, from offsets[k] on; its rows are added, averaged, or their largest is taken by element.
SUMMED, AVERAGED, LARGEST = 0, 1, 2


def _uses(indices: Tensor, offsets: Tensor, padding_idx: int, include_last_offset: bool) -> tuple[Tensor, Tensor]:
    """Returns the bag of each use of a row, and whether it counts: the row of padding does not."""
    starts = offsets[:-1] if include_last_offset else offsets
    bags = torch.searchsorted(starts, torch.arange(len(indices), device=indices.device).to(starts), right=True) - 1
    return bags, indices != padding_idx


def _bags_back(
    g: Any, weight: Tensor, indices: Tensor, offsets: Tensor, scale_grad_by_freq: bool, mode: int,
    per_sample_weights: Any, include_last_offset: bool, padding_idx: int, y3: Tensor,
) -> Tensor:  # fmt: skip
    rows, counts = indices.long(), _uses(indices, offsets, padding_idx, include_last_offset)
    if mode == LARGEST:
        found = torch.where(y3 >= 0, g[0], 0)
        return torch.zeros_like(weight).scatter_add(0, y3.clamp(min=0).long(), found)
    bags, counted = counts
    each = g[0][bags] * counted[:, None]
    if mode == AVERAGED:
        each = each / torch.zeros(len(g[0])).to(g[0]).index_add(0, bags, counted.to(g[0]))[bags].clamp(min=1)[:, None]
    if per_sample_weights is not None:
        each = each * per_sample_weights[:, None]
    if scale_grad_by_freq:
        each = each / torch.bincount(rows, minlength=len(weight))[rows][:, None]
    return torch.zeros_like(weight).index_add(0, rows, each)


def _bag_weights_back(
    g: Any, weight: Tensor, indices: Tensor, offsets: Tensor, include_last_offset: bool, padding_idx: int
) -> Tensor:
    bags, counted = _uses(indices, offsets, padding_idx, include_last_offset)
    sent: Tensor = (g[0][bags] * weight[indices.long()]).sum(1) * counted
    return sent


rule(
    "aten._embedding_bag",
    "y[k] = Σ aᵢ W[i] over the indices i of bag k; or their mean, or the largest of each element",
    weight=("W̄[i] = Σ aᵢ ȳ[k] over the bags k with i, divided by the size of the bag for a mean", _bags_back),
    per_sample_weights=("āᵢ = ⟨ȳ[k], W[i]⟩", _bag_weights_back),
    over="real",
    why="embedding",
    example=(
        lambda r: (r(5, 3), r.ints(5, 6), torch.tensor([0, 2, 5])),
        lambda r: (r(5, 3), r.ints(5, 6), torch.tensor([0, 2, 6]), False, AVERAGED, False, None, True),
        lambda r: (r(5, 3), r.ints(5, 6), torch.tensor([0, 2, 5]), False, LARGEST),
        lambda r: (r(5, 3), r.ints(5, 6), torch.tensor([0, 4]), False, SUMMED, False, r(6)),
    ),
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


# ------------------------------------------------------------------------------------------------- reduced by places
#
# y at a place is the sum, mean, product, largest or smallest of what met there: of the numbers sent to it, and of the
# one that stood there if that is included. A cotangent goes to each of them as it does in a reduction along an axis.


def _met(self: Tensor, dim: int, index: Tensor, include_self: bool) -> Tensor:
    """Returns how many numbers met at each place, at least 1."""
    start = torch.ones_like(self) if include_self else torch.zeros_like(self)
    return start.scatter_add(dim, index, torch.ones(index.shape, dtype=self.dtype, device=self.device)).clamp(min=1)


@dataclass(frozen=True)
class _Meeting:
    """Numbers that meet at the places of `self`: those of `source`, each at its `index`, and perhaps its own."""

    self: Tensor
    dim: int
    index: Tensor
    source: Tensor
    include_self: bool

    def counted(self, of_self: Tensor, of_source: Tensor) -> Tensor:
        """Returns at each place the sum of what is counted of the numbers that met there."""
        start = of_self if self.include_self else torch.zeros_like(of_self)
        return start.scatter_add(self.dim, self.index, of_source)

    def there(self, places: Tensor) -> Tensor:
        """Returns for each number of the source what stands at its place."""
        return places.gather(self.dim, self.index)

    def multiplied(self, of_self: Tensor, of_source: Tensor) -> Tensor:
        start = of_self if self.include_self else torch.ones_like(of_self)
        return start.scatter_reduce(self.dim, self.index, of_source, "prod", include_self=True)

    def back(self, g: Tensor, y: Tensor, reduce: str) -> tuple[Tensor, Tensor]:
        """Returns what is sent to `self` and to `source`."""
        if reduce in ("sum", "mean"):
            share = g / _met(self.self, self.dim, self.index, self.include_self) if reduce == "mean" else g
            return self._included(share, g), self.there(share)
        if reduce in ("amax", "amin", "max", "min"):
            won, others = (self.self == y).to(g), (self.source == self.there(y)).to(g)
            share = g / self.counted(won, others).clamp(min=1)
            return self._included(won * share, g), others * self.there(share)
        # Σ over the numbers of what the product of the others is: with a 0 among them, only its own is not 0
        zeros = self.counted((self.self == 0).to(g), (self.source == 0).to(g))
        rest = self.multiplied(torch.where(self.self == 0, 1, self.self), torch.where(self.source == 0, 1, self.source))
        return (
            self._included(g * _but_one(self.self, zeros, rest), g),
            self.there(g) * _but_one(self.source, self.there(zeros), self.there(rest)),
        )

    def _included(self, sent: Tensor, g: Tensor) -> Tensor:
        """Returns what is sent to what stood there; where that was left out, only untouched places keep theirs."""
        if self.include_self:
            return sent
        return g.scatter(self.dim, self.index, 0)


def _but_one(x: Tensor, zeros: Tensor, rest: Tensor) -> Tensor:
    """Returns the product of the others, where `rest` is that of all that are not 0."""
    return torch.where(x == 0, torch.where(zeros == 1, rest, 0), torch.where(zeros == 0, rest / x, 0))


_REDUCED = "y = x with the s[k] added at place iₖ; or their mean, product, largest or smallest"
_TO_SELF = "x̄ = ȳ, as in the reduction of what met at its place"
_TO_SOURCE = "s̄[k] = ȳ[iₖ], as in the reduction of what met there"


def _cornered(source: Tensor, index: Tensor) -> Tensor:
    """A scatter reads the first `index.shape` elements of its source."""
    return source[tuple(slice(0, size) for size in index.shape)] if source.ndim else source


rule(
    "aten.scatter_reduce.two",
    _REDUCED,
    self=(
        _TO_SELF,
        lambda g, self, dim, index, src, y, reduce, include_self: _Meeting(
            self, dim, index, _cornered(src, index), include_self
        ).back(g, y, reduce)[0],
    ),
    src=(
        _TO_SOURCE,
        lambda g, self, src, dim, index, y, reduce, include_self: _in_corner(
            _Meeting(self, dim, index, _cornered(src, index), include_self).back(g, y, reduce)[1], src
        ),
    ),
    over="real",
    example=(
        lambda r: (r(3, 4), 1, r.ints(4, 3, 5), r(3, 5), "sum"),
        lambda r: (r(3, 4), 1, r.ints(4, 3, 5), r(3, 5), "mean"),
        lambda r: (r(3, 4), 1, r.ints(4, 3, 5), r(3, 5), "mean", {"include_self": False}),
        lambda r: (r(3, 4), 1, r.ints(4, 3, 5), r(3, 5), "prod"),
        lambda r: (r(3, 4), 0, r.ints(3, 5, 4), r(5, 4), "amax", {"include_self": False}),
        lambda r: (r(3, 4), 0, r.ints(3, 5, 4), r(5, 4), "amin"),
    ),
)


def _rows_meeting(self: Tensor, dim: int, index: Tensor, source: Tensor, include_self: bool) -> _Meeting:
    """Gives every element of the slices of a source the index of its slice."""
    dim %= self.ndim
    spread = index.reshape([-1 if axis == dim else 1 for axis in range(self.ndim)]).expand_as(source)
    return _Meeting(self, dim, spread, source, include_self)


def _segments_back(g: Tensor, data: Tensor, y: Tensor, reduce: str, lengths: Any, offsets: Any, initial: Any) -> Tensor:
    """Each segment of the rows meets at its number; `initial` is one more number that does."""
    sizes = lengths if lengths is not None else offsets.diff()
    if sizes.ndim != 1 or (reduce == "mean" and initial is not None):
        raise NotImplementedError
    start = torch.zeros_like(y) if initial is None else torch.full_like(y, initial)
    index = torch.arange(len(sizes), device=data.device).repeat_interleave(sizes)
    return _rows_meeting(start, 0, index, data, initial is not None).back(g, y, reduce)[1]


rule(
    "aten.segment_reduce",
    "y[k] = the sum, mean, product, largest or smallest of the rows of segment k",
    data=(
        "x̄ = ȳ[k], as in the reduction of the rows of segment k",
        lambda g, data, y, reduce, lengths, offsets, initial: _segments_back(
            g, data, y, reduce, lengths, offsets, initial
        ),
    ),
    over="real",
    example=(
        lambda r: (r(5, 2), "sum", {"lengths": torch.tensor([2, 3])}),
        lambda r: (r(5, 2), "mean", {"lengths": torch.tensor([1, 4])}),
        lambda r: (r(5, 2), "prod", {"lengths": torch.tensor([2, 3])}),
        lambda r: (r(5, 2), "max", {"lengths": torch.tensor([2, 3]), "initial": 0.1}),
        lambda r: (r(5), "min", {"offsets": torch.tensor([0, 2, 5])}),
    ),
)
