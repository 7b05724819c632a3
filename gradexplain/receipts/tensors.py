"""Tensors in receipts: read from their digits, and held against those that were derived again.

On the same machine with the same torch the bits must be the same. Elsewhere the last digits may differ: what rounding
explains is accepted and said, what it cannot explain is refused, and what lies between is left open.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradexplain.mathematics.digits import shortest
from gradexplain.mathematics.terms import number_text
from gradexplain.receipts.format import WORDS
from gradexplain.receipts.ledger import Ledger
from gradexplain.targets.provenance import tensor_digest
from gradexplain.verification.oracles.question import MARGIN, RESOLUTION, index_of

_DIGITS = 9


def read_tensor(value: Any, dtype: torch.dtype, shape: Sequence[int]) -> Tensor | None:
    """Returns the tensor that nested lists stand for; `None` where their shape or their numbers do not fit."""
    try:
        flat = list(_flat(value, dtype, tuple(shape)))
    except ValueError:
        return None
    wide = torch.complex128 if dtype.is_complex else torch.float64 if dtype.is_floating_point else dtype
    try:
        return torch.tensor(flat, dtype=wide).to(dtype).reshape(tuple(shape))
    except (RuntimeError, OverflowError):  # an integer beyond the type
        return None


def _flat(value: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> Iterator[complex]:
    if not shape:
        yield _number(value, dtype)
        return
    if not isinstance(value, list) or len(value) != shape[0]:
        raise ValueError
    for part in value:
        yield from _flat(part, dtype, shape[1:])


def _number(value: Any, dtype: torch.dtype) -> complex:
    if dtype.is_complex:
        if not isinstance(value, list) or len(value) != 2:
            raise ValueError
        return complex(*(_real(part) for part in value))
    if dtype.is_floating_point:
        return _real(value)
    if isinstance(value, bool) != (dtype == torch.bool) or not isinstance(value, int):
        raise ValueError
    return value


def _real(value: Any) -> float:
    if isinstance(value, (bool, list, dict)) or (isinstance(value, str) and value not in WORDS):
        raise ValueError
    return float(value)


def shape_of(value: Any) -> tuple[int, ...]:
    """Returns the shape of nested lists along their first elements, or the one that a summary states."""
    if isinstance(value, dict):
        return tuple(value["shape"])
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return tuple(shape)


@dataclass(frozen=True)
class Comparison:
    """Holds the numbers of a receipt against those derived again; `exact` asks for the same bits.

    Without it, rounding is put down to another machine if that is what `elsewhere` says.
    """

    ledger: Ledger
    exact: bool
    elsewhere: bool = True

    def tensor(self, kind: str, path: str, key: str, claimed: Any, fresh: Tensor | None, *sizes: Tensor | None) -> bool:
        """Claims that `claimed` is `fresh`; rounding is relative to the largest number in it and in `sizes`."""
        if claimed is None or fresh is None:
            holds = claimed is None and fresh is None
            seen, right = ("null" if v is None else "…" for v in (claimed, fresh))
            return self.ledger.claim(kind, holds, path, key, seen=seen, right=right, element="")
        if isinstance(claimed, dict):
            return self._summary(kind, path, key, claimed, fresh, sizes)
        fresh = fresh.to_dense() if fresh.layout != torch.strided else fresh
        read = read_tensor(claimed, fresh.dtype, tuple(fresh.shape))
        if read is None:
            data = {"seen": _shape_text(shape_of(claimed)), "right": _shape_text(fresh.shape)}
            dtype = str(fresh.dtype).removeprefix("torch.")
            return self.ledger.claim(kind, False, path, "tensor_shape", dtype=dtype, **data)
        return self._elements(kind, path, key, read, fresh, sizes)

    def _elements(
        self, kind: str, path: str, key: str, read: Tensor, fresh: Tensor, sizes: Sequence[Tensor | None]
    ) -> bool:
        different = ~_same_bits(read, fresh.cpu())
        if not bool(different.any()):
            return self.ledger.claim(kind, True, path, key)
        wide = torch.complex128 if fresh.dtype.is_complex else torch.float64
        apart = torch.where(different, (read.to(wide) - fresh.cpu().to(wide)).abs(), 0.0).nan_to_num(torch.inf)
        at = index_of(int(apart.flatten().argmax()), fresh.shape)
        data: dict[str, Any] = {
            "seen": _text(read[at]),
            "right": _text(fresh[at]),
            "element": str(list(at)) if at else "",
        }
        return self.judged(kind, path, key, float(apart.max()), fresh.dtype, (fresh, *sizes), data)

    def _summary(
        self,
        kind: str,
        path: str,
        key: str,
        claimed: Mapping[str, Any],
        fresh: Tensor,
        sizes: Sequence[Tensor | None],
    ) -> bool:
        if tuple(claimed["shape"]) != tuple(fresh.shape):
            data = {"seen": _shape_text(claimed["shape"]), "right": _shape_text(fresh.shape)}
            dtype = str(fresh.dtype).removeprefix("torch.")
            return self.ledger.claim(kind, False, path, "tensor_shape", dtype=dtype, **data)
        right = summary_of(fresh)
        # A norm of n numbers that was summed in their own type is off by about √n of its last digits.
        norm = torch.tensor(right["norm"] * math.sqrt(max(fresh.numel(), 1)))
        for name, value in right.items():
            if _same_number(claimed[name], value):
                continue
            seen: dict[str, Any] = {"seen": claimed[name], "right": value, "element": f" ({name})"}
            counted = name in ("nan", "inf") or claimed[name] is None or value is None
            apart = math.inf if counted else abs(float(claimed[name]) - value)
            # A norm is summed in an order of its own: it is never asked for bit by bit.
            if not self.judged(kind, path, key, apart, fresh.dtype, (fresh, norm, *sizes), seen, bits=name != "norm"):
                return False
        same = claimed["sha256"] == tensor_digest(fresh)
        if same or not self.exact:
            return self.ledger.claim(kind, True, path, key)
        data = {"seen": claimed["sha256"][:8], "right": tensor_digest(fresh)[:8], "element": " (sha256)"}
        return self.ledger.claim(kind, False, path, key, **data)

    def judged(
        self,
        kind: str,
        path: str,
        key: str,
        apart: float,
        dtype: torch.dtype,
        sizes: Sequence[Tensor | None],
        data: Mapping[str, Any],
        *,
        bits: bool = True,
    ) -> bool:
        """Judges numbers that are not the same; `bits` asks for the same ones where the machine is the same."""
        if self.exact and bits:
            return self.ledger.claim(kind, False, path, key, **data)
        size = max((_size(t) for t in sizes if t is not None), default=0.0)
        eps = torch.finfo(dtype).eps if dtype.is_floating_point or dtype.is_complex else 0.0
        if apart <= MARGIN * eps * size:
            if bits and self.elsewhere:
                self.ledger.note("$.machine", "within_rounding")
            return self.ledger.claim(kind, True, path, key)
        if not apart <= max(RESOLUTION, MARGIN * eps) * size:
            return self.ledger.claim(kind, False, path, key, **data)
        self.ledger.leave_open(path, "beyond_rounding", apart=f"{apart:.2g}")
        return True


def summary_of(tensor: Tensor) -> dict[str, Any]:
    """Returns the norm, the counts of nan and inf, and the smallest and largest element where there are such."""
    ordered = tensor.layout == torch.strided and not tensor.is_complex() and tensor.numel() > 0
    tensor = tensor.to_dense()
    wide = tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)
    ends = {"min": float(tensor.min()), "max": float(tensor.max())} if ordered else {"min": None, "max": None}
    counts = {"nan": float(tensor.isnan().sum()), "inf": float(tensor.isinf().sum())}
    return {**ends, "norm": float(torch.linalg.vector_norm(wide)), **counts}


def _same_number(seen: Any, right: float | None) -> bool:
    if seen is None or right is None:
        return seen is right
    return float(seen) == right or (math.isnan(float(seen)) and math.isnan(right))


def _same_bits(one: Tensor, other: Tensor) -> Tensor:
    """Says where two tensors are the same number; 0 and −0 are not, nan and nan are."""
    if one.is_complex():
        return _same_bits(torch.view_as_real(one), torch.view_as_real(other.resolve_conj())).all(-1)
    if not one.is_floating_point():
        return one == other
    return ((one == other) & (one.signbit() == other.signbit())) | (one.isnan() & other.isnan())


def _size(tensor: Tensor) -> float:
    """Returns the largest finite number of a tensor."""
    if tensor.is_meta or not tensor.numel():
        return 0.0
    dense = tensor.to_dense() if tensor.layout != torch.strided else tensor
    return float(dense.abs().nan_to_num(0.0, 0.0, 0.0).max()) if dense.dtype != torch.bool else 1.0


def _text(element: Tensor) -> str:
    value = element.item()
    return str(value) if isinstance(value, (bool, complex)) else number_text(shortest(value, element.dtype), _DIGITS)


def _shape_text(shape: Sequence[int]) -> str:
    return str(tuple(shape))
