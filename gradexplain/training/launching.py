"""Running a script as Python runs it: its own `__main__`, arguments, folder and exit code; its faults as Python shows.

Nothing here loads torch: a script may set what torch reads when it is imported.
"""

from __future__ import annotations

import atexit
import importlib.util
import io
import os
import signal
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial, wraps
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import Any

from gradexplain.errors import InputError

_LIBRARIES = tuple({f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "platlib", "purelib")})
_TERMINATION = signal.SIGTERM
_OURS = f"{Path(__file__).parent.parent}{os.sep}"


# What makes another text of a file, by its path.
Changed = Callable[[str, bytes], bytes]


class Ended(KeyboardInterrupt):
    """Ends the script as Ctrl-C would, because we were asked to: its `finally` blocks run."""


@dataclass(frozen=True)
class Script:
    """What is run: a file, or with `module` a name as `python -m` takes it, and its arguments."""

    name: str
    arguments: tuple[str, ...] = ()
    module: bool = False

    def code(self, changed: Changed = lambda path, text: text) -> tuple[CodeType, ModuleSpec | None, str]:
        """Returns what is run, its spec where it is a module, and its file; raises `InputError` where there is none.

        `changed` may change the text of the file.
        """
        if self.module:
            return self._module_code()
        path = str(Path(self.name).absolute())
        try:
            with io.open_code(path) as file:
                text = file.read()
        except OSError as fault:
            raise InputError("script_unread", path=self.name, reason=fault.strerror or type(fault).__name__) from fault
        return compile(changed(path, text), path, "exec", dont_inherit=True), None, path

    def _module_code(self) -> tuple[CodeType, ModuleSpec | None, str]:
        try:
            spec = importlib.util.find_spec(self.name)
            if spec is not None and spec.submodule_search_locations is not None:
                spec = importlib.util.find_spec(f"{self.name}.__main__")
        except (ImportError, ValueError):
            spec = None
        code = getattr(spec.loader, "get_code", lambda _: None)(spec.name) if spec is not None else None
        if spec is None or code is None:
            raise InputError("module_unfound", name=self.name)
        return code, spec, spec.origin or self.name


@dataclass(frozen=True)
class Ending:
    """How a script ended: its exit code, what it raised and showed, and whether it was ended before its end."""

    code: int
    fault: BaseException | None = None
    interrupted: bool = False
    ended: bool = False


def launched(script: Script, changed: Changed = lambda path, text: text) -> Ending:
    """Runs a script to its end and returns how it ended; what it raised has been shown as Python shows it.

    `changed` may change the text of its file. Raises `InputError` where there is nothing to run.
    """
    sys.path[0] = str(Path.cwd() if script.module else Path(script.name).resolve().parent)
    try:
        code, spec, path = script.code(changed)
    except SyntaxError as fault:
        return _shown(fault)
    main = ModuleType("__main__")
    main.__dict__.update(
        __file__=path,
        __builtins__=__builtins__,
        __spec__=spec,
        __package__=spec.parent if spec else None,
        __loader__=spec.loader if spec else SourceFileLoader("__main__", path),
        __cached__=None,
    )
    sys.modules["__main__"] = main
    sys.argv[:] = [path if script.module else script.name, *script.arguments]
    try:
        exec(code, main.__dict__)
    except SystemExit as fault:
        return _exited(fault)
    except Ended as fault:
        return Ending(0, fault, ended=True)
    except BaseException as fault:
        return _shown(fault)
    return Ending(0)


def _exited(fault: SystemExit) -> Ending:
    """Returns how `sys.exit` ended a script; a code that is no number is a message, as in Python itself."""
    if fault.code is None:
        return Ending(0)
    if isinstance(fault.code, int):
        return Ending(fault.code & 0xFF)
    sys.stderr.write(f"{fault.code}\n")
    return Ending(1)


def _shown(fault: BaseException) -> Ending:
    _strip(fault, set())
    sys.excepthook(type(fault), fault, fault.__traceback__)
    interrupted = isinstance(fault, KeyboardInterrupt)
    return Ending(130 if interrupted else 1, fault, interrupted)


def _strip(fault: BaseException | None, seen: set[int]) -> None:
    """Takes our own frames out of the traceback of a fault, and of those that it came from."""
    if fault is None or id(fault) in seen:
        return
    seen.add(id(fault))
    fault.__traceback__ = stripped(fault.__traceback__)
    _strip(fault.__cause__, seen)
    _strip(fault.__context__, seen)


def stripped(trace: TracebackType | None) -> TracebackType | None:
    """Returns a traceback without our own frames."""
    if trace is None:
        return None
    rest = stripped(trace.tb_next)
    if trace.tb_frame.f_code.co_filename.startswith(_OURS) or trace.tb_frame.f_code is launched.__code__:
        return rest
    return TracebackType(rest, trace.tb_frame, trace.tb_lasti, trace.tb_lineno)


@dataclass
class Exits:
    """What a script asks to be run at its end, so that it can be run before we speak."""

    asked: list[Callable[[], object]] = field(default_factory=list)

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Keeps in the block what the script itself registers; what libraries do stays with the interpreter."""
        own = atexit.register

        def register(function: Any, *args: Any, **keywords: Any) -> Any:
            if sys._getframe(1).f_code.co_filename.startswith(_LIBRARIES):
                return own(function, *args, **keywords)
            self.asked.append(partial(function, *args, **keywords))
            return function

        atexit.register = register  # type: ignore[assignment]
        try:
            yield
        finally:
            atexit.register = own

    def run(self) -> None:
        """Waits for the script's threads and runs what it asked for, the last first, as the interpreter does."""
        for thread in threading.enumerate():
            if thread not in (threading.current_thread(), threading.main_thread()) and not thread.daemon:
                thread.join()
        while self.asked:
            try:
                self.asked.pop()()
            except Exception:
                traceback.print_exc()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()


@contextmanager
def before_exit(report: Callable[[int | None], None]) -> Iterator[None]:
    """Lets `report` run before `os._exit` ends this process in the block; not in a process that was forked from it."""
    own, leave = os.getpid(), os._exit

    def leaving(code: int) -> None:
        if os.getpid() == own:
            report(code)
        leave(code)

    os._exit = leaving  # type: ignore[assignment]
    try:
        yield
    finally:
        os._exit = leave


@contextmanager
def before_termination(report: Callable[[], None]) -> Iterator[None]:
    """Lets `report` run before SIGTERM ends this process in the block, as it does without us.

    The script sees nothing of it: what it is told of the signal is what holds without us, and its own handler takes the
    place of ours. A process that is forked from this one has none.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(_TERMINATION) != signal.SIG_DFL:
        yield
        return
    ask, put = signal.getsignal, signal.signal

    def handle(number: int, frame: object) -> None:
        put(_TERMINATION, signal.SIG_DFL)
        report()
        os.kill(os.getpid(), _TERMINATION)

    def unseen(call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def called(*args: Any, **keywords: Any) -> Any:
            found = call(*args, **keywords)
            return signal.SIG_DFL if found is handle else found

        return called

    def leave() -> None:
        if ask(_TERMINATION) is handle:
            put(_TERMINATION, signal.SIG_DFL)

    _let_children_be(leave)
    put(_TERMINATION, handle)
    signal.getsignal, signal.signal = unseen(ask), unseen(put)
    try:
        yield
    finally:
        signal.getsignal, signal.signal = ask, put
        leave()


def _let_children_be(leave: Callable[[], None]) -> None:
    """Lets `leave` run in a process that is forked; a signal to it that comes before waits, so that none is lost."""
    if not hasattr(os, "register_at_fork"):
        return
    before: list[set[int]] = []

    def hold() -> None:
        before.append({*signal.pthread_sigmask(signal.SIG_BLOCK, {_TERMINATION})})

    def let_go() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before.pop())

    def let_go_in_child() -> None:
        leave()
        let_go()

    os.register_at_fork(before=hold, after_in_parent=let_go, after_in_child=let_go_in_child)


@dataclass
class WhenImported:
    """Calls `then` once, right after the script has imported a module, before it uses it."""

    name: str
    then: Callable[[], None]
    _loader: Any = field(default=None, repr=False)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Waits in the block; a module that is there already counts as imported."""
        self.start()
        try:
            yield
        finally:
            if self in sys.meta_path:
                sys.meta_path.remove(self)

    def start(self) -> None:
        """Begins to wait, until the module is imported."""
        if self.name in sys.modules:
            self.then()
        else:
            sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Gives the import system the module as it is, with a loader that calls `then`."""
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            self._loader, spec.loader = spec.loader, self  # type: ignore[assignment]
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Leaves the making of the module to its own loader."""
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        """Lets the module's own loader fill it, as if we had not been there."""
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self.then()


def read_as_changed(changed: Changed) -> None:
    """Lets modules that are imported from now on be read as `changed` gives their text, and from no cache."""
    read, stats = SourceFileLoader.get_data, SourceFileLoader.path_stats

    def get_data(self: SourceFileLoader, path: str) -> bytes:
        return changed(path, read(self, path))

    def path_stats(self: SourceFileLoader, path: str) -> Any:
        if changed(path, text := read(self, path)) != text:
            raise OSError("read anew")
        return stats(self, path)

    loader: Any = SourceFileLoader
    loader.get_data, loader.path_stats = get_data, path_stats
