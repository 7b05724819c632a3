"""A process that may compute and not act: it writes no file of the user's, talks to no one, starts and ends nothing.

Two guards. What Python is asked to write goes into files in the memory of this process, and is read back from there, so
that the script goes on as before. Behind that stands the kernel (Linux's Landlock), which refuses whatever else would
write, run or connect, also from code that is not Python's. Without the kernel's guard nothing is run again.
"""

from __future__ import annotations

import builtins
import ctypes
import io
import os
import platform
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Landlock's system calls have the same numbers on every processor that Linux has them on.
_CREATE, _ADD, _RESTRICT = 444, 445, 446
# Rights of a ruleset: what it refuses unless a rule allows it. Bits as in linux/landlock.h, by the ABI they came with.
_EXECUTE, _WRITE_FILE, _REMOVE, _MAKE = 1 << 0, 1 << 1, 0b11 << 4, 0b1111111 << 6
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_CONNECT = 0b11  # bind and connect by TCP
_SIGNALS_GUARDED = 6
_SIGNAL = 1 << 1
# What a script may write into: nothing that stays.
_HARMLESS = ("/dev/null", "/dev/zero", "/dev/shm", "/dev/full")
_O_PATH = getattr(os, "O_PATH", 0)
_PR_SET_NO_NEW_PRIVS, _PR_SET_PDEATHSIG = 38, 1


class RefusedError(PermissionError):
    """What a script wanted to do and may not where it only computes."""


def abi() -> int:
    """Returns the version of Landlock that this kernel has, 0 where it has none."""
    if platform.system() != "Linux":
        return 0
    return max(0, int(ctypes.CDLL(None).syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))))


def confine(folder: str) -> None:
    """Confines this process for the rest of its life; what is written goes into `folder`, which is to be removed.

    Raises `OSError` where the kernel cannot guard it.
    """
    tempfile.tempdir = folder
    _restrict(folder)
    _redirect(Path(folder))
    sys.addaudithook(_refuse)


def _restrict(folder: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    version = abi()
    if not version:
        raise OSError("no Landlock")
    files = (
        _EXECUTE | _WRITE_FILE | _REMOVE | _MAKE | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    )
    ruleset = (ctypes.c_uint64 * 3)(files, _CONNECT if version >= 4 else 0, _SIGNAL if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    handle = libc.syscall(_CREATE, ctypes.byref(ruleset), ctypes.c_size_t(size), ctypes.c_uint32(0))
    if handle < 0:
        raise OSError(ctypes.get_errno(), "Landlock refuses a ruleset")
    for place in (folder, *_HARMLESS):
        if not Path(place).exists():
            continue
        inside = os.open(place, _O_PATH | os.O_CLOEXEC)
        allowed = files & ~_EXECUTE if Path(place).is_dir() else files & (_WRITE_FILE | _TRUNCATE)
        rule = ctypes.create_string_buffer(allowed.to_bytes(8, sys.byteorder) + inside.to_bytes(4, sys.byteorder), 12)
        added = libc.syscall(_ADD, ctypes.c_int(handle), ctypes.c_int(1), rule, ctypes.c_uint32(0))
        os.close(inside)
        if added:
            raise OSError(ctypes.get_errno(), "Landlock refuses a rule")
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(
        _RESTRICT, ctypes.c_int(handle), ctypes.c_uint32(0)
    ):
        raise OSError(ctypes.get_errno(), "Landlock cannot be put on")
    os.close(handle)


def die_with_parent() -> None:
    """Lets this process end when the one that forked it does."""
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0)


def _redirect(folder: Path) -> None:
    """Sends what Python writes into `folder`; a file that was written is read from there."""
    written: dict[str, str] = {}
    opened, low = builtins.open, os.open

    def place(path: Any, *, write: bool, keep: bool) -> Any:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return path
        own = str(Path(os.fsdecode(path)).absolute())
        if own.startswith((f"{folder}{os.sep}", *_HARMLESS)):
            return path
        if write and own not in written:
            written[own] = str(folder / str(len(written)))
            if keep and Path(own).exists():
                with io.FileIO(own) as before, io.FileIO(written[own], "w") as after:
                    after.write(before.readall())
        return written.get(own, path)

    def open_(file: Any, mode: str = "r", *args: Any, **keywords: Any) -> Any:
        write = any(letter in mode for letter in "wax+")
        return opened(place(file, write=write, keep="a" in mode or "+" in mode), mode, *args, **keywords)

    def open_low(path: Any, flags: int, *args: Any, **keywords: Any) -> int:
        write = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        return low(place(path, write=write, keep=not flags & os.O_TRUNC), flags, *args, **keywords)

    builtins.open = io.open = open_
    os.open = open_low
    for name in (
        "mkdir",
        "makedirs",
        "remove",
        "unlink",
        "rmdir",
        "rename",
        "replace",
        "chmod",
        "utime",
        "link",
        "symlink",
    ):
        setattr(os, name, _pretending(getattr(os, name), str(folder)))
    _redirect_saving(open_)


def _pretending(run: Callable[..., Any], folder: str) -> Callable[..., Any]:
    def pretend(path: Any, *args: Any, **keywords: Any) -> Any:
        own = isinstance(path, (str, bytes, os.PathLike)) and str(Path(os.fsdecode(path)).absolute()).startswith(folder)
        return run(path, *args, **keywords) if own else None

    return pretend


def _redirect_saving(open_: Callable[..., Any]) -> None:
    """Lets `torch.save` write through Python: by itself it opens a file behind Python's back."""
    from gradexplain.training.launching import WhenImported

    def then() -> None:
        import torch

        save = torch.save

        def saved(obj: Any, f: Any, *args: Any, **keywords: Any) -> None:
            if not isinstance(f, (str, os.PathLike)):
                return save(obj, f, *args, **keywords)
            with open_(f, "wb") as file:
                return save(obj, file, *args, **keywords)

        torch.save = saved

    WhenImported("torch", then).start()


_REFUSED = (
    "socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "subprocess.Popen", "os.system", "os.exec",
    "os.posix_spawn", "os.spawn", "os.kill", "os.killpg", "os.startfile", "sqlite3.connect",
)  # fmt: skip


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if not event.startswith(_REFUSED):
        return
    if event.startswith("socket.") and arguments[0].family == getattr(socket, "AF_UNIX", None):
        address = arguments[1] if len(arguments) > 1 else None
        if address is None or str(address).startswith(str(tempfile.tempdir)):
            return  # between a loader and its own workers
    if event == "os.kill" and abi() >= _SIGNALS_GUARDED:
        return  # the kernel lets it reach processes of its own alone
    raise RefusedError(f"{event} is not done a second time")
