"""One run of a script under watch: from its start to its report."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from gradexplain.errors import InputError
from gradexplain.training.launching import (
    Ending,
    Exits,
    Script,
    WhenImported,
    before_exit,
    before_termination,
    launched,
)
from gradexplain.training.ranks import Rank
from gradexplain.training.replaying import Again, Standby
from gradexplain.training.request import UNGUARDED, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn
    from torch.optim.optimizer import Optimizer

    from gradexplain.training.ledger import Ledger
    from gradexplain.training.report import TrainingReport


# Seconds until a report is refreshed first, and from one time to the next: so many, or so many times what one takes.
SOON, OFTEN, SHARE = 5.0, 15.0, 50.0


@dataclass
class Session:
    """A script that is run once; `report` may be asked for at any time.

    It is run again only where that can be kept from acting, or where `rerun` says that it may act again. Now and then
    `refresh` is called, as long as the training goes on.
    """

    script: Script
    halt: bool = False
    most: int | None = None
    rerun: bool = False
    refresh: Callable[[], None] | None = None
    _ledger: Ledger | None = None
    _watching: ExitStack = field(default_factory=ExitStack)
    _standby: Standby = field(default_factory=Standby)
    _again: Again | None = None
    _numpy_state: Any = None
    _due: float = 0.0
    _has_acted: bool = False

    def run(self, leaving: Callable[[int | None], None]) -> Ending:
        """Runs the script to its end, with what it asked to be run then.

        `leaving` is called before `os._exit` ends the process, with its code, and before SIGTERM does, with `None`.
        """
        self._standby = Standby() if Rank.own() else Standby.of(self.script)  # a run alone would wait for the others
        self._again = Again.of(self.script) if self.rerun else None
        self._due = monotonic() + SOON
        exits = Exits()
        with before_exit(leaving), before_termination(lambda: leaving(None)), exits.collected():
            with WhenImported("torch", self._watch).waiting(), self._watching:
                ending = launched(self.script)
            exits.run()
        return ending

    def _watch(self) -> None:
        from gradexplain.training.ledger import Ledger
        from gradexplain.training.watching import watched

        if "numpy" in sys.modules:
            self._numpy_state = sys.modules["numpy"].random.get_state()
        each_pass = self._refresh_now_and_then if self.refresh is not None else None
        self._ledger = Ledger(self.halt, self.most, alone=self._standby.channel is None, each_pass=each_pass)
        self._watching.enter_context(watched(self._ledger, anywhere=True))
        self._ledger.begin()

    def _refresh_now_and_then(self) -> None:
        if (started := monotonic()) >= self._due and self.refresh is not None:
            self.refresh()
            self._due = monotonic() + max(OFTEN, SHARE * (monotonic() - started))

    def report(self, ending: Ending | None) -> TrainingReport:
        """Returns what was seen; `ending` is how the script ended, `None` while it goes on and nothing is run again."""
        from gradexplain.training.judging import report_of

        name, ledger = self.script.name, self._ledger
        if ending is None:
            return report_of(ledger, name, interrupted=True, ask=lambda request: None)
        interrupted = ending.interrupted or ending.ended
        try:
            report = report_of(ledger, name, interrupted=interrupted, ask=self._asked, fault=ending.fault)
        finally:
            self._standby.close()
        examined = "rerun" if self._has_acted and report.examined == "replay" else report.examined
        rank = Rank.own()
        others = rank.others() if rank is not None else ()
        return replace(report, examined=examined, acted=self._has_acted, rank=rank, others=others)

    @property
    def _is_guarded(self) -> bool:
        """Says whether a second run can be kept from acting: a device is out of the kernel's guard."""
        on_device = self._ledger is not None and self._ledger.readings.is_used
        return self._standby.channel is not None and not on_device

    def _asked(self, request: Request) -> Any:
        request = replace(request, numpy_state=self._numpy_state)
        if self._is_guarded:
            return self._standby.ask(request)
        if Rank.own() is not None:
            return None
        if self._again is None:
            return UNGUARDED
        if request.change is not None:  # what another script would write is nobody's wish
            return None
        self._has_acted = True
        return self._again.ask(request)


def is_reporting() -> bool:
    """Says whether this process answers by its exit code: of several that torchrun started, the first."""
    return os.environ.get("RANK", "0") == "0"


def leave(report: TrainingReport) -> None:
    """Leaves what was seen for the first of several processes, when it has been said here."""
    rank = Rank.own()
    if rank is not None and rank.number:
        rank.leave(report.steps, report.findings[0] if report.findings else None)


def own_file(output: Path | None) -> Path | None:
    """Returns the file of this process: of several that torchrun started, each but the first has one of its own."""
    return output if output is None or is_reporting() else output.with_stem(f"{output.stem}-rank{os.environ['RANK']}")


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
        self._ledger.let_go()
        if not self.quiet:
            sys.stderr.write(self.report.render("text", language=self.language))
