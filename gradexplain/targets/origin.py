"""Where a result comes from: what was asked for, as it was typed, by which torch on which machine, from which files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# The number of the receipts' format: another one is not read.
FORMAT = 1


@dataclass(frozen=True)
class Origin:
    """What was asked for on the command line, in the texts that were typed: enough to ask again.

    `inputs` and `cotangent` are VALUE texts, `by_hand` formulas; an empty `wrt` asks for every input. `order`,
    `cotangent`, `element` and `module` belong to an explanation, the flags at the end to a verification.
    """

    inputs: Mapping[str, str]
    seed: int = 0
    dtype: str | None = None
    wrt: tuple[str, ...] = ()
    order: int = 1
    cotangent: str | None = None
    by_hand: Mapping[str, str] = field(default_factory=dict)
    element: str | None = None
    module: str | None = None
    effort: float = 2.0
    each_operation: bool = False
    full: bool = False
    second: bool = False
    batched: bool = False
    exact: bool = False


def machine() -> str:
    """Returns what decides the last bits of a result besides torch's version: processor, instructions, threads."""
    import platform

    import torch

    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes; raises `OSError` where it cannot be read."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """Returns the SHA-256 of a tensor's numbers as bytes, in row-major order."""
    import torch

    flat = tensor.detach().to_dense().cpu().contiguous().resolve_conj().resolve_neg().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()
