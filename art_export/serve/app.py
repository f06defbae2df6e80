"""The routes: what HTTP asks is turned into questions for the engine's thread."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from art_export.bundle import Bundle
from art_export.serve.failures import ApiError, api_error
from art_export.serve.job import Answer, Event, Job, Piece
from art_export.serve.log import note
from art_export.serve.metrics import Metrics
from art_export.serve.protocol import ChatRequest, Reply, first_fault, model_card
from art_export.serve.scheduler import Scheduler
from engines.bundle import ART_NAME, check_art_name
from engines.errors import OptionError
from engines.names import closest
from engines.picture import decode_picture

Result = TypeVar("Result")
MAX_CHAT_BYTES = 2_000_000
MAX_PICTURE_BYTES = 20_000_000


class Api:
    """The handlers. `base` is the name of the bare model."""

    def __init__(
        self, bundle: Bundle, scheduler: Scheduler, metrics: Metrics, allow_swap: bool
    ) -> None:
        self._bundle, self._scheduler, self._metrics = bundle, scheduler, metrics
        self._allow_swap = allow_swap
        self.base = bundle.folder.manifest.base_model
        self._started = int(time.time())

    def routes(self) -> list[Route]:
        return [
            Route("/health", self.health),
            Route("/metrics", self.metrics),
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", self.model),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/arts/{name}", self.swap, methods=["PUT"]),
            Route("/v1/arts/{name}", self.remove, methods=["DELETE"]),
        ]

    async def health(self, request: Request) -> Response:
        alive = self._scheduler.alive
        return JSONResponse({"status": "ok" if alive else "stopped"}, 200 if alive else 503)

    async def metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")

    async def models(self, request: Request) -> Response:
        cards = [self._card(name) for name in self._names()]
        return JSONResponse({"object": "list", "data": cards})

    async def model(self, request: Request) -> Response:
        name = self._known(request.path_params["name"])
        return JSONResponse(self._card(name))

    async def chat(self, request: Request) -> Response:
        asked = await _parsed(request)
        name = self._default() if asked.model is None else self._known(asked.model)
        note(request, model=name)
        self._check_length(asked)
        events: asyncio.Queue[Event] = asyncio.Queue()
        job = Job(asked.question(None if name == self.base else name), _teller(events))
        self._scheduler.submit(job)
        reply = Reply(name)
        first = await _first(request, job, events)
        if isinstance(first, Answer) and not asked.stream:
            _note_answer(request, first)
            return JSONResponse(reply.whole(first))
        counted = asked.stream_options is not None and asked.stream_options.include_usage
        stream = self._stream(request, job, events, first, reply, counted)
        return StreamingResponse(stream, media_type="text/event-stream")

    async def _stream(
        self,
        request: Request,
        job: Job,
        events: asyncio.Queue[Event],
        event: Event,
        reply: Reply,
        counted: bool,
    ) -> AsyncIterator[str]:
        """Server-sent events; the first event is known, so that errors before it have a status."""
        try:
            yield _sse(reply.chunk({"role": "assistant", "content": ""}))
            while isinstance(event, Piece):
                yield _sse(reply.chunk({"content": event.text}))
                event = await events.get()
            if isinstance(event, Exception):
                yield _sse(api_error(event).document)
                return
            _note_answer(request, event)
            if event.unsent:
                yield _sse(reply.chunk({"content": event.unsent}))
            yield _sse(reply.chunk({}, event.finish))
            if counted:
                yield _sse(reply.usage_chunk(event))
            yield "data: [DONE]\n\n"
        finally:
            # The client may have gone in the middle.
            job.cancelled = True

    async def swap(self, request: Request) -> Response:
        self._check_swaps()
        name = request.path_params["name"]
        note(request, art=name)
        if name == self.base:
            raise ApiError(400, f"{name!r} is the bare model's name", param="name")
        data = await _body(request, MAX_PICTURE_BYTES)
        size = self._bundle.folder.manifest.picture_size
        picture = decode_picture(data, f"the picture for {name!r}", size)
        result = await self._alone(lambda: self._bundle.swap(picture, name))
        self._metrics.swaps.inc()
        return JSONResponse(
            {
                "name": result.name,
                "seconds": result.seconds["total"],
                "stages": result.seconds,
                "picture_sha256": result.picture_sha256,
                "prefix_bytes": result.prefix_bytes,
                "warnings": list(result.warnings),
            }
        )

    async def remove(self, request: Request) -> Response:
        self._check_swaps()
        name = request.path_params["name"]
        note(request, art=name)
        if not self._stored(name):
            raise self._unknown(name)
        await self._alone(lambda: self._bundle.remove(name))
        return JSONResponse({"id": name, "object": "model", "deleted": True})

    async def _alone(self, work: Callable[[], Result]) -> Result:
        return await asyncio.wrap_future(self._scheduler.call(work))

    def _check_swaps(self) -> None:
        if not self._allow_swap:
            message = "pictures cannot be changed here: the server runs without --allow-swap"
            raise ApiError(403, message, "swap_not_allowed")

    def _check_length(self, asked: ChatRequest) -> None:
        most, wanted = self._scheduler.limits.max_new_tokens, asked.wanted_tokens
        if most is not None and wanted is not None and wanted > most:
            message = f"max_tokens: {wanted}, and this server answers with at most {most}"
            raise ApiError(400, message, param="max_tokens")

    def _names(self) -> list[str]:
        arts = [name for name in self._bundle.folder.art_names() if name != self.base]
        return [*arts, self.base]

    def _default(self) -> str:
        """The art in use, for a request that names no model."""
        return self._bundle.folder.active() or self.base

    def _known(self, name: str) -> str:
        if name != self.base and not self._stored(name):
            raise self._unknown(name)
        return name

    def _stored(self, name: str) -> bool:
        """Whether the bundle has this art. Every request asks, so the others are not listed."""
        try:
            check_art_name(name)
        except OptionError:
            return False
        return self._bundle.folder.prefix_path(name).with_name(ART_NAME).is_file()

    def _unknown(self, name: str) -> ApiError:
        names = self._names()
        guess = closest(name, names)
        hint = f"did you mean {guess!r}? " if guess else ""
        message = f"the model {name!r} does not exist; {hint}known: {', '.join(names)}"
        return ApiError(404, message, "model_not_found", "model")

    def _card(self, name: str) -> dict[str, Any]:
        return model_card(name, self.base, self._started, self.base)


async def _parsed(request: Request) -> ChatRequest:
    try:
        return ChatRequest.model_validate_json(await _body(request, MAX_CHAT_BYTES))
    except ValidationError as error:
        name, message = first_fault(error)
        raise ApiError(400, message, param=name) from error


async def _body(request: Request, most: int) -> bytes:
    """The body, read no further than it may be long."""
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > most:
            raise ApiError(413, f"a body of more than {most:,} bytes")
    return bytes(data)


async def _first(request: Request, job: Job, events: asyncio.Queue[Event]) -> Piece | Answer:
    """The first that a job tells; it is given up when the client goes before that."""
    event, left = asyncio.ensure_future(events.get()), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((event, left), return_when=asyncio.FIRST_COMPLETED)
        job.cancelled = left.done()
        found = await event
    except asyncio.CancelledError:
        job.cancelled = True
        raise
    finally:
        left.cancel()
    if isinstance(found, Exception):
        raise found
    return found


async def _left(request: Request) -> None:
    """Return when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        continue


def _teller(events: asyncio.Queue[Event]) -> Callable[[Event], None]:
    """Hands events from the engine's thread over to this event loop."""
    loop = asyncio.get_running_loop()

    def tell(event: Event) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(events.put_nowait, event)

    return tell


def _note_answer(request: Request, answer: Answer) -> None:
    note(
        request,
        prompt=answer.usage.prompt,
        new=answer.usage.completion,
        waited=f"{answer.waited * 1000:.0f}ms",
        finish=answer.finish,
    )


def _sse(document: dict[str, Any]) -> str:
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n"
