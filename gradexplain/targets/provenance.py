"""Where a record comes from: its format, the machine, and the digests of the files and tensors behind it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# The number of the receipts' format: another one is not read.
FORMAT = 2


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
