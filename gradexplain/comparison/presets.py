"""The pairs that people have: one target against itself, run in another way. The reference is the plain one.

`float64`, `float32`  the same code with its numbers in that type
`eager`               what the compiler made of it, against the code as it was written
`batch`               a batch in parts, each of which counts alike, against the whole batch
`math`                the kernels that torch chooses, against the plain formulas
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradexplain.comparison.comparing import compare_sides
from gradexplain.comparison.comparison import Comparison
from gradexplain.comparison.compiled import compiling, parting_region
from gradexplain.comparison.differences import Size
from gradexplain.comparison.sides import Side, sides_of
from gradexplain.errors import InputError
from gradexplain.findings.finding import Finding
from gradexplain.recording.computation import with_dtype

# The pairs, and what the two sides of each are called.
PRESETS: Mapping[str, tuple[str, str]] = {
    "float64": ("{name}, float64", "{name}"),
    "float32": ("{name}, float32", "{name}"),
    "eager": ("{name}, eager", "{name}, {backend}"),
    "batch": ("{name}, whole batch", "{name}, {parts} parts"),
    "math": ("{name}, plain formulas", "{name}"),
}


@dataclass(frozen=True)
class Subject:
    """What is held against itself: a function or a module, its inputs, and how both sides are asked."""

    function: Callable[..., object]
    inputs: Mapping[str, Any] | Sequence[Any]
    name: str
    wrt: Sequence[str] | None = None
    dtype: torch.dtype | None = None
    second: bool = False

    def sides(self, a: Callable[..., object], b: Callable[..., object], names: tuple[str, str]) -> tuple[Side, Side]:
        """Returns two sides with the same parameters and inputs."""
        one, other, _ = sides_of(a, b, self.inputs, rename={}, wrt=self.wrt, names=names, dtype=self.dtype)
        return one, other

    def compared(
        self, one: Side, other: Side, against: str, names: tuple[str, str], sizes: Sequence[Size] = ()
    ) -> Comparison:
        """Returns what comes of two sides; `sizes` are further numbers that a factor may be made of."""
        found = compare_sides(one, other, rename={}, second=self.second, sizes=sizes)
        return replace(found, against=against, names=names)


def compare_against(subject: Subject, against: str, *, parts: int = 2, backend: str | None = None) -> Comparison:
    """Returns what comes of comparing a subject with itself, run in the plain way; raises `InputError`."""
    if against not in PRESETS:
        raise InputError("compare_against", name=against, names=", ".join(PRESETS))
    backend = backend or ("inductor" if shutil.which("cc") or shutil.which("gcc") else "aot_eager")
    data = {"name": subject.name, "backend": backend, "parts": parts}
    first, second = PRESETS[against]
    names = first.format(**data), second.format(**data)
    if against == "batch":
        return _batch(subject, names, parts)
    if against == "eager":
        return _eager(subject, names, backend)
    if against == "math":
        one, other = subject.sides(subject.function, subject.function, names)
        return subject.compared(replace(one, around=(_plain_formulas,)), other, against, names)
    return _types(subject, names, against)


# ------------------------------------------------------------------------------------------------------------- types


def _types(subject: Subject, names: tuple[str, str], against: str) -> Comparison:
    one, other = subject.sides(subject.function, subject.function, names)
    if against == "float64":
        one = next(one.widened([]))
    else:
        one = replace(one, computation=with_dtype(one.computation, getattr(torch, against)))
    return subject.compared(one, other, against, names)


# ---------------------------------------------------------------------------------------------------------- compiled


def _eager(subject: Subject, names: tuple[str, str], backend: str) -> Comparison:
    """Compares what the compiler made with the code as it was written; where they differ, says in which region."""
    from torch._dynamo import list_backends

    if backend not in list_backends(None):
        raise InputError("compare_backend", name=backend, names=", ".join(list_backends()))
    plain = as_written(subject.function)
    with compiling(plain):
        compiled = torch.compile(plain, backend=backend) if plain is subject.function else subject.function
        one, other = subject.sides(plain, compiled, names)
        found = subject.compared(one, other, "eager", names)
        if found.verdict == "differs" and found.place is None:
            region = parting_region(backend, plain, lambda part: subject.sides(plain, part, names))
            findings = (*found.findings, region) if region is not None else found.findings
            found = replace(found, findings=findings)
    return found


def as_written(function: Callable[..., object]) -> Callable[..., object]:
    """Returns a compiled function or module as it was written; any other as it is."""
    inner = getattr(function, "_orig_mod", None) or getattr(function, "_torchdynamo_orig_callable", None)
    return inner if callable(inner) else function


# ------------------------------------------------------------------------------------------------------------ kernels


@contextmanager
def _plain_formulas() -> Iterator[None]:
    """Lets torch run plain formulas in place of fused kernels, wherever it has a choice."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast = torch.backends.mha.get_fastpath_enabled()
    with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False):
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


# -------------------------------------------------------------------------------------------------------------- parts


def _batch(subject: Subject, names: tuple[str, str], parts: int) -> Comparison:
    """Compares the whole batch with its parts; where their mean is another loss, says which weights would do."""
    one, _ = subject.sides(subject.function, subject.function, names)
    own = [n for n in one.computation.inputs if n not in one.computation.parameters]
    batched = _batched({n: one.computation.inputs[n] for n in own}, parts)
    sizes = _chunks(one.computation.inputs[batched[0]].shape[0], parts)

    def whole(given: Mapping[str, Any]) -> object:
        return _loss(one.computation.call(given))

    def in_parts(weights: Sequence[float]) -> Side:
        accumulated = partial(_accumulated, one, batched, sizes, weights)
        return replace(one, computation=replace(one.computation, call=accumulated))

    reference = replace(one, computation=replace(one.computation, call=whole))
    found = subject.compared(reference, in_parts([1 / parts] * parts), "batch", names, [Size(parts, kind="parts")])
    statistics = [
        n for m in one.computation.modules.values() for n, i in nn.Module.named_modules(m) if _is_batch_norm(i)
    ]
    if statistics:
        found = replace(
            found, findings=(*found.findings, Finding("batch-statistics", {"names": ", ".join(statistics[:4])}))
        )
    if found.verdict == "differs":
        for what, weights in _weightings(one.computation.inputs, batched, sizes).items():
            again = compare_sides(one, in_parts(weights), rename={})
            if again.verdict == "same":
                shown = ", ".join(f"{w:.6g}" for w in weights)
                data = {"what": what, "weights": shown, "parts": parts}
                return replace(found, findings=(*found.findings, Finding("weights-of-parts", data)))
    return found


def _is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._NormBase) and module.training


def _batched(inputs: Mapping[str, Any], parts: int) -> list[str]:
    """Returns the inputs that are divided: those that are as long as the first one."""
    lengths = {n: v.shape[0] for n, v in inputs.items() if isinstance(v, Tensor) and v.dim() > 0}
    if not lengths:
        raise InputError("compare_no_batch", names=", ".join(inputs) or "–")
    length = next(iter(lengths.values()))
    if not 2 <= parts <= length:
        raise InputError("compare_parts", parts=parts, size=length, name=next(iter(lengths)))
    return [n for n, size in lengths.items() if size == length]


def _chunks(length: int, parts: int) -> list[int]:
    return [length // parts + (i < length % parts) for i in range(parts)]


def _accumulated(
    side: Side, batched: Sequence[str], sizes: Sequence[int], weights: Sequence[float], given: Mapping[str, Any]
) -> object:
    """Returns the weighted sum of what the parts of a batch give."""
    divided = {n: given[n].split(list(sizes)) for n in batched}
    total: Any = None
    for i, weight in enumerate(weights):
        result = _loss(side.computation.call({**given, **{n: parts[i] for n, parts in divided.items()}}))
        total = result * weight if total is None else total + result * weight
    return total


def _loss(result: object) -> Tensor:
    if not isinstance(result, Tensor) or result.numel() != 1:
        raise InputError("compare_batch_loss", seen=_described(result))
    return result


def _described(result: object) -> str:
    return f"shape {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__


def _weightings(inputs: Mapping[str, Any], batched: Sequence[str], sizes: Sequence[int]) -> dict[str, list[float]]:
    """Returns the weights that parts of a batch may have, by what they are the share of."""
    total, found = sum(sizes), {}
    found[f"{batched[0]}.shape[0]"] = [n / total for n in sizes]
    for name in batched:
        labels = inputs[name]
        if labels.dtype in (torch.int64, torch.int32, torch.bool):
            kept = {f"({name} >= 0).sum()": labels >= 0, f"({name} != 0).sum()": labels != 0}
            for what, mask in kept.items():
                counts = [int(part.sum()) for part in mask.split(list(sizes))]
                if sum(counts):
                    found[what] = [n / sum(counts) for n in counts]
    found["1"] = [1.0 for _ in sizes]
    return found
