"""Processes that misbehave, asked by a program of its own: `python behaving.py SCRIPT` prints what came of it."""

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from gradexplain.errors import InputError
from gradexplain.playground.processes import Limits, Processes


def behave(asked: bytes) -> bytes:
    """Does what is asked for."""
    if asked == b"hang":
        while True:
            pass
    if asked == b"eat":
        return bytes(bytearray(2**30))
    if asked == b"die":
        signal.raise_signal(signal.SIGKILL)
    return b"0" * 10**6 if asked == b"much" else asked


async def limits(processes: Processes) -> Any:
    """Passes every limit, and asks something else after each."""
    said = []
    for asked in (b"hang", b"eat", b"die", b"much"):
        try:
            await processes.answer("page", asked)
        except InputError as fault:
            said.append([fault.key, _text(await processes.answer("page", b"next"))])
    return said


async def pages(processes: Processes) -> Any:
    """Asks from a second page while the first one hangs."""
    hung = asyncio.create_task(processes.answer("one", b"hang"))
    others = [_text(await processes.answer("two", str(k).encode())) for k in range(4)]
    still = not hung.done()
    await asyncio.gather(hung, return_exceptions=True)
    return [others, still, type(hung.exception()).__name__]


async def edits(processes: Processes) -> Any:
    """Asks fifty things in a row, and one thing that hangs among them."""
    asked = []
    for k in range(50):
        text = b"hang" if k == 10 else f"edit {k}".encode()
        asked.append(asyncio.create_task(processes.answer("page", text)))
        await asyncio.sleep(0.001)
    return [_text(found) for found in await asyncio.gather(*asked)]


def _text(found: bytes | None) -> str | None:
    return None if found is None else found.decode()


SCRIPTS: Mapping[str, tuple[Callable[[Processes], Awaitable[Any]], Limits]] = {
    "limits": (limits, Limits(seconds=0.5, memory=2**28, answer=10**5)),
    "pages": (pages, Limits(seconds=1.5)),
    "edits": (edits, Limits(seconds=30)),
}


async def main(name: str) -> Any:
    script, chosen = SCRIPTS[name]
    processes = Processes(behave, b"trial", chosen)
    processes.open()
    try:
        return await script(processes)
    finally:
        processes.close()


if __name__ == "__main__":
    import behaving  # under its own name, by which its functions are found again

    print(json.dumps(asyncio.run(behaving.main(sys.argv[1]))))
