"""One tensor in a few numbers: small ones whole, larger ones by shape, range, norm and what is unusual."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gradexplain.mathematics.digits import shortest

SMALL = 12
# A norm in float32 below this may lack elements whose squares are below the smallest float32.
_LOST = 1e-15


@dataclass(frozen=True, eq=False)
class TensorSummary:
    """A recorded tensor; its summary is computed when it is first asked for."""

    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> str:
        """The dtype, without `torch.`."""
        return str(self.tensor.dtype).removeprefix("torch.")

    @property
    def small(self) -> bool:
        """Whether the tensor is shown element by element."""
        return self.tensor.numel() <= SMALL and self.tensor.layout == torch.strided

    @cached_property
    def elements(self) -> Any:
        """Nested lists of the elements, each the shortest decimal that names it in its dtype."""
        return _shortened(self.tensor.tolist(), self.tensor.dtype)

    @cached_property
    def norm(self) -> float:
        """The Euclidean norm over the elements; inf or nan where an element is."""
        tensor = self.tensor.to_dense() if self.tensor.layout != torch.strided else self.tensor
        tensor = tensor if tensor.is_floating_point() or tensor.is_complex() else tensor.double()
        # A half type overflows in its own sum of squares; float32 is accumulated in float64 only where it must be:
        # where squares overflow, or underflow and are lost.
        norm = torch.linalg.vector_norm(tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor)
        if _LOST < norm < math.inf:
            return float(norm)
        return float(torch.linalg.vector_norm(tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)))

    @cached_property
    def range(self) -> tuple[float, float] | None:
        """The smallest and the largest element; `None` for complex and for empty tensors."""
        if self.tensor.is_complex() or not self.tensor.numel() or self.tensor.layout != torch.strided:
            return None
        if self.tensor.dtype == torch.bool:
            return float(self.tensor.min()), float(self.tensor.max())
        low, high = torch.aminmax(self.tensor)
        return float(low), float(high)

    @cached_property
    def nans(self) -> int:
        """How many elements are nan."""
        return 0 if math.isfinite(self.norm) else int(self.tensor.isnan().sum())

    @cached_property
    def infinities(self) -> int:
        """How many elements are infinite."""
        return 0 if math.isfinite(self.norm) else int(self.tensor.isinf().sum())

    @property
    def finite(self) -> bool:
        """Whether every element is finite."""
        return math.isfinite(self.norm) or not (self.nans or self.infinities)


def _shortened(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, list):
        return [_shortened(v, dtype) for v in value]
    return shortest(value, dtype) if isinstance(value, float) else value
