"""The same on a vLLM server that runs somewhere: pictures inside requests, LoRA by its own API."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from art_export.bench.settings import BenchOptions, Settings
from engines.bundle import BundleFolder
from engines.chat import Chat
from engines.vllm_http import JsonService
from engines.vllm_server import ServerOptions, VllmServer, chat_request, read_wire_picture

CHAT = "/v1/chat/completions"
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
Body = dict[str, Any]


class VllmBench:
    """One server, asked as a client would."""

    def __init__(self, url: str, model: str | None, chat: Chat, settings: Settings) -> None:
        """
        Raises:
            OptionError, ServerError: there is no such server, or it cannot be reached.
        """
        options = ServerOptions(url, model)
        self.server = VllmServer(options, chat)
        self._service = JsonService(url, options.timeout)
        self.settings = settings

    @classmethod
    def of(cls, options: BenchOptions) -> Self:
        """The server that the options name, asked as its model's own chat template asks."""
        size = BundleFolder.open(options.bundle).manifest.picture_size
        chat = Chat.load(options.bundle, size)
        return cls(options.url or "", options.served_model, chat, options.settings)

    def art(self, pictures: Sequence[Path]) -> dict[str, Any]:
        """Samples in seconds; a picture is part of each request, so nothing is put in use."""
        name = self.server.model.name
        wires = [read_wire_picture(path).png for path in pictures]

        def body(adapter: int, count: int) -> Body:
            return self._body(name, wires[adapter], count)

        deploys = []
        for number in range(min(self.settings.deploys, len(pictures))):
            began = time.perf_counter()
            png = read_wire_picture(pictures[number]).png
            read = time.perf_counter() - began
            # A picture that the server has not seen yet: it keeps features and prefixes.
            spent = self._time([self._body(name, png, 1)])
            deploys.append({"read": read, "first token": spent})
        return {"deploys": deploys, **self._running(body, len(pictures))}

    def lora(self, adapters: Sequence[Path]) -> dict[str, Any]:
        """The same with adapters that the server loads while it runs, and unloads at the end."""
        names = [f"bench-{number}" for number in range(len(adapters))]
        deploys = []
        try:
            for name, path in zip(names, adapters, strict=True):
                began = time.perf_counter()
                self._post(LOAD, {"lora_name": name, "lora_path": str(path.resolve())})
                loaded = time.perf_counter() - began
                spent = self._time([self._body(name, None, 1)])
                deploys.append({"load": loaded, "first token": spent})

            def body(adapter: int, count: int) -> Body:
                return self._body(names[adapter], None, count)

            return {"deploys": deploys, **self._running(body, len(adapters))}
        finally:
            for name in names[: len(deploys)]:
                self._post(UNLOAD, {"lora_name": name})

    def answers(
        self, picture: Path | None, lora: Path | None, prompts: Sequence[str], count: int
    ) -> list[str]:
        """Greedy answers under a picture, or under a LoRA."""
        png = None if picture is None else read_wire_picture(picture).png
        name = self.server.model.name
        if lora is not None:
            name = "bench-task"
            self._post(LOAD, {"lora_name": name, "lora_path": str(lora.resolve())})
        try:
            bodies = [self._request(name, prompt, png, count) for prompt in prompts]
            return [each["choices"][0]["message"]["content"] or "" for each in self._ask(bodies)]
        finally:
            if lora is not None:
                self._post(UNLOAD, {"lora_name": name})

    def _running(self, body: Callable[[int, int], Body], adapters: int) -> dict[str, Any]:
        settings, steps = self.settings, self.settings.steps
        first = [self._time([body(0, 1)]) for _ in range(settings.requests)]
        # One long answer less a short one is decoding alone.
        decode = [
            (self._time([body(0, steps + 1)]) - self._time([body(0, 1)])) / steps
            for _ in range(settings.requests)
        ]
        throughput = {
            str(batch): [self._time([body(0, steps)] * batch) / steps] for batch in settings.batches
        }
        mixed = {
            str(count): [self._time([body(n % count, steps) for n in range(settings.rows)]) / steps]
            for count in settings.mixes
            if count <= adapters
        }
        return {"first": first, "decode": decode, "throughput": throughput, "mixed": mixed}

    def _body(self, model: str, png: bytes | None, count: int) -> Body:
        body = self._request(model, self.settings.prompt, png, count)
        return body | {"ignore_eos": True, "min_tokens": count}

    def _request(self, model: str, prompt: str, png: bytes | None, count: int) -> Body:
        turns = self.server.chat.template.turns(prompt, picture=png is not None)
        return chat_request(model, turns, png, count)

    def _time(self, bodies: Sequence[Body]) -> float:
        began = time.perf_counter()
        self._ask(bodies)
        return time.perf_counter() - began

    def _ask(self, bodies: Sequence[Body]) -> list[Any]:
        with ThreadPoolExecutor(len(bodies)) as pool:
            return list(pool.map(lambda body: self._service.call(CHAT, body), bodies))

    def _post(self, path: str, body: Body) -> None:
        # The server confirms in plain words.
        self._service.send(path, body)
