"""An unmodified vLLM server as an engine: whole chats over HTTP, the picture inside the message.

A server takes no features and gives no state, so it is no `Engine`: it stands where a `Runtime`
does. Every answer is checked against this project's own tokens of the same chat, because a server
that resizes pictures or writes another chat answers fluently, and wrongly.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from engines import png
from engines.chat import Chat
from engines.chat_template import Turns
from engines.errors import OptionError, PromptError, ServerError
from engines.names import choose
from engines.picture import Picture, decode_picture, load_picture
from engines.runtime import Completion
from engines.vllm_http import DOCUMENT, JsonService


@dataclass(frozen=True)
class ServerOptions:
    """Where a server is and how to ask it.

    url: its address, with or without the final /v1. model: the name that it serves the model
    under; None takes the only one. timeout: seconds to wait for an answer. parallel: requests in
    flight at once, which the server batches.
    """

    url: str
    model: str | None = None
    timeout: float = 600.0
    parallel: int = 32


@dataclass(frozen=True)
class ServedModel:
    """A line of the server's list. `name` is what requests give, `root` where it was loaded from,
    `max_length` the most tokens of prompt and answer, `parent` an adapter's base model."""

    name: str
    root: str | None
    max_length: int | None
    parent: str | None


@dataclass(frozen=True)
class ServerAnswer:
    """One answer of a server.

    prompt_ids: its tokens of the chat. token_ids: what it generated, with the token that ended the
    answer. logprobs: of every generated token, unless nobody asked. A server of before 0.10.2 tells
    no ids: the first is None then, the second empty. prompt_tokens: how many, which all tell.
    """

    completion: Completion
    prompt_tokens: int
    prompt_ids: tuple[int, ...] | None
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True)
class WirePicture:
    """A picture as read here, and the PNG that says exactly that to a server."""

    picture: Picture
    png: bytes


def read_wire_picture(path: str | Path, size: int | None = None) -> WirePicture:
    """Read a PNG file as an adapter, to be sent as it is.

    Raises:
        PictureError: as `engines.picture.load_picture`.
    """
    load_picture(path, size)
    data = Path(path).read_bytes()
    # What is sent is what was checked, even if the file was replaced in between.
    picture = decode_picture(data, str(path), size)
    if b"eXIf" in data:
        # vLLM turns a picture as its EXIF data says; the trained numbers stay where they are.
        data = png.parse(data, str(path)).critical
    return WirePicture(picture, data)


def chat_request(
    model: str, turns: Turns, picture: bytes | None, max_new_tokens: int
) -> dict[str, Any]:
    """The body of a request to /v1/chat/completions: greedy, thinking off.

    Args:
        turns: from `ChatTemplate.turns`, with the picture's place in them if there is one.
        picture: the bytes of a PNG file.
    """
    # The server's template gets the turns as ours does; it must not read the answer, nor need
    # a parser for that.
    tools = {} if turns.tools is None else {"tools": turns.tools, "tool_choice": "none"}
    return {
        "model": model,
        "messages": [_wire_message(message, picture) for message in turns.messages],
        **tools,
        "max_completion_tokens": max_new_tokens,
        "temperature": 0,
        # vLLM takes what a request leaves out from the model's generation_config.json, and a
        # penalty found there would bend greedy answers too.
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "chat_template_kwargs": {"enable_thinking": False},
        "return_token_ids": True,
    }


def _wire_message(message: Mapping[str, Any], picture: bytes | None) -> dict[str, Any]:
    """A message as OpenAI's API has it: pictures as data URLs, arguments as text, ids for calls."""
    sent = dict(message)
    sent["content"] = [_wire_part(part, picture) for part in message["content"]]
    if message["role"] == "tool":
        sent["tool_call_id"] = "call"
    if "tool_calls" in message:
        sent["tool_calls"] = [_wire_call(call["function"]) for call in message["tool_calls"]]
    return sent


def _wire_part(part: Mapping[str, Any], picture: bytes | None) -> dict[str, Any]:
    if part["type"] != "image" or picture is None:
        return dict(part)
    url = "data:image/png;base64," + base64.b64encode(picture).decode("ascii")
    return {"type": "image_url", "image_url": {"url": url}}


def _wire_call(function: Mapping[str, Any]) -> dict[str, Any]:
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    inner = {"name": function["name"], "arguments": arguments}
    return {"id": "call", "type": "function", "function": inner}


class VllmServer:
    """A model on a server, and the chat format that it must agree with."""

    name: ClassVar[str] = "vllm"

    def __init__(self, options: ServerOptions, chat: Chat) -> None:
        """Ask the server what it serves.

        Raises:
            OptionError: the URL is none, or the server has no model of that name.
            ServerError: the server cannot be reached or is no vLLM server.
        """
        self.options, self.chat = options, chat
        self._service = JsonService(options.url, options.timeout)
        self.model = _the_model(self.models(), options)

    def models(self) -> tuple[ServedModel, ...]:
        """What the server serves: base models and LoRA adapters."""
        answer = self._service.call("/v1/models")
        with self._service.understood("/v1/models"):
            return tuple(_served(card) for card in answer["data"])

    def version(self) -> str | None:
        """vLLM's version; None from a server that does not tell."""
        try:
            return str(self._service.call("/version")["version"])
        except (ServerError, LookupError, TypeError):
            return None

    def generate(
        self,
        prompts: Sequence[str],
        pictures: Sequence[bytes | None],
        max_new_tokens: int,
    ) -> list[Completion]:
        """Greedy answers in the order of the prompts; row i sees the PNG pictures[i], or none.

        Raises:
            PromptError: a prompt is empty or, with its answer, does not fit the model.
            ServerError: the server fails, or saw another chat than this one.
        """
        expected = [
            self.prompt_ids(prompt, picture is not None)
            for prompt, picture in zip(prompts, pictures, strict=True)
        ]
        for ids in expected:
            self._check_length(len(ids), max_new_tokens)
        answers = self.ask(prompts, pictures, max_new_tokens)
        for answer, ids in zip(answers, expected, strict=True):
            _check_prompt(answer, ids)
        return [answer.completion for answer in answers]

    def ask(
        self,
        prompts: Sequence[str],
        pictures: Sequence[bytes | None],
        max_new_tokens: int,
        *,
        logprobs: bool = False,
    ) -> list[ServerAnswer]:
        """As `generate`, with all that the server says and nothing checked."""
        bodies = [
            self.request(prompt, picture, max_new_tokens) | {"logprobs": logprobs}
            for prompt, picture in zip(prompts, pictures, strict=True)
        ]
        workers = max(1, min(self.options.parallel, len(bodies)))
        pool = ThreadPoolExecutor(workers, "vllm-request")
        try:
            return list(pool.map(self._answer, bodies))
        finally:
            # After a failure, or Ctrl-C, what has not been sent is not sent any more.
            pool.shutdown(cancel_futures=True)

    def request(self, prompt: str, picture: bytes | None, max_new_tokens: int) -> dict[str, Any]:
        """The body that asks for a greedy answer to a prompt under a PNG, or none."""
        turns = self.chat.template.turns(prompt, picture=picture is not None)
        return chat_request(self.model.name, turns, picture, max_new_tokens)

    def prompt_ids(self, prompt: str, with_picture: bool) -> list[int]:
        """The chat's tokens as this project writes them, one placeholder a visual token."""
        if not prompt.strip():
            raise PromptError(
                got="an empty prompt", expected="some text", fix="give the text to answer"
            )
        if with_picture:
            return [*self.chat.prefix_ids(), *self.chat.tail_ids(prompt)]
        return self.chat.full_ids(prompt)

    def _check_length(self, prompt: int, max_new_tokens: int) -> None:
        served = self.model.max_length
        limit = self.chat.max_length if served is None else min(served, self.chat.max_length)
        if prompt + max_new_tokens > limit:
            raise PromptError(
                got=f"a prompt of {prompt} tokens with {max_new_tokens} to generate",
                expected=f"at most {limit} tokens, the limit of the model on this server",
                fix="shorten the prompt, lower --max-new-tokens, or start the server with a "
                "larger --max-model-len",
            )

    def _answer(self, body: Mapping[str, Any]) -> ServerAnswer:
        path = "/v1/chat/completions"
        answer = self._service.call(path, body)
        with self._service.understood(path):
            choice = answer["choices"][0]
            return ServerAnswer(
                completion=_completion(choice, self.chat.eos_ids),
                prompt_tokens=int(answer["usage"]["prompt_tokens"]),
                prompt_ids=_ids(answer.get("prompt_token_ids")),
                token_ids=_ids(choice.get("token_ids")) or (),
                logprobs=tuple(float(step["logprob"]) for step in _steps(choice)),
            )


def _the_model(served: Sequence[ServedModel], options: ServerOptions) -> ServedModel:
    names = [model.name for model in served]
    if options.model is not None:
        name = choose("served model", options.model, names)
        return served[names.index(name)]
    own = [model for model in served if model.parent is None]
    if len(own) != 1:
        raise OptionError(
            got=f"{options.url}, which serves {len(own)} models: {', '.join(names)}",
            expected="the name of one of them",
            fix="give it with --served-model",
        )
    return own[0]


def _served(card: Mapping[str, Any]) -> ServedModel:
    length = card.get("max_model_len")
    return ServedModel(
        name=str(card["id"]),
        root=card.get("root"),
        max_length=None if length is None else int(length),
        parent=card.get("parent"),
    )


def _check_prompt(answer: ServerAnswer, expected: Sequence[int]) -> None:
    """The server must have seen this very chat: a resized picture has other visual tokens."""
    count = answer.prompt_tokens
    if count == len(expected) and answer.prompt_ids in (None, tuple(expected)):
        return
    difference = f"{count} prompt tokens" if count != len(expected) else "other prompt tokens"
    raise ServerError(
        got=f"a server that saw {difference}",
        expected=f"the {len(expected)} of this chat, as the model's own template and processor "
        "write it",
        fix="serve the model with its own chat template and without options that resize "
        f"pictures; {DOCUMENT} lists them",
    )


def _completion(choice: Mapping[str, Any], eos_ids: Sequence[int]) -> Completion:
    ids = _ids(choice.get("token_ids")) or ()
    finished = choice["finish_reason"] == "stop"
    if finished and ids and ids[-1] in eos_ids:
        ids = ids[:-1]
    return Completion(str(choice["message"]["content"] or ""), ids, finished)


def _ids(value: Any) -> tuple[int, ...] | None:
    return None if value is None else tuple(int(token) for token in value)


def _steps(choice: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return (choice.get("logprobs") or {}).get("content") or ()
