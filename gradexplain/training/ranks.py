"""Several processes of one training, as torchrun starts them: each leaves what it saw, and the first gathers it.

What is left lies in a folder of this user's that the processes of one machine share; those of others are not heard.
"""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gradexplain.findings.finding import Finding

# Seconds that the first waits for the others: they end together, and none runs the script again.
_PATIENCE = 15.0


@dataclass(frozen=True)
class Seen:
    """What another process saw: its steps, and the first of what it found; one that left nothing was not heard."""

    rank: int
    steps: int = 0
    finding: Finding | None = None
    heard: bool = True


@dataclass(frozen=True)
class Rank:
    """This process among those of one training."""

    number: int
    count: int
    local: int  # how many of them run on this machine

    @classmethod
    def own(cls) -> Rank | None:
        """Returns it, `None` of a training of one process."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count < 2:
            return None
        return cls(int(os.environ.get("RANK", "0")), count, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))

    def leave(self, steps: int, finding: Finding | None) -> None:
        """Leaves what was seen for the first process."""
        with suppress(OSError):
            folder = self._folder()
            part = folder / f"{self.number}.part"
            part.write_bytes(pickle.dumps(Seen(self.number, steps, finding)))
            part.replace(folder / str(self.number))

    def others(self) -> tuple[Seen, ...]:
        """Returns what the others of this machine have left; of one that leaves nothing, that it was not heard."""
        if self.number:
            return ()
        until = time.monotonic() + _PATIENCE
        found: dict[int, Seen] = {}
        with suppress(OSError):
            folder = self._folder()
            while len(found) < self.local - 1 and time.monotonic() < until:
                for number in set(range(1, self.local)) - found.keys():
                    with suppress(FileNotFoundError):
                        found[number] = pickle.loads((folder / str(number)).read_bytes())
                time.sleep(0.02)
            shutil.rmtree(folder, ignore_errors=True)
        return tuple(found.get(number, Seen(number, heard=False)) for number in range(1, self.local))

    def _folder(self) -> Path:
        """Returns the folder that the children of one launcher share; raises `OSError` where it is another user's."""
        folder = Path(tempfile.gettempdir()) / f"gradexplain-ranks-{os.getppid()}-{os.environ.get('MASTER_PORT', '')}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or (hasattr(os, "getuid") and folder.stat().st_uid != os.getuid()):
            raise OSError("of another user")
        return folder
