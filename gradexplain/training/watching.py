"""Watching a training: what torch is asked to do is passed on to an observer, and done as it was asked.

Nothing is changed for the script: no number, random state, hook, `.grad` or exception; an observer only reads. What is
watched is one thread of the process that began to watch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from threading import get_ident
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gradexplain.training.evaluations import evaluations_watched
from gradexplain.versions.internals import internals


class Observer(Protocol):
    """What is told of a training as it goes on."""

    def backward_begins(self, roots: Sequence[Tensor]) -> None:
        """A backward pass is about to start from these tensors."""

    def backward_ended(self, roots: Sequence[Tensor]) -> None:
        """It has ended without a fault."""

    def backward_failed(self, roots: Sequence[Tensor], fault: Exception) -> None:
        """It has ended with a fault, and the graph is as that left it."""

    def step_begins(self, optimizer: Optimizer) -> None:
        """An optimizer is about to change its parameters."""

    def step_ended(self, optimizer: Optimizer) -> None:
        """It has changed them."""

    def made(self, optimizer: Optimizer) -> None:
        """An optimizer was made."""

    def module_made(self, module: nn.Module) -> None:
        """A module begins to be made: it has no parts yet."""

    def cleared(self, optimizer: Optimizer) -> None:
        """Its gradients were cleared by `zero_grad`."""

    def scaled(self, scaler: Any, optimizer: Optimizer, stepped: bool) -> None:
        """A loss scaler was asked to step: it did, or it skipped the step."""

    def scaling(self, scaler: Any) -> None:
        """A loss scaler is about to scale a loss."""

    def scheduled(self, scheduler: Any) -> None:
        """A scheduler is about to set the learning rate."""

    def clipped(self, bound: float, norm: Tensor) -> None:
        """Gradients were cut down to a norm of at most `bound`; theirs was `norm`."""

    def batch(self, iterator: Any, given: Any) -> None:
        """The iterator of a data loader gave a batch."""

    def epoch(self, loader: Any) -> None:
        """A data loader was started anew."""

    def gradients_off(self, frame: FrameType) -> None:
        """A block begins in a frame in which no graph is recorded."""

    def gradients_on(self) -> None:
        """It ends."""

    def switched(self, module: nn.Module, training: bool) -> None:
        """A module was set to training, or to evaluation; each of its parts as well."""

    def broke(self, fault: Exception) -> None:
        """The observer itself has failed: nothing more is told to it, and the training goes on."""


@contextmanager
def watched(observer: Observer, *, anywhere: bool = False) -> Iterator[None]:
    """Tells `observer` of what this thread does with torch in the block; `anywhere`, the first that runs backward."""
    process, is_broken = os.getpid(), False
    thread = None if anywhere else get_ident()
    transforms_active, has_cuda = internals().transforms_active, torch.backends.cuda.is_built()
    depth = 0

    def here() -> bool:
        own = not is_broken and (thread is None or get_ident() == thread) and os.getpid() == process
        return own and not transforms_active() and not (has_cuda and is_capturing())

    def safely(say: Callable[..., None], *args: Any) -> None:
        nonlocal is_broken
        try:
            say(*args)
        except Exception as fault:
            is_broken = True
            observer.broke(fault)

    def told(say: Callable[..., None]) -> Callable[..., None]:
        def tell(*args: Any) -> None:
            nonlocal is_broken
            if here():
                try:
                    say(*args)
                except Exception as fault:
                    is_broken = True
                    observer.broke(fault)

        return tell

    def passing(run: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(run)
        def backward(tensors: Any, *args: Any, **keywords: Any) -> Any:
            nonlocal depth, thread
            if depth or not here():  # a backward pass inside another is part of that
                return run(tensors, *args, **keywords)
            thread = get_ident()
            roots = [t for t in ([tensors] if isinstance(tensors, Tensor) else tensors) if isinstance(t, Tensor)]
            safely(observer.backward_begins, roots)
            depth += 1
            try:
                result = run(tensors, *args, **keywords)
            except Exception as fault:
                if not is_broken:
                    safely(observer.backward_failed, roots, fault)
                raise
            finally:
                depth -= 1
            if not is_broken:
                safely(observer.backward_ended, roots)
            return result

        return backward

    with ExitStack() as undoing:
        undoing.callback(register_optimizer_step_pre_hook(_beginning(told(observer.step_begins))).remove)
        undoing.callback(register_optimizer_step_post_hook(_hook(told(observer.step_ended))).remove)
        undoing.enter_context(_replaced(torch.autograd, "backward", passing))
        scaler, scheduler = torch.amp.GradScaler, torch.optim.lr_scheduler.LRScheduler
        undoing.enter_context(_replaced(Optimizer, "__init__", lambda run: _after(run, told(observer.made))))
        undoing.enter_context(_replaced(Optimizer, "zero_grad", lambda run: _after(run, told(observer.cleared))))
        undoing.enter_context(_replaced(scaler, "step", lambda run: _scaling(run, told(observer.scaled))))
        undoing.enter_context(_replaced(scaler, "scale", lambda run: _before(run, told(observer.scaling))))
        undoing.enter_context(_replaced(nn.Module, "__init__", lambda run: _after(run, told(observer.module_made))))
        undoing.enter_context(_replaced(nn.Module, "train", lambda run: _switching(run, told(observer.switched))))
        for owner in (nn.utils, nn.utils.clip_grad):
            undoing.enter_context(
                _replaced(owner, "clip_grad_norm_", lambda run: _clipping(run, told(observer.clipped)))
            )
        undoing.enter_context(evaluations_watched(told(observer.gradients_off), told(observer.gradients_on)))
        loader = torch.utils.data.DataLoader
        undoing.enter_context(_replaced(scheduler, "step", lambda run: _before(run, told(observer.scheduled))))
        undoing.enter_context(_replaced(loader, "__iter__", lambda run: _before(run, told(observer.epoch))))
        iterator = torch.utils.data.dataloader._BaseDataLoaderIter
        undoing.enter_context(_replaced(iterator, "__next__", lambda run: _giving(run, told(observer.batch))))
        yield


def is_capturing() -> bool:
    """Says whether what runs on the device is being captured, to be run later: nothing may be read of it."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def _beginning(tell: Callable[..., None]) -> Callable[..., Any]:
    """Returns the hook before a step; one that computes its gradients by a closure begins when they are there."""

    def hook(optimizer: Optimizer, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        closure = args[1] if len(args) > 1 else keywords.get("closure")
        if not callable(closure):
            tell(optimizer)
            return None
        begun = False

        @wraps(closure)
        def computed() -> Any:
            nonlocal begun
            loss = closure()
            if not begun:
                begun = True
                tell(optimizer)
            return loss

        given = (args[0], computed, *args[2:]) if len(args) > 1 else args
        return given, keywords if len(args) > 1 else {**keywords, "closure": computed}

    return hook


def _hook(tell: Callable[..., None]) -> Callable[..., None]:
    def hook(optimizer: Optimizer, *_: object) -> None:
        tell(optimizer)

    return hook


@contextmanager
def _replaced(owner: Any, name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    own = getattr(owner, name)
    setattr(owner, name, wrap(own))
    try:
        yield
    finally:
        setattr(owner, name, own)


def _after(run: Callable[..., Any], tell: Callable[..., None]) -> Callable[..., Any]:
    @wraps(run)
    def called(self: Any, *args: Any, **keywords: Any) -> Any:
        result = run(self, *args, **keywords)
        tell(self)
        return result

    return called


def _before(run: Callable[..., Any], tell: Callable[..., None]) -> Callable[..., Any]:
    @wraps(run)
    def called(self: Any, *args: Any, **keywords: Any) -> Any:
        tell(self)
        return run(self, *args, **keywords)

    return called


def _giving(run: Callable[..., Any], tell: Callable[..., None]) -> Callable[..., Any]:
    @wraps(run)
    def called(self: Any) -> Any:
        given = run(self)
        tell(self, given)
        return given

    return called


def _scaling(run: Callable[..., Any], tell: Callable[..., None]) -> Callable[..., Any]:
    """Wraps `GradScaler.step`; whether it stepped is seen from the optimizer's own count, and no number is read."""

    @wraps(run)
    def called(self: Any, optimizer: Optimizer, *args: Any, **keywords: Any) -> Any:
        stepped: list[Optimizer] = []
        handle = register_optimizer_step_pre_hook(lambda taken, *_: stepped.append(taken))
        try:
            result = run(self, optimizer, *args, **keywords)
        finally:
            handle.remove()
        tell(self, optimizer, optimizer in stepped)
        return result

    return called


def _switching(run: Callable[..., Any], tell: Callable[..., None]) -> Callable[..., Any]:
    @wraps(run)
    def called(self: Any, mode: bool = True) -> Any:
        result = run(self, mode)
        tell(self, mode)
        return result

    return called


def _clipping(run: Callable[..., Any], tell: Callable[..., None]) -> Callable[..., Any]:
    @wraps(run)
    def called(parameters: Any, max_norm: float, *args: Any, **keywords: Any) -> Any:
        norm = run(parameters, max_norm, *args, **keywords)
        if type(norm) is Tensor and max_norm > 0:
            tell(float(max_norm), norm)
        return norm

    return called
