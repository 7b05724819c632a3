"""A script that is run again up to one step, under the recorder, beside its first run and without acting.

Before its first line a process is forked, which waits. Asked about a step, it forks another that runs the script from
its start: with the same arguments, random states and hashes, every loss held against that of the first run bit by bit.
Where that cannot be kept from acting, and the user has said that it may act again, it is a process like the first.
"""

from __future__ import annotations

import gc
import os
import pickle
import random
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradexplain.training.confinement import abi, confine, die_with_parent
from gradexplain.training.launching import Script, WhenImported, launched, read_as_changed
from gradexplain.training.request import STOPPED, Request

_LENGTH = struct.Struct("<Q")
_NO_ANSWER = 3


@dataclass
class Standby:
    """A process that waits to run a script again; `None` of its channel where there can be none."""

    channel: socket.socket | None = None
    folder: str = ""

    @classmethod
    def of(cls, script: Script) -> Standby:
        """Forks the process that waits; it is no child of ours, so that a script that waits for its own sees none."""
        if not abi() or _threads() > 1:
            return cls()
        folder = tempfile.mkdtemp(prefix="gradexplain-")
        ours, its = socket.socketpair()
        state, begin = random.getstate(), _begin()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        gc.freeze()
        first = os.fork()
        if first == 0:
            with suppress(BaseException):
                ours.close()
                if os.fork() == 0:
                    _wait(its, script, folder, state, begin)
            os._exit(0)
        os.waitpid(first, 0)
        gc.unfreeze()
        its.close()
        random.setstate(state)
        return cls(ours, folder)

    def ask(self, request: Request) -> Any:
        """Returns what the second run answers; `None` where there is none."""
        if self.channel is None:
            return None
        self.channel.settimeout(_limit(request) + _LEAST)
        try:
            _send(self.channel, request)
            return _received(self.channel)
        except (OSError, EOFError):
            return STOPPED

    def close(self) -> None:
        """Lets the process go, and what it wrote."""
        if self.channel is not None:
            self.channel.close()
            shutil.rmtree(self.folder, ignore_errors=True)


@dataclass
class Again:
    """A second run as the first was, with its folder and environment: what it writes and sends, it does again."""

    script: Script
    folder: str
    environment: Mapping[str, str]
    state: Any

    @classmethod
    def of(cls, script: Script) -> Again:
        """Notes what the first run starts from."""
        return cls(script, str(Path.cwd()), dict(os.environ), random.getstate())

    def ask(self, request: Request) -> Any:
        """Returns what the second run answers."""
        command = [sys.executable, "-c", f"from {__name__} import run_anew; run_anew()"]
        given, limit = pickle.dumps((self.script, self.state, request)), _limit(request) + _LEAST
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        try:
            done = subprocess.run(
                command, input=given, cwd=self.folder, env=self.environment, timeout=limit, check=True, **streams
            )
            return pickle.loads(done.stdout)
        except (OSError, subprocess.SubprocessError, pickle.UnpicklingError, EOFError):
            return STOPPED


def run_anew() -> None:
    """Answers the request that standard input has, on standard output, of which the script knows nothing."""
    script, state, request = pickle.load(sys.stdin.buffer)
    channel, leave = os.dup(sys.stdout.fileno()), os._exit
    _be_silent()

    def answer(thing: Any) -> None:
        with os.fdopen(channel, "wb") as file:
            pickle.dump(thing, file)
        leave(0)

    _replay(script, request, state, answer)
    leave(_NO_ANSWER)


# How long a second run may take: seconds to start, and times as long as the first one took to the same place.
_LEAST, _PATIENCE = 30, 4.0


def _limit(request: Request) -> int:
    return int(_LEAST + _PATIENCE * request.seconds)


def _threads() -> int:
    """Counts the threads of this process, also those that are not Python's: a fork would leave them behind."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def _send(channel: socket.socket, thing: Any) -> None:
    data = pickle.dumps(thing)
    channel.sendall(_LENGTH.pack(len(data)) + data)


def _received(channel: socket.socket) -> Any:
    (length,) = _LENGTH.unpack(_exactly(channel, _LENGTH.size))
    return pickle.loads(_exactly(channel, length))


def _exactly(channel: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = channel.recv(count - len(parts))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


def _begin() -> int | None:
    """Returns where in a file what the script is given begins, `None` of what can be read only once."""
    try:
        return os.lseek(0, 0, os.SEEK_CUR) if stat.S_ISREG(os.fstat(0).st_mode) else None
    except OSError:
        return None


def _wait(channel: socket.socket, script: Script, folder: str, state: Any, begin: int | None) -> None:
    """Waits for requests, each of which a process of its own answers, until nobody can ask any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        request = _received(channel)
        pid = os.fork()
        if pid == 0:
            with suppress(BaseException):
                _run_again(channel, script, folder, state, begin, request)
            os._exit(_NO_ANSWER)
        _, status = os.waitpid(pid, 0)
        if status:
            _send(channel, STOPPED)


def _run_again(
    channel: socket.socket, script: Script, folder: str, state: Any, begin: int | None, request: Request
) -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.alarm(_limit(request))
    _be_silent(begin)
    leave = os._exit

    def answer(thing: Any) -> None:
        _send(channel, thing)
        leave(0)

    confine(folder)
    _replay(script, request, state, answer)


def _be_silent(begin: int | None = None) -> None:
    """Lets nothing be heard, and lets a file that the script is given be read again from where it begins."""
    nowhere = given = os.open(os.devnull, os.O_RDWR)
    if begin is not None:
        given = os.open("/proc/self/fd/0", os.O_RDONLY)
        os.lseek(given, begin, os.SEEK_SET)
    for number, own in enumerate((given, nowhere, nowhere)):
        os.dup2(own, number)


def _replay(script: Script, request: Request, state: Any, answer: Callable[[Any], None]) -> None:
    """Runs a script under an observer, which answers."""
    leave, own = os._exit, os.getpid()

    def changed(path: str, text: bytes) -> bytes:
        change = request.change
        return text if change is None or str(Path(path).absolute()) != change.file else change.applied(text)

    if request.change is not None:
        read_as_changed(changed)
    watching, observers = ExitStack(), []

    def observe() -> None:
        if request.numpy_state is not None and "numpy" in sys.modules:
            sys.modules["numpy"].random.set_state(request.numpy_state)
        observers.append(_observer(request, answer, watching))

    with WhenImported("torch", observe).waiting():
        random.setstate(state)
        os._exit = lambda code: leave(_NO_ANSWER if os.getpid() == own else code)  # type: ignore[assignment]
        ending = launched(script, changed)
        if observers and not ending.code:
            observers[0].finish()


def _observer(request: Request, answer: Callable[[Any], None], watching: ExitStack) -> Any:
    from gradexplain.training.examination import Examination, Trial
    from gradexplain.training.watching import watched

    observer = Trial(request, answer) if request.kind == "try" else Examination(request, answer)
    watching.enter_context(watched(observer, anywhere=True))
    observer.begin()
    return observer
