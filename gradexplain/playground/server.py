"""The server: who may ask, what is answered, and where the page is told to be.

Only this machine can reach it, and on it only who has the token: it is random, in the address that is printed, and
checked at every request. `Host` and `Origin` are held against that address, so that no other page of the browser can
ask, whatever name it gave to this machine.
"""

from __future__ import annotations

import json
import secrets
import socket
import sys
import webbrowser
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gradexplain.errors import InputError
from gradexplain.locale.catalogue import say
from gradexplain.playground.asked import MOST_BYTES, OPTIONS, Asked
from gradexplain.playground.computing import answered
from gradexplain.playground.page import key_page, shell
from gradexplain.playground.processes import Limits, Processes
from gradexplain.targets.loading import file_of, parse_target

LOOPBACK = "127.0.0.1"
# A lesson runs a training now and then.
_LESSON_SECONDS = 60.0
# What the standby loads.
_PRELOAD = ("gradexplain.playground.standby",)
_TRIAL = Asked("x**2 + 2*x", {"x": "3"}, {**OPTIONS, "lr": "0.1"})
# What a page of ours may load and ask; the page within it inherits this.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; "
    "connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class Play:
    """What is served: the target and the values it begins with, and the file that is watched, if there is one."""

    named: Asked
    language: str
    port: int
    token: str
    limits: Limits

    @property
    def file(self) -> Path | None:
        """The file of the target."""
        return file_of(parse_target(self.named.target).place)

    @property
    def hosts(self) -> tuple[str, ...]:
        """What this server is called."""
        return f"{LOOPBACK}:{self.port}", f"localhost:{self.port}"

    @property
    def address(self) -> str:
        """Where the page is, with its key."""
        return f"http://{LOOPBACK}:{self.port}/?token={self.token}"

    def say(self, key: str, **data: object) -> str:
        """Returns a sentence in the page's language."""
        return say(f"play.{key}", self.language, **data)


def serve(named: Asked, *, language: str, port: int, opens: bool, limits: Limits | None = None) -> None:
    """Serves the page until Ctrl-C; says its address on standard output.

    Raises `InputError` for a port that is taken.
    """
    with _listener(port) as listener, suppress(KeyboardInterrupt):
        play = Play(named, language, listener.getsockname()[1], secrets.token_urlsafe(24), limits or Limits())

        def announce() -> None:
            sys.stdout.write(play.say("address", address=play.address) + "\n")
            sys.stdout.flush()
            if opens:
                with suppress(webbrowser.Error):
                    webbrowser.open(play.address)

        config = uvicorn.Config(
            application(play, announce), log_level="critical", access_log=False, ws="none", timeout_graceful_shutdown=1,
            server_header=False, h11_max_incomplete_event_size=MOST_BYTES,
        )  # fmt: skip
        uvicorn.Server(config).run(sockets=[listener])


def _listener(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if sys.platform != "win32":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
        listener.listen()  # a browser that comes early waits
    except (OSError, OverflowError) as fault:
        listener.close()
        raise InputError("play_port", port=port, reason=getattr(fault, "strerror", None) or str(fault)) from fault
    return listener


def application(play: Play, begun: Callable[[], None]) -> Starlette:
    """Returns the server's application; `begun` is called when it can be ended as it is meant to be."""
    work = partial(answered, named=play.named, language=play.language)
    processes = Processes(work, json.dumps(_TRIAL.plain()).encode(), play.limits, _PRELOAD)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        processes.open()
        begun()
        yield
        processes.close()

    async def page(_: Request) -> Response:
        return HTMLResponse(shell(play.named, play.language, watches=play.file is not None))

    async def answer(request: Request) -> Response:
        lesson = request.url.path == "/lesson"
        try:
            asked = await _body(request)
            page = (request.headers.get("x-page", ""), request.url.path)
            found = await processes.answer(page, asked, _LESSON_SECONDS if lesson else None)
        except InputError as fault:
            return JSONResponse({"field": "target", "fault": fault.sentence(play.language)})
        return JSONResponse({"newer": True}) if found is None else Response(found, media_type="application/json")

    async def changed(_: Request) -> Response:
        return JSONResponse({"changed": _stamp(play.file)})

    asking = {"/answer": answer, "/lesson": answer, "/changed": changed}
    routes = [Route("/", page), *(Route(path, told, methods=["POST"]) for path, told in asking.items())]
    return Starlette(routes=routes, lifespan=lifespan, middleware=[Middleware(Guard, play=play)])


async def _body(request: Request) -> bytes:
    """Returns what was sent; raises `InputError` for what is too large, and reads no more of it."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise InputError("play_question", size=MOST_BYTES // 2**10)
    return bytes(body)


def _stamp(file: Path | None) -> str:
    """Returns what changes when a file does."""
    try:
        found = None if file is None else file.stat()
    except OSError:
        return ""
    return "" if found is None else f"{found.st_mtime_ns}-{found.st_size}"


class Guard:
    """Lets through what comes from this machine's page with its token, and gives every answer its headers."""

    def __init__(self, app: ASGIApp, play: Play) -> None:
        self.app, self.play = app, play

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        refused = self._refusal(scope)
        app = refused or self.app

        async def with_headers(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *own]}  # type: ignore[misc]
            await send(message)

        await app(scope, receive, with_headers)  # type: ignore[arg-type]
        return None

    def _refusal(self, scope: Scope) -> Response | None:
        """Returns what a request is told that may not ask."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if headers.get("host") not in self.play.hosts:
            return _refused(self.play.say("wrong_host"))
        origin = headers.get("origin")
        if origin is not None and origin not in {f"http://{host}" for host in self.play.hosts}:
            return _refused(self.play.say("wrong_origin"))
        given = headers.get("authorization", "").removeprefix("Bearer ")
        if scope["path"] == "/":
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if not secrets.compare_digest(given.encode(), self.play.token.encode()):
            if scope["path"] == "/" and scope["method"] == "GET":
                return HTMLResponse(key_page(self.play.language), 403)
            return _refused(self.play.say("wrong_token"))
        return None


def _refused(sentence: str) -> Response:
    return Response(sentence + "\n", 403, media_type="text/plain")
