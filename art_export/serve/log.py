"""One line a request on stderr, and the errors that its handler raised turned into answers."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from art_export.serve.metrics import Metrics

_LOG = logging.getLogger("art_export.serve.requests")
_NOTES = "art_export.notes"


def note(request: Request, **facts: Any) -> None:
    """Add `name=value` to the request's line."""
    request.scope.setdefault(_NOTES, {}).update(facts)


class RequestLog:
    """Around the whole application, so that a stream's line comes at its end."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        notes: dict[str, Any] = {}
        scope[_NOTES] = notes
        began, status = time.monotonic(), 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            self._write(scope, status, time.monotonic() - began, notes)

    def _write(self, scope: Scope, status: int, spent: float, notes: dict[str, Any]) -> None:
        # The route's own pattern: a path is whatever a client made up.
        route = getattr(scope.get("route"), "path", "none")
        self._metrics.requests.labels(route, str(status)).inc()
        host = (scope.get("client") or ("-",))[0]
        # Quoted as Python has it, so that a client cannot write lines of its own into the log.
        facts = "".join(f" {name}={_shown(value)}" for name, value in notes.items())
        _LOG.info(
            "%s %s %s %s %d %.0fms%s",
            datetime.now(UTC).isoformat(timespec="milliseconds"),
            host,
            scope["method"],
            _shown(scope["path"]),
            status,
            spent * 1000,
            facts,
        )


def _shown(value: object) -> str:
    text = str(value)
    return text if text.isprintable() and " " not in text else ascii(text)
