"""A process for each question, for torch cannot be interrupted: one that takes too long is killed, and nothing else.

A standby has torch loaded and has run nothing. Forks of it make themselves warm, wait for a question, and end with its
answer; a spare one is always there, so that a question need not wait for its process.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradexplain.errors import InputError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

Work = Callable[[bytes], bytes]

SPARES = 2
# How long a process may take until it is ready, in seconds: it loads torch where there is no standby.
_READY = 120.0
# For how long nothing is made beside an answer, in seconds: the next spare would take its processor.
_HEAD_START = 0.25


@dataclass(frozen=True)
class Limits:
    """What one question may take: seconds, bytes of memory beyond what torch takes by itself, bytes of its answer."""

    seconds: float = 10.0
    memory: int = 2**31
    answer: int = 2**24


@dataclass
class _Spare:
    process: BaseProcess
    channel: Connection

    def end(self) -> None:
        """Ends the process, whatever it does, and those that it started."""
        if hasattr(os, "killpg") and self.process.pid:
            with suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
        with suppress(OSError):
            self.process.kill()

    def receive(self, most: int) -> bytes:
        """Returns the answer; raises `EOFError` where the process ended without one."""
        with self.channel:
            return self.channel.recv_bytes(most)


class Processes:
    """Answers questions by `work`, which is warm after it has answered `trial`; a page's new question ends its old."""

    def __init__(self, work: Work, trial: bytes, limits: Limits, preload: tuple[str, ...] = ()) -> None:
        self._work, self._trial, self.limits = work, trial, limits
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        self._context: Any = multiprocessing.get_context(method)
        if method == "forkserver" and preload:
            self._context.set_forkserver_preload(list(preload))
        self._wanted = threading.Semaphore(SPARES)
        self._ready: asyncio.Queue[_Spare] = asyncio.Queue()
        self._latest: dict[Hashable, asyncio.Task[bytes]] = {}
        self._begun: _Spare | None = None
        self._closing = False

    def open(self) -> None:
        """Begins to make spare processes; to be called in the loop that asks."""
        if self._context.get_start_method() == "forkserver":
            with _unheard(signal.SIGINT):
                forkserver.ensure_running()
        # A thread that nobody waits for: one that begins a process cannot be interrupted either.
        threading.Thread(target=self._fill, args=(asyncio.get_running_loop(),), daemon=True).start()

    def close(self) -> None:
        """Ends every process."""
        self._closing = True
        self._wanted.release()
        if self._begun is not None:
            self._begun.end()
        while not self._ready.empty():
            self._ready.get_nowait().end()
        for task in self._latest.values():
            task.cancel()

    async def answer(self, page: Hashable, question: bytes, seconds: float | None = None) -> bytes | None:
        """Returns the answer to a page's question; `None` where the page asked another one meanwhile.

        It may take so many `seconds`, those of the limits without.
        Raises `InputError` for a question that passes a limit.
        """
        if page in self._latest:
            self._latest[page].cancel()
        task = self._latest[page] = asyncio.create_task(self._answered(question, seconds or self.limits.seconds))
        try:
            return await task
        except asyncio.CancelledError:
            if task.cancelled() and self._latest.get(page) is not task:
                return None
            raise
        finally:
            if self._latest.get(page) is task:
                del self._latest[page]

    async def _answered(self, question: bytes, seconds: float) -> bytes:
        spare = await self._ready.get()
        loop = asyncio.get_running_loop()
        refill = loop.call_later(_HEAD_START, self._wanted.release)
        try:
            spare.channel.send((question, seconds))
            received = asyncio.to_thread(spare.receive, self.limits.answer)
            return await asyncio.wait_for(received, seconds)
        except TimeoutError as fault:
            raise InputError("play_too_long", seconds=f"{seconds:g}") from fault
        except EOFError as fault:
            raise InputError("play_ended", memory=f"{self.limits.memory / 2**30:g}") from fault
        except OSError as fault:  # an answer that is longer than was allowed
            raise InputError("play_too_large", size=f"{self.limits.answer / 2**20:g}") from fault
        finally:
            spare.end()
            if refill.when() > loop.time():
                refill.cancel()
                self._wanted.release()

    def _fill(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._wanted.acquire() and not self._closing:
            # What cannot be begun while all ends is nobody's loss; else the next one is tried.
            with suppress(EOFError, OSError, RuntimeError):
                spare = self._begun = self._started()
                if self._closing or not (spare.channel.poll(_READY) and spare.channel.recv_bytes() == b""):
                    spare.end()
                    raise EOFError
                loop.call_soon_threadsafe(self._ready.put_nowait, spare)
                continue
            self._wanted.release()

    def _started(self) -> _Spare:
        ours, its = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(its, self._work, self._trial, self.limits))
        process.start()
        its.close()
        return _Spare(process, ours)


@contextmanager
def _unheard(number: signal.Signals) -> Iterator[None]:
    """Lets a process that is begun ignore a signal: Ctrl-C is for the server, not for its standby."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, heard)


def _serve(channel: Connection, work: Work, trial: bytes, limits: Limits) -> None:
    """Answers one question; what the process says otherwise is heard by nobody."""
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C is for the server
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    with suppress(BaseException):
        work(trial)
        channel.send_bytes(b"")
        question, seconds = channel.recv()
        _limit(seconds, limits.memory)
        channel.send_bytes(work(question))
    os._exit(0)


def _limit(seconds: float, memory: int) -> None:
    """Limits this process by itself, should the server be gone that would end it."""
    if sys.platform == "win32":
        return
    import resource

    signal.alarm(int(seconds) + 2)
    with suppress(OSError, ValueError):
        used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()  # data and stack
        resource.setrlimit(resource.RLIMIT_DATA, (used + memory, used + memory))
