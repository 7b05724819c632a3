"""One run of a script under watch: from its start to its report."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from gradexplain.errors import InputError
from gradexplain.training.launching import Ending, Exits, Script, WhenImported, before_exit, launched
from gradexplain.training.replaying import Standby
from gradexplain.training.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn
    from torch.optim.optimizer import Optimizer

    from gradexplain.training.ledger import Ledger
    from gradexplain.training.report import TrainingReport


@dataclass
class Session:
    """A script that is run once. `report` may be asked for at any time."""

    script: Script
    halt: bool = False
    most: int | None = None
    _ledger: Ledger | None = None
    _watching: ExitStack = field(default_factory=ExitStack)
    _standby: Standby = field(default_factory=Standby)
    _numpy_state: Any = None

    def run(self, leaving: Callable[[int], None]) -> Ending:
        """Runs the script to its end, with what it asked to be run then; `leaving` is called before `os._exit`."""
        self._standby = Standby.of(self.script)
        exits = Exits()
        with before_exit(leaving), exits.collected():
            with WhenImported("torch", self._watch).waiting(), self._watching:
                ending = launched(self.script)
            exits.run()
        return ending

    def _watch(self) -> None:
        from gradexplain.training.ledger import Ledger
        from gradexplain.training.watching import watched

        if "numpy" in sys.modules:
            self._numpy_state = sys.modules["numpy"].random.get_state()
        self._ledger = Ledger(self.halt, self.most, alone=self._standby.channel is None)
        self._watching.enter_context(watched(self._ledger))
        self._ledger.begin()

    def report(self, ending: Ending | None) -> TrainingReport:
        """Returns what was seen; `ending` is how the script ended, `None` while it goes on."""
        from gradexplain.training.judging import report_of

        interrupted = ending is None or ending.interrupted or ending.ended
        try:
            fault = ending.fault if ending is not None else None
            return report_of(self._ledger, self.script.name, interrupted=interrupted, ask=self._asked, fault=fault)
        finally:
            self._standby.close()

    def _asked(self, request: Request) -> Any:
        return self._standby.ask(replace(request, numpy_state=self._numpy_state))


def is_reporting() -> bool:
    """Says whether this process answers by its exit code: of several that torchrun started, the first."""
    return os.environ.get("RANK", "0") == "0"


@dataclass
class Watch:
    """A block of code under watch, as a context manager; at its end `report` has what was seen, and it is printed.

    It is printed on standard error in `language`, unless `quiet`. Parameters are called by the names of the `modules`
    that are given, and the `optimizers` that are given count as made before the block.
    """

    language: str = "en"
    quiet: bool = False
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    optimizers: Sequence[Optimizer] = ()
    _report: TrainingReport | None = None
    _ledger: Ledger | None = None
    _watching: ExitStack = field(default_factory=ExitStack)

    @property
    def report(self) -> TrainingReport:
        """What was seen, at the end of the block; raises `InputError` before."""
        if self._report is None:
            raise InputError("watch_goes_on")
        return self._report

    def __enter__(self) -> Watch:
        from gradexplain.training.ledger import Ledger
        from gradexplain.training.watching import watched

        self._ledger = Ledger(alone=True)
        self._ledger.names.give(self.modules)
        self._ledger.names.look()
        for optimizer in self.optimizers:
            self._ledger.made(optimizer)
        self._watching.enter_context(watched(self._ledger))
        self._ledger.begin()
        return self

    def __exit__(self, kind: object, fault: BaseException | None, trace: object) -> None:
        from gradexplain.training.judging import report_of

        self._watching.close()
        assert self._ledger is not None
        self._ledger.end()
        interrupted = isinstance(fault, KeyboardInterrupt)
        name = "gx.watch()"
        self._report = report_of(self._ledger, name, interrupted=interrupted, ask=lambda request: None, fault=fault)
        if not self.quiet:
            sys.stderr.write(self.report.render("text", language=self.language))
