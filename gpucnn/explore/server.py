"""The server: its addresses, and what keeps others out of them.

It listens on 127.0.0.1 alone. Every address begins with a random token, so only who was told it can ask anything; the
Host header must be this server's own, which a page on another name that resolves to 127.0.0.1 cannot send; a request
that names an origin must come from the page itself. Bodies are limited, the page's files are read once when the server
starts, and runs are named by their index, so that nothing in a request is ever used as a path.
"""

import asyncio
import json
import secrets
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gpucnn import __version__
from gpucnn.backends import backends
from gpucnn.errors import ConfigurationError, GpucnnError
from gpucnn.explore import bits, convolution, shapes
from gpucnn.explore.body import MOST_BYTES, BadRequest, Body
from gpucnn.explore.digits import Digits
from gpucnn.explore.engine import Busy, Engine
from gpucnn.explore.runs import Runs
from gpucnn.explore.training import TrainingProcess

STATIC = Path(__file__).with_name("static")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Explorer:
    """What the addresses answer. `folders` are the runs; `new_run` makes the folder of a run that the page starts."""

    def __init__(self, folders: list[Path], new_run: Callable[[], Path], engine: Engine):
        self.engine, self._new_run = engine, new_run
        self.process, self._starting = TrainingProcess(), threading.Lock()
        self.runs = Runs(list(folders), engine.backend, self.process.trains)
        self._digits = Digits(self.runs)
        # What computes with the backend goes to the engine's first thread, what takes a moment to its second, and what
        # reads small files or starts a process waits for neither.
        self.computed: dict[str, Callable[[Body], Any]] = {
            "draw": self._digits.read,
            "example": self._digits.example,
            "look": self.runs.look,
            "results": self.runs.results,
            "bits": bits.compare,
            "break": bits.break_rule,
        }
        self.momentary: dict[str, Callable[[Body], Any]] = {
            "convolve": convolution.convolve,
            "digit": lambda body: convolution.digit(),
            "build": shapes.build,
        }
        self.immediate: dict[str, Callable[[Body], Any]] = {
            "status": self._status,
            "presets": lambda body: convolution.presets(),
            "kinds": lambda body: shapes.kinds(),
            "curves": self.runs.curves,
            "train": self._train,
            "stop": self._stop,
        }

    def _status(self, body: Body) -> dict[str, Any]:
        backend = self.engine.backend
        return {
            "version": __version__,
            "backend": backend.name,
            "device": backend.device,
            "runs": self.runs.listing(),
        }

    def _train(self, body: Body) -> dict[str, Any]:
        with self._starting:  # two tabs may ask at once
            folder = self.process.folder
            if folder is None or not self.process.trains(folder):
                folder = self._new_run()
                try:
                    self.process.start(folder)
                except ConfigurationError:
                    with suppress(OSError):  # where it holds files, it stays
                        folder.rmdir()
                    raise
                if folder not in self.runs.folders:  # it is when a run of that name was removed while the page was open
                    self.runs.folders.append(folder)
            return {"run": self.runs.folders.index(folder)}

    def _stop(self, body: Body) -> dict[str, Any]:
        self.process.stop()
        return {}

    def warm_up(self) -> None:
        """Import and compile what the first click and the first stroke need, so that they do not wait for it."""
        convolution.digit()
        backends()
        for index, run in enumerate(self.runs.listing()):
            if run["ready"]:
                content = json.dumps({"run": index, "image": 0}).encode()
                try:
                    self.runs.look(Body(content))
                    self.runs.results(Body(content))
                    self._digits.warm_up(index)
                except GpucnnError:
                    continue  # told when that run is opened
                return


def application(explorer: Explorer, token: str, port: int) -> "Guard":
    """The ASGI application: Starlette's routes behind the guard."""
    files = {
        file.name: (file.read_bytes(), _TYPES[file.suffix])
        for file in sorted(STATIC.iterdir())
        if file.suffix in _TYPES
    }

    async def page(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in files:
            return Response("not found", 404, media_type="text/plain")
        content, kind = files[name]
        return Response(content, media_type=kind)

    async def call(request: Request) -> Response:
        name = request.path_params["name"]
        try:
            body = Body(await request.body())
            if name in explorer.computed:
                answer = await explorer.engine.run(explorer.computed[name], body)
            elif name in explorer.momentary:
                answer = await explorer.engine.run(explorer.momentary[name], body, moment=True)
            elif name in explorer.immediate:
                answer = await asyncio.to_thread(explorer.immediate[name], body)
            else:
                return Response("not found", 404, media_type="text/plain")
        except BadRequest as error:
            return _json({"error": str(error)}, 400)
        except Busy:
            return _json({"error": "too many requests are waiting"}, 503)
        except GpucnnError as error:
            answer = {"refused": str(error)}
        except MemoryError:
            answer = {"refused": "there is not enough memory for this; choose smaller sizes"}
        return _json(answer)

    async def upload(request: Request) -> Response:
        side, channels = request.path_params["side"], request.path_params["channels"]
        if not 1 <= side <= convolution.SIDE or channels not in (1, 3):
            return _json({"error": "an image of up to 16 pixels a side and 1 or 3 channels can be had"}, 400)
        try:
            return _json(
                await explorer.engine.run(convolution.shrink, await request.body(), side, channels, moment=True)
            )
        except Busy:
            return _json({"error": "too many requests are waiting"}, 503)
        except GpucnnError as error:
            return _json({"refused": str(error)})

    routes = [
        Route(f"/{token}/", page, methods=["GET"]),
        Route(f"/{token}/{{name}}", page, methods=["GET"]),
        Route(f"/{token}/api/upload/{{side:int}}/{{channels:int}}", upload, methods=["POST"]),
        Route(f"/{token}/api/{{name}}", call, methods=["POST"]),
    ]
    application = Starlette(routes=routes)
    application.router.redirect_slashes = False
    return Guard(application, token, port)


def _json(answer: Any, status: int = 200) -> Response:
    return Response(json.dumps(answer, allow_nan=False), status, media_type="application/json")


class Guard:
    """Lets a request through to `application` if its token, host and origin are right and its body is not too long."""

    def __init__(self, application: Any, token: str, port: int):
        self._application, self._token = application, token.encode()
        self._hosts = {f"{host}:{port}".encode() for host in ("127.0.0.1", "localhost")}

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._application(scope, receive, send)
            return

        async def with_headers(message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        if refusal := self._refusal(scope):
            answer: Any = Response("refused", refusal, media_type="text/plain")
        elif body := await _limited(receive):
            answer, receive = self._application, body
        else:
            answer = _json({"refused": f"the file has more than {MOST_BYTES >> 20} MiB; choose a smaller one"}, 413)
        await answer(scope, receive, with_headers)

    def _refusal(self, scope) -> int | None:
        """The status of a refused request: 421 for another host, 403 for another origin, 404 for a wrong token."""
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), []).append(value)
        if len(headers.get(b"host", [])) != 1 or headers[b"host"][0] not in self._hosts:
            return 421
        for origin in headers.get(b"origin", []):
            if origin not in {b"http://" + host for host in self._hosts}:
                return 403
        if any(site not in (b"same-origin", b"none") for site in headers.get(b"sec-fetch-site", [])):
            return 403
        first = scope["path"].encode("utf-8", "surrogateescape").split(b"/")[1:2]
        if not first or not secrets.compare_digest(first[0], self._token):
            return 404
        return None


async def _limited(receive):
    """A `receive` that gives the whole body at once, read up to its limit; None if it is longer."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            break
        size += len(message.get("body", b""))
        if size > MOST_BYTES:
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            break
    whole = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

    async def replay():
        return whole.pop() if whole else await receive()

    return replay


class Server:
    """Listens on 127.0.0.1 from when it is made; port 0 is any free one. `address` is what to open in a browser."""

    def __init__(
        self,
        folders: list[Path],
        new_run: Callable[[], Path],
        *,
        port: int = 0,
        backend: str | None = None,
        threads: int = 1,
    ):
        self._socket = socket.socket()
        if sys.platform == "win32":  # where a second server could take a port that is reused
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind(("127.0.0.1", port))
            self._socket.listen(64)  # from here on a browser may come, and waits
        except OSError as error:
            self._socket.close()
            raise _unusable(port, error) from None
        port = self._socket.getsockname()[1]
        token = secrets.token_urlsafe(24)
        self.address = f"http://127.0.0.1:{port}/{token}/"
        self.explorer = Explorer(folders, new_run, Engine(backend, threads))
        config = uvicorn.Config(
            application(self.explorer, token, port),
            log_level="error",
            access_log=False,
            use_colors=False,  # or it asks standard output, which may be closed
            server_header=False,
            limit_concurrency=100,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=3,
            lifespan="off",
        )
        self._server = uvicorn.Server(config)

    def run(self, started: Callable[[], None] | None = None) -> None:
        """Serve until interrupted or stopped, then end what it has started. `started` is called before the first
        request is answered."""
        self.explorer.engine.later(self.explorer.warm_up)
        if started:
            started()
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self.explorer.process.stop()
            self.explorer.engine.close()
            self._socket.close()

    def stop(self) -> None:
        """Let `run` return."""
        self._server.should_exit = True


def _unusable(port: int, error: OSError) -> GpucnnError:
    from gpucnn.errors import ConfigurationError

    return ConfigurationError(
        f"cannot listen on port {port}: {error.strerror or error}; choose another with --port, or leave it out"
    )
