"""The part of OpenAI's chat-completions API that is answered here, as documents in and out.

Source: https://platform.openai.com/docs/api-reference/chat. What would change an answer and is not
supported is refused, not ignored.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from art_export.serve.job import Answer, Question
from engines.conversation import Conversation
from engines.sampling import SamplingOptions

Neutral = Annotated[float | None, Field(ge=0, le=0)]
"""A number that may only be 0: the option is not supported."""
Empty = Annotated[list[Any] | dict[str, Any] | None, Field(max_length=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(_Strict):
    include_usage: bool = False
    include_obfuscation: bool = False


class TextFormat(_Strict):
    type: Literal["text"]


class ChatRequest(_Strict):
    """The body of POST /v1/chat/completions. top_k is vLLM's addition to the API.

    `messages` and `tools` are checked by `Conversation`. A picture is chosen by `model`, not sent.
    """

    model: str | None = None
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    seed: int | None = None
    stop: (
        Annotated[str, Field(min_length=1, max_length=1000)]
        | Annotated[list[Annotated[str, Field(min_length=1, max_length=1000)]], Field(max_length=4)]
        | None
    ) = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Taken with the value that changes nothing.
    n: Literal[1] | None = None
    frequency_penalty: Neutral = None
    presence_penalty: Neutral = None
    logprobs: Literal[False] | None = None
    logit_bias: Empty = None
    tool_choice: Literal["auto"] | None = None
    response_format: TextFormat | None = None
    # These concern OpenAI's own service.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    def question(self, art: str | None) -> Question:
        """What is asked, under the picture `art`.

        Raises:
            PromptError: the messages or tools have not the form of a conversation.
        """
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        sampling = SamplingOptions(self.temperature or 0.0, self.top_k or 0, self.top_p or 1.0)
        seed = None if self.seed is None else self.seed % 2**64
        return Question(
            art=art,
            prompt=self._prompt(),
            max_new_tokens=self.wanted_tokens,
            sampling=sampling,
            seed=seed,
            stops=stops,
            stream=bool(self.stream),
        )

    def _prompt(self) -> str:
        """One user turn as its text, which is what pictures are trained on; else all turns."""
        talk = Conversation.of(self.messages, self.tools)
        return talk if len(talk.messages) > 1 or talk.tools else str(talk.messages[0]["content"])


def first_fault(error: ValidationError) -> tuple[str, str]:
    """Name of the field that is wrong first, and a message that says what it must be."""
    fault = error.errors(include_url=False)[0]
    name = ".".join(str(place) for place in fault["loc"]) or "body"
    if fault["type"] == "extra_forbidden":
        return name, f"{name}: not supported by this server; leave it out"
    return name, f"{name}: {fault['msg']}"


def model_card(name: str, base: str, created: int, root: str) -> dict[str, Any]:
    """An entry of GET /v1/models; `parent` is the bare model of a picture."""
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "art-export",
        "root": root,
        "parent": None if name == base else base,
    }


def usage(answer: Answer) -> dict[str, Any]:
    found = answer.usage
    return {
        "prompt_tokens": found.prompt,
        "completion_tokens": found.completion,
        "total_tokens": found.prompt + found.completion,
        "prompt_tokens_details": {"cached_tokens": found.cached},
    }


@dataclass(frozen=True)
class Reply:
    """Documents of one answer; `model` is the name that was asked for."""

    model: str
    identity: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answer: Answer) -> dict[str, Any]:
        """A chat.completion."""
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": answer.finish,
            "logprobs": None,
        }
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage(answer)}

    def chunk(self, delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
        """One chat.completion.chunk of a stream."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def usage_chunk(self, answer: Answer) -> dict[str, Any]:
        """The last chunk of a stream that was asked for with include_usage."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": usage(answer)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.identity, "object": kind, "created": self.created, "model": self.model}
