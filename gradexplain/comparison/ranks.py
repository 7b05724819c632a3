"""Several processes against one: the gradient that ranks arrive at together, held against that of one process.

Every rank makes the same model, wraps it and takes its part of the batch; what it then has as `.grad` is gathered, and
made whole where it is sharded. The first rank holds it against the same step of the model as it is, with the whole
batch. All of this is torch's own: who starts the processes (torchrun), and how they speak to each other.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gradexplain.comparison.comparing import compare_sides
from gradexplain.comparison.comparison import Comparison, Verdict
from gradexplain.comparison.differences import Size
from gradexplain.comparison.sides import Given, Outcome, Side
from gradexplain.errors import GradexplainError, InputError
from gradexplain.findings.finding import Finding
from gradexplain.recording.computation import computation_of
from gradexplain.recording.plain import is_slight
from gradexplain.rules.application import wide

# What wrappers put before the names of parameters.
_WRAPPED = ("module.", "_fsdp_wrapped_module.", "_orig_mod.", "_checkpoint_wrapped_module.")
# Seconds that a rank waits for the others.
PATIENCE = 120.0
# Seconds in which ranks that wait for one another have all waited long enough.
GRACE = 3.0


@dataclass(frozen=True)
class Job:
    """What the ranks do: `step(model, **inputs)` gives a loss; `make` gives the model, `wrap` what a rank runs.

    Inputs that are as long as the first one along `dim` are divided among the ranks; none, where it is `None`.
    """

    step: Callable[..., object]
    make: Callable[[], nn.Module]
    wrap: Callable[[nn.Module], nn.Module]
    inputs: Mapping[str, Any]
    dim: int | None = 0
    seed: int = 0
    name: str = "step"
    patience: float = PATIENCE

    def model(self) -> nn.Module:
        """Returns a fresh model; it is the same on every rank."""
        torch.manual_seed(self.seed)
        return self.make()

    def divided(self, rank: int, ranks: int) -> dict[str, Any]:
        """Returns the inputs of a rank."""
        if self.dim is None:
            return dict(self.inputs)
        dim = self.dim
        lengths = [t.shape[dim] for t in self.inputs.values() if isinstance(t, Tensor) and t.dim() > dim]
        if not lengths or lengths[0] < ranks:
            raise InputError("ranks_share", size=lengths[0] if lengths else 0, ranks=ranks)
        return {
            n: t.tensor_split(ranks, dim)[rank].contiguous()
            if isinstance(t, Tensor) and t.dim() > dim and t.shape[dim] == lengths[0]
            else t
            for n, t in self.inputs.items()
        }


def compare_single(job: Job) -> tuple[Comparison | None, Verdict]:
    """Returns what comes of holding all ranks against one process, on the first rank, and its verdict on all.

    Raises `InputError` where the processes were not started by torchrun, and on all ranks where the first one fails.
    """
    with together(job.patience) as (rank, ranks), _lost_named(rank, ranks):
        gathered = _gathered(job, rank, ranks)
        found, said = None, ["cannot say", False]
        try:
            if rank == 0:
                found = _held(job, gathered, ranks)
                said = [found.verdict, True]
        finally:
            dist.broadcast_object_list(said)
            _tell("said", rank)
        # A rank that leaves closes the connections over which others may still be told.
        dist.distributed_c10d._get_default_store().wait(
            [f"gradexplain.said.{other}" for other in range(ranks)], timedelta(seconds=job.patience)
        )
        if not said[1]:
            raise InputError("ranks_failed")
        return found, said[0]  # type: ignore[return-value]


@contextmanager
def together(patience: float) -> Iterator[tuple[int, int]]:
    """Yields this process's rank and how many there are."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        raise InputError("ranks_alone")
    started = not dist.is_initialized()
    if started:
        dist.init_process_group("gloo", timeout=timedelta(seconds=patience))
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        if started:
            dist.destroy_process_group()


@contextmanager
def _lost_named(rank: int, ranks: int) -> Iterator[None]:
    """Says which ranks were waited for in vain, where a rank waits longer than it may.

    Those are the ranks that did not come through the forward pass, or else those that do not wait for others.
    """
    try:
        yield
    except GradexplainError:
        raise
    except RuntimeError as fault:
        if "timed out" not in str(fault).lower() and "timeout" not in str(fault).lower():
            raise
        _tell("waited", rank)
        lost = _unheard("forward", ranks)
        if not lost:
            time.sleep(GRACE)
            lost = _unheard("waited", ranks)
        raise InputError("ranks_lost", lost=", ".join(map(str, lost)) or "?", rank=rank) from fault


def _tell(what: str, rank: int) -> None:
    dist.distributed_c10d._get_default_store().set(f"gradexplain.{what}.{rank}", "1")


def _unheard(what: str, ranks: int) -> list[int]:
    store = dist.distributed_c10d._get_default_store()
    return [rank for rank in range(ranks) if not store.check([f"gradexplain.{what}.{rank}"])]


def _gathered(job: Job, rank: int, ranks: int) -> list[Mapping[str, Tensor | None]]:
    """Returns the gradients of every rank, whole, by the names of the model as it is; on the first rank."""
    wrapped, inputs = job.wrap(job.model()), job.divided(rank, ranks)
    try:
        loss = job.step(wrapped, **inputs)
    except RuntimeError as fault:
        if "timed out" in str(fault).lower():
            raise
        raise InputError("ranks_step", rank=rank, message=str(fault).split("\n", 1)[0]) from fault
    _tell("forward", rank)
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        raise InputError("ranks_loss", rank=rank, seen=type(loss).__name__)
    loss.backward()
    own = {plain_name(n): whole(p.grad) for n, p in wrapped.named_parameters() if p.requires_grad}
    found: list[Any] = [None] * ranks
    dist.gather_object(own, found if rank == 0 else None)
    return found


def plain_name(name: str) -> str:
    """Returns the name of a parameter without what wrappers put before it or into it."""
    for part in _WRAPPED:
        name = name.replace(part, "")
    return name


def whole(gradient: Tensor | None) -> Tensor | None:
    """Returns a gradient whole, also where each rank has a shard of it."""
    full = getattr(gradient, "full_tensor", None)
    found = gradient if full is None else full()
    return None if found is None else found.detach().clone()


def _held(job: Job, gathered: Sequence[Mapping[str, Tensor | None]], ranks: int) -> Comparison:
    model = job.model()
    computation = computation_of(partial(job.step, model), job.inputs, name=f"{job.name}, one process")
    computation = replace(computation, wrt=tuple(computation.parameters))
    names = [plain_name(n) for n in computation.parameters]
    one = Side(
        replace(computation, own={}), dict(zip(computation.parameters, _shortest(names, gathered[0]), strict=True))
    )
    reference = one.run().gradients
    apart = {n: k for n in gathered[0] if (k := _other_rank([g.get(n) for g in gathered])) is not None}
    chosen = {n: gathered[apart.get(n, 0)][n] for n in gathered[0]}
    findings = [Finding("ranks-apart", {"name": n, "rank": k, "count": len(apart)}) for n, k in list(apart.items())[:1]]
    other = Side(computation, {}, gave=Given(Outcome({}, {n: chosen.get(n) for n in reference})))
    found = compare_sides(one, other, rename={}, sizes=[Size(ranks, kind="ranks")])
    called = (f"{job.name}, one process", f"{job.name}, {ranks} ranks")
    return replace(found, names=called, against="single", findings=(*findings, *found.findings))


def _shortest(names: Sequence[str], known: Mapping[str, Any]) -> list[str]:
    """Returns the names as the ranks have them: a reference that holds its model by a name has that before them."""
    ends = [next((k for k in known if name == k or name.endswith(f".{k}")), None) for name in names]
    if None in ends or len(known) != len(names):
        ours, theirs = (", ".join(n) for n in (names, known))
        raise InputError("compare_unmatched", ours=ours, theirs=theirs)
    return [str(end) for end in ends]


def _other_rank(gradients: Sequence[Tensor | None]) -> int | None:
    """Returns the rank whose gradient is furthest from that of the first, where they are not the same."""
    first, sizes = gradients[0], [0.0]
    for other in gradients[1:]:
        if first is None or other is None:
            sizes.append(0.0 if first is other else float("inf"))
        else:
            sizes.append(0.0 if is_slight(first, other) else float((wide(first) - wide(other)).abs().max()))
    worst = max(range(len(sizes)), key=sizes.__getitem__)
    return worst if sizes[worst] > 0 else None
