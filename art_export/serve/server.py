"""Listening, signals, and the order in which things start and stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from secrets import compare_digest

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from art_export.bundle import Bundle
from art_export.serve.app import Api
from art_export.serve.failures import ApiError, api_error
from art_export.serve.log import RequestLog
from art_export.serve.metrics import Metrics
from art_export.serve.scheduler import BusyError, ClosingError, Limits, Scheduler
from engines.errors import ArtExportError, OptionError

KEY_VARIABLE = "ART_EXPORT_API_KEY"
"""Environment variable: a key that every request to /v1 must carry as a bearer token."""

LAST_TOKEN = 60.0
"""Seconds that one step or prefill may take at most when the server ends."""


@dataclass(frozen=True)
class ServeOptions:
    """host, port: where to listen; port 0 takes a free one. grace: seconds that answers under way
    have when the server is stopped. allow_swap: whether clients may change the pictures."""

    host: str = "127.0.0.1"
    port: int = 8000
    grace: int = 30
    allow_swap: bool = False
    limits: Limits = field(default_factory=Limits)


def listen(options: ServeOptions) -> socket.socket:
    """Reserve the address. Nobody can connect yet.

    Raises:
        OptionError: it is taken, not of this machine, or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        raise OptionError(
            got=f"the address {options.host}:{options.port}: {error.strerror or error}",
            expected="a free port at an address of this machine",
            fix="give another --host or --port; --port 0 takes any that is free",
        ) from error
    return found


def serve(
    bundle: Bundle,
    options: ServeOptions,
    place: socket.socket,
    ready: Callable[[str], None],
) -> bool:
    """Answer until SIGINT or SIGTERM; whether everything that was under way has been answered.

    Args:
        place: from `listen`.
        ready: called with the server's address once it answers.
    """
    metrics = Metrics()
    scheduler = Scheduler(bundle, options.limits, metrics)
    scheduler.start()
    api = Api(bundle, scheduler, metrics, options.allow_swap)
    app = RequestLog(application(api), metrics)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=options.grace,
        server_header=False,
        ws="none",
    )
    server = _Server(config, lambda: ready(_url(place)))
    asyncio.run(server.serve(sockets=[place]))
    # Every connection has ended: what is still under way belongs to nobody, and ends at once.
    return scheduler.close(timeout=LAST_TOKEN) and not server.cut


class _Server(uvicorn.Server):
    """Says when it listens; a signal stops it and is not raised again afterwards, since stopping
    is what was asked."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready
        self.cut = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        # None are left unless time ran out, or a second signal came.
        self.cut = bool(self.server_state.tasks)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        kinds = (signal.SIGINT, signal.SIGTERM)
        before = {kind: signal.signal(kind, self.handle_exit) for kind in kinds}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)


def application(api: Api) -> Starlette:
    """The ASGI application, with its errors in OpenAI's form."""
    known = (ApiError, ArtExportError, BusyError, ClosingError)
    return Starlette(
        routes=api.routes(),
        middleware=[Middleware(_Key, key=os.environ.get(KEY_VARIABLE))],
        exception_handlers={
            **dict.fromkeys(known, _told),
            HTTPException: _http,
            # Told to the client here; uvicorn writes it into the log.
            Exception: _told,
        },
    )


class _Key:
    """Refuses requests to /v1 without the server's key, where it has one."""

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self._app, self._wanted = app, f"Bearer {key}".encode() if key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wanted = self._wanted
        if scope["type"] == "http" and wanted and scope["path"].startswith("/v1"):
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not compare_digest(given, wanted):
                refusal = ApiError(401, "a wrong API key, or none", "invalid_api_key")
                await refusal.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def _told(request: Request, error: Exception) -> Response:
    return api_error(error).response()


async def _http(request: Request, error: Exception) -> Response:
    """No such route, or not that method there."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    what = f"{request.method} {request.url.path}"
    return ApiError(status, f"{what}: no such address", "unknown_url").response()


def log_to_stderr() -> None:
    """Requests and faults, one handler."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name, level in (("art_export.serve", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.addHandler(handler)
        logger.propagate = False


def _url(place: socket.socket) -> str:
    host, port = place.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
