"""Comparing, measured beside `torch.testing.assert_close`: pairs that are only rounded otherwise, and planted ones.

.venv/bin/python scripts/bench.py compare --into compare.jsonl                  # goes on where it stopped
.venv/bin/python scripts/bench.py compare --into compare.jsonl --seconds 600    # so long at most
.venv/bin/python scripts/bench.py compare --quick                               # a small sample
.venv/bin/python scripts/bench.py compare --part large                          # a transformer: its time and memory

A pair is a function of torch's operator database, or a model, twice. *Equal* ones are the same function on another way:
with an input that was scaled and scaled back, through torch's own reference implementation in Python, computed in
float64 and rounded, in another order. *Planted* ones have a mistake in the gradient of one of them. The database's
functions are differentiated with generic weights on their outputs. Every verdict is one line of the file.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import resource
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from models import Transformer
from operator_database import operators, sample_of
from rich.progress import track
from sheets import Sheet, share, show
from torch import Tensor, nn

import gradexplain as gx
from gradexplain.recording.tracing import generic

TYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
# What people set by hand, by type: relative and absolute.
BY_HAND = {"float64": (1e-7, 1e-7), "float32": (1e-3, 1e-5), "bfloat16": (2e-2, 2e-2)}
OPERATORS = 200


@dataclass(frozen=True)
class Case:
    """One pair: both sides, what they are called with, and the patterns that what is planted may be called."""

    name: str
    kind: str
    dtype: str
    a: Callable[..., Any]
    b: Callable[..., Any]
    inputs: Sequence[Any]
    planted: tuple[str, ...] = ()
    place: str = ""

    @property
    def key(self) -> str:
        return f"{self.name} · {self.kind} · {self.dtype}"


def add_to(commands: Any) -> None:
    """Adds the subcommand `compare`."""
    command = commands.add_parser("compare", help="comparing, beside assert_close")
    command.add_argument("--into", type=Path, help="the file of verdicts, one a line; what is in it is not asked again")
    command.add_argument("--seconds", type=float, default=math.inf, help="stop after so long")
    command.add_argument("--quick", action="store_true", help="a small sample")
    command.add_argument("--part", choices=("operators", "models", "large"), help="only these")
    command.add_argument("--markdown", action="store_true", help="tables in Markdown")
    command.set_defaults(run=bench_compare)


def bench_compare(arguments: argparse.Namespace) -> None:
    """Prints the tables; with a file, goes on where it ended."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if arguments.part == "large":
        show(large(), markdown=arguments.markdown)
        return
    path, known = arguments.into, {}
    if path is not None and path.exists():
        known = {line["key"]: line for line in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
    started = time.monotonic()
    for case in track(list(cases(arguments.quick, arguments.part)), "pairs"):
        if case.key in known:
            continue
        if time.monotonic() - started > arguments.seconds:
            break
        known[case.key] = asked(case)
        if path is not None:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(known[case.key]) + "\n")
    show(sheets(list(known.values())), markdown=arguments.markdown)


# --------------------------------------------------------------------------------------------------------------- asking


def asked(case: Case) -> dict[str, Any]:
    """Returns what gradexplain and assert_close say of a pair, and what each took, as CPU seconds."""
    found: dict[str, Any] = {"key": case.key, "kind": case.kind, "dtype": case.dtype, "planted": bool(case.planted)}
    try:
        start = time.process_time()
        pair = [gradients(side, case.inputs) for side in (case.a, case.b)]
        found["runs"] = time.process_time() - start
        found["default"] = close(*pair)
        found["by hand"] = close(*pair, *BY_HAND[case.dtype])
        found["apart"] = apart(*pair)
        start = time.process_time()
        comparison = gx.compare(case.a, case.b, case.inputs)
        found["seconds"] = time.process_time() - start
    except Exception as fault:  # a case that cannot be run in this type is none
        return {**found, "skipped": f"{type(fault).__name__}: {str(fault)[:100]}"}
    found["verdict"] = comparison.verdict
    found["reasons"] = sorted({t.reason for t in comparison.tensors if t.verdict == comparison.verdict})
    found["hidden"] = max((t.hidden for t in comparison.tensors), default=0.0)
    if case.planted and comparison.verdict == "differs":
        patterns = {t.pattern.kind for t in comparison.tensors if t.pattern is not None and t.kind == "gradient"}
        patterns |= {t.reason for t in comparison.tensors if t.reason == "missing"}
        found["pattern"] = bool(patterns & {*case.planted})
        found["patterns"] = sorted(patterns)
        place = comparison.place
        found["place"] = place is not None and case.place in " ".join(
            f"{s.operator} {s.module} {s.source.code if s.source else ''}" for s in place.steps if s is not None
        )
    return found


def gradients(side: Callable[..., Any], inputs: Sequence[Any]) -> list[Tensor | None]:
    """Returns the gradients of a side as anybody computes them."""
    torch.manual_seed(0)
    leaves = [t.detach().clone().requires_grad_(t.is_floating_point()) if isinstance(t, Tensor) else t for t in inputs]
    wanted = [t for t in leaves if isinstance(t, Tensor) and t.requires_grad]
    wanted += list(side.parameters()) if isinstance(side, nn.Module) else []
    output = side(*leaves)
    return list(torch.autograd.grad(output, wanted, generic(output) if output.numel() > 1 else None, allow_unused=True))


def close(one: Sequence[Tensor | None], other: Sequence[Tensor | None], *tolerances: float) -> bool:
    """Says whether assert_close takes all gradients for the same."""
    options = dict(zip(("rtol", "atol"), tolerances, strict=False))
    zeros = [(torch.zeros_like(b) if a is None else a, b) for a, b in zip(one, other, strict=True) if b is not None]
    try:
        for a, b in zeros:
            torch.testing.assert_close(b, a, check_dtype=False, equal_nan=True, **options)  # type: ignore[arg-type]
    except AssertionError:
        return False
    return all(b is not None or a is None or not a.any() for a, b in zip(one, other, strict=True))


def apart(one: Sequence[Tensor | None], other: Sequence[Tensor | None]) -> float:
    """Returns how far the gradients are apart, of the size of each, at most."""
    found = [0.0]
    for a, b in zip(one, other, strict=True):
        if a is not None and b is not None and a.numel():
            size = float(torch.linalg.vector_norm(a.double()))
            found.append(float(torch.linalg.vector_norm(a.double() - b.double())) / size if size else 0.0)
    return max(found)


# ---------------------------------------------------------------------------------------------------------------- cases


def cases(quick: bool, part: str | None) -> Iterator[Case]:
    """Yields all pairs, in an order that a sample of the first is fair to."""
    if part != "models":
        names = sorted(operators())
        names = names[:: max(1, len(names) // OPERATORS)][:OPERATORS]
        for name in names[:: 20 if quick else 1]:
            yield from operator_cases(name)
    if part != "operators":
        for name, make in list(MODELS.items())[: 2 if quick else None]:
            for dtype in TYPES:
                yield from model_cases(name, make, dtype)


def operator_cases(name: str) -> Iterator[Case]:
    sample = sample_of(name, torch.float64, 0)
    if sample is None:
        return
    for label, dtype in TYPES.items():
        case = sample.to(dtype)
        if not all(t.is_floating_point() for t in case.inputs):
            return

        def plain(*x: Tensor, case: Any = case) -> Tensor:
            found = case(*x)
            return _joined(found)

        def scaled(*x: Tensor, plain: Any = plain) -> Tensor:
            return plain(*(t * 3 / 3 for t in x))  # type: ignore[no-any-return]

        def referred(*x: Tensor, plain: Any = plain) -> Tensor:
            from torch._prims.context import TorchRefsMode

            with TorchRefsMode():
                return plain(*x)  # type: ignore[no-any-return]

        exact = case.to(torch.float64)

        def wide(*x: Tensor, case: Any = exact, label: str = label) -> Tensor:
            found = _joined(case(*(t.double() for t in x)))
            return found.to(TYPES[label].to_complex() if found.is_complex() else TYPES[label])

        inputs = case.inputs
        for kind, other in (("scaled and back", scaled), ("reference in Python", referred), ("in float64", wide)):
            if label != "float64" or other is not wide:
                yield Case(name, kind, label, plain, other, inputs)
        for kind, mistake, patterns in MISTAKES:

            def planted(*x: Tensor, plain: Any = plain, mistake: Any = mistake) -> Tensor:
                return plain(*(mistake(t) for t in x))  # type: ignore[no-any-return]

            if kind not in ("one row", "shifted") or any(t.dim() and t.shape[0] > 2 for t in inputs):
                yield Case(name, kind, label, plain, planted, inputs, patterns, "_Changed")


def _joined(found: Any) -> Tensor:
    outputs = found if isinstance(found, tuple) else (found,)
    return outputs[0] if len(outputs) == 1 else torch.cat([t.reshape(-1) for t in outputs])


class _Changed(torch.autograd.Function):
    """The identity, whose backward changes what it is given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return ctx.change(g), None


def changed(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Returns the identity with a gradient that is changed."""
    return lambda x: _Changed.apply(x, change)  # type: ignore[no-any-return]


def _one_row(g: Tensor) -> Tensor:
    if g.dim() == 0:
        return g
    kept = g.clone()
    kept[0] *= 0.75
    return kept


def _factor(g: Tensor) -> Tensor:
    n = max(g.numel(), 2)
    return g * ((n - 1) / n)


SLICE = ("slice-factor", "range-factor", "one-factor", "some-factor", "factor")
MISTAKES: Sequence[tuple[str, Callable[[Tensor], Tensor], tuple[str, ...]]] = (
    ("(n − 1)/n", changed(_factor), ("factor",)),
    ("one row", changed(_one_row), SLICE),
    (
        "shifted",
        changed(lambda g: g.roll(1, 0) if g.dim() else g),
        ("shifted", "elements", "one", "range", "slices", "slice"),
    ),
    ("sign", changed(lambda g: -g), ("sign",)),
)


# --------------------------------------------------------------------------------------------------------------- models


class Attention(nn.Module):
    """Causal attention of several heads; `shift`, `head` and `fused` make another of it."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.shift, self.head, self.fused = 0, 1.0, False

    def forward(self, x: Tensor) -> Tensor:
        b, t, w = x.shape
        q, k, v = (p.reshape(b, t, self.heads, -1).transpose(1, 2) for p in self.qkv(x).chunk(3, -1))
        if self.fused:
            h = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            mask = torch.ones(t, t, dtype=torch.bool).triu(1 + self.shift)
            h = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(mask, -1e9).softmax(-1) @ v
        if self.head != 1.0:
            weight = torch.ones(self.heads, 1, 1, dtype=x.dtype)
            weight[1] = self.head
            h = h * weight
        return self.out(h.transpose(1, 2).reshape(b, t, w))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cell, self.out = kind(8, 12, batch_first=True), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.cell(x)[0][:, -1])  # type: ignore[no-any-return]


class Residual(nn.Module):
    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)  # type: ignore[no-any-return]


def _perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 32), nn.GELU(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 4))


def _batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 4))


def _convolution() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4))


def _transformer() -> nn.Module:
    return nn.Sequential(nn.LayerNorm(16), Residual(Attention()), nn.LayerNorm(16), Residual(_wide()), nn.Linear(16, 4))


def _wide() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))


# What makes a model, and the shape of its input.
MODELS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "perceptron": (_perceptron, (24, 12)),
    "batch norm": (_batch_norm, (24, 12)),
    "convolution": (_convolution, (6, 3, 8, 8)),
    "transformer": (_transformer, (4, 6, 16)),
    "attention": (Attention, (4, 6, 16)),
    "LSTM": (lambda: Recurrent(nn.LSTM), (6, 5, 8)),
    "GRU": (lambda: Recurrent(nn.GRU), (6, 5, 8)),
    "layer norm": (lambda: nn.Sequential(nn.Linear(12, 16), nn.LayerNorm(16), nn.ELU(), nn.Linear(16, 4)), (24, 12)),
    "group norm": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Mish()), (4, 3, 8, 8)),
    "residual": (lambda: nn.Sequential(Residual(_perceptron()[:1], nn.Linear(32, 12)), nn.Linear(12, 4)), (24, 12)),
}  # fmt: skip


def model_cases(name: str, made: tuple[Callable[[], nn.Module], tuple[int, ...]], label: str) -> Iterator[Case]:
    make, shape = made
    dtype = TYPES[label]
    generator = torch.Generator().manual_seed(1)
    x, t = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype), None

    def fresh(**changes: Any) -> nn.Module:
        torch.manual_seed(0)
        model = make().to(dtype)
        for module in model.modules():
            for key, value in changes.items():
                if hasattr(module, key):
                    setattr(module, key, value)
        return model

    del t
    plain = fresh()
    yield Case(name, "batch turned", label, Loss(plain), Loss(fresh(), turned=True), [x])
    yield Case(name, "sum by parts", label, Loss(plain), Loss(fresh(), parts=True), [x])
    yield Case(name, "(n − 1)/n", label, Loss(plain), Loss(fresh(), factor=True), [x], ("factor",), "y.numel() - 1")
    yield Case(name, "dropped term of 1e-3", label, Loss(fresh(), decay=1e-3), Loss(fresh()), [x], ANY, "p.square")
    if isinstance(plain, Attention) or any(isinstance(m, Attention) for m in plain.modules()):
        yield Case(name, "fused", label, Loss(plain), Loss(fresh(fused=True)), [x])
        yield Case(name, "one head", label, Loss(plain), Loss(fresh(head=0.75)), [x], ANY, "h * weight")
        yield Case(name, "mask off by one", label, Loss(plain), Loss(fresh(shift=1)), [x], ANY, "masked_fill")
    if name == "batch norm":
        one, other = fresh().eval(), fresh().eval()
        other[1].running_mean += 0.1  # type: ignore[index, union-attr, operator]
        yield Case(name, "stale statistics", label, Loss(one), Loss(other), [x], ANY, "batch_norm")


ANY = (
    "elements",
    "one",
    "range",
    "range-factor",
    "slices",
    "slice",
    "slice-factor",
    "slices-factor",
    "factor",
    "some-factor",
    "one-factor",
    "offset",
)


class Loss(nn.Module):
    """A squared error of a model, summed in another way on request, or with a mistake."""

    def __init__(
        self, model: nn.Module, *, turned: bool = False, parts: bool = False, factor: bool = False, decay: float = 0.0
    ) -> None:
        super().__init__()
        self.model, self.turned, self.parts, self.factor, self.decay = model, turned, parts, factor, decay

    def forward(self, x: Tensor) -> Tensor:
        y = self.model(x.flip(0) if self.turned else x).square()
        total = sum(part.sum() for part in y.unbind(0)) if self.parts else y.sum()
        loss = total / (y.numel() - 1 if self.factor else y.numel())
        if self.decay:
            loss = loss + self.decay * sum(p.square().mean() for p in self.model.parameters())
        return loss  # type: ignore[no-any-return]


# ---------------------------------------------------------------------------------------------------------------- large

# How a model of real size is changed: as `Loss` is.
LARGE: Mapping[str, Mapping[str, Any]] = {"batch turned": {"turned": True}, "511/512": {"share": 511 / 512}}


class Share(nn.Module):
    """The loss of a transformer of four layers on eight sequences, with the batch turned round or a factor."""

    def __init__(self, *, turned: bool = False, share: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model, self.turned, self.share = Transformer(384, 6144, 4, 64), turned, share

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(ids.flip(0) if self.turned else ids) * self.share  # type: ignore[no-any-return]


def large() -> Iterator[Sheet]:
    """Yields the table of a transformer's cost: CPU seconds, and what a process holds more than before."""
    rows = []
    for kind in LARGE:
        plain, whole = (_alone(kind, asked) for asked in (False, True))
        own = f"{plain[0]:.2f} s", f"{whole[0] / plain[0]:.1f}", f"{plain[1]:.0f} MB", f"{whole[1] / plain[1]:.1f}"
        rows.append((kind, whole[2], *own))
    header = ("a transformer of 4 layers, float32", "verdict", "both runs", "time, of both", "memory", "of both's")
    yield Sheet("A model of real size", header, rows)


def _alone(kind: str, asked: bool) -> tuple[float, float, str]:
    """Does that in a process of its own, as the most memory that a process held is never given back."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, kind, asked).result()


def _measured(kind: str, asked: bool) -> tuple[float, float, str]:
    """Returns the CPU seconds of both runs, or of the comparison, the MB that it takes, and the verdict."""
    torch.set_num_threads(1)
    one, other = Share(), Share(**LARGE[kind])
    ids = torch.randint(0, 6144, (8, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one(ids[:1])  # what torch loads at the first call is no part of it
    before, start, verdict = _peak(), time.process_time(), ""
    if asked:
        verdict = gx.compare(one, other, [ids]).verdict
    else:
        held = [gradients(side, [ids]) for side in (one, other)]
        assert len(held) == 2
    return time.process_time() - start, _peak() - before, verdict


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# --------------------------------------------------------------------------------------------------------------- tables


def sheets(found: Sequence[Mapping[str, Any]]) -> Iterator[Sheet]:
    """Yields the tables: false alarms, what was missed, names and places, cost."""
    asked_ = [line for line in found if "skipped" not in line]
    rows = []
    for dtype in TYPES:
        for planted in (False, True):
            lines = [line for line in asked_ if line["dtype"] == dtype and line["planted"] == planted]
            if not lines:
                continue
            wrong = "differs" if not planted else "same"
            eps = torch.finfo(TYPES[dtype]).eps
            over = [line for line in lines if line["apart"] > eps] if planted else lines
            mine = sum(line["verdict"] == wrong for line in over)
            undecided = sum(line["verdict"] == "cannot say" for line in lines)
            others = [sum(line[name] == planted for line in over) for name in ("default", "by hand")]
            name = f"{dtype}: {'missed' if planted else 'called different'}"
            rows.append((name, *map(str, (len(over), mine, undecided, *others))))
    header = ("", "pairs", "gradexplain", "cannot say", "assert_close", "by hand")
    yield Sheet("Equal pairs called different, and planted ones missed", header, rows)
    named = [line for line in asked_ if "pattern" in line]
    kinds = Counter(line["kind"] for line in named)
    rows = [
        (
            kind,
            str(count),
            share(sum(line["pattern"] for line in named if line["kind"] == kind), count),
            share(sum(line["place"] for line in named if line["kind"] == kind), count),
        )
        for kind, count in kinds.items()
    ]
    yield Sheet("Of what differs: pattern and place", ("planted", "found", "pattern", "place"), rows)
    ratios = sorted(line["seconds"] / line["runs"] for line in asked_ if line["runs"] > 0)
    if ratios:
        middle, high = ratios[len(ratios) // 2], ratios[int(0.9 * (len(ratios) - 1))]
        yield Sheet("Cost, of both runs alone", ("median", "9 of 10 below"), [(f"{middle:.1f}", f"{high:.1f}")])
