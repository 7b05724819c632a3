"""The shortest decimal that names a number in its dtype: 0.1 for the float32 that is 0.100000001490116…"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


def shortest(value: Any, dtype: torch.dtype) -> float:
    """Returns the shortest decimal that rounds to `value` in `dtype`."""
    import torch

    if not isinstance(value, float) or not math.isfinite(value) or dtype == torch.float64:
        return float(value)
    if dtype == torch.float32:
        return float(str(np.float32(value)))
    if dtype == torch.float16:
        return float(str(np.float16(value)))
    for digits in range(1, 10):
        candidate = float(f"{value:.{digits}g}")
        if torch.tensor(candidate, dtype=dtype).item() == value:
            return candidate
    return value
