"""JSON over HTTP to a vLLM server: one method, and every way in which it fails as one error."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import OpenerDirector, ProxyHandler, Request, build_opener

from engines.errors import OptionError, ServerError

DOCUMENT = "docs/vllm.md"
KEY_VARIABLE = "VLLM_API_KEY"
"""Environment variable that holds the key of a server started with --api-key."""
_OWN_HOSTS = ("localhost", "127.0.0.1", "::1")
_NOT_FOUND, _UNAUTHORIZED = 404, 401
_SHOWN = 300  # characters of a server's own message


class JsonService:
    """A server's address. Requests may be made from several threads at once."""

    def __init__(self, url: str, timeout: float) -> None:
        """
        Args:
            url: with or without a final slash or /v1.
            timeout: seconds to wait for an answer.

        Raises:
            OptionError: `url` is not the address of a web service.
        """
        self.base, self._opener = _address(url)
        self._timeout = timeout

    def call(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """GET, or POST of a JSON body: the JSON that comes back.

        Raises:
            ServerError: no connection, no answer in time, a refusal, or an answer that is no JSON.
        """
        content = self.send(path, body)
        with self.understood(path):
            return json.loads(content)

    def send(self, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        """As `call`; the bytes that come back, whatever they are."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode("utf-8")
        request = Request(self.base + path, data, headers)
        with self._reached(), self._opener.open(request, timeout=self._timeout) as response:
            content: bytes = response.read()
        return content

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Turn every way in which a connection fails into one error that says what to do."""
        try:
            yield
        except HTTPError as error:
            raise self._refusal(error) from error
        except TimeoutError as error:
            raise self._silent() from error
        except URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise self._silent() from error
            raise self._unreachable(str(error.reason)) from error
        except (HTTPException, OSError) as error:
            raise self._unreachable(
                f"the connection broke: {type(error).__name__} {error}"
            ) from error

    @contextmanager
    def understood(self, path: str) -> Iterator[None]:
        """Turn an answer that is no JSON, or JSON of another form, into an error that says so."""
        try:
            yield
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ServerError(
                got=f"{self.base}{path}: an answer that cannot be read "
                f"({type(error).__name__}: {error})",
                expected="JSON of vLLM's OpenAI-compatible API",
                fix="check that --url names a vLLM server, and no other service",
            ) from error

    def _silent(self) -> ServerError:
        return ServerError(
            got=f"{self.base}: no answer within {self._timeout:g} s",
            expected="an answer in time",
            fix="look at the server's log; ask for fewer tokens, or give it more time",
        )

    def _unreachable(self, why: str) -> ServerError:
        return ServerError(
            got=f"{self.base}: {why}",
            expected="a running vLLM server",
            fix=f"start one as {DOCUMENT} shows, and give its address with --url",
        )

    def _refusal(self, error: HTTPError) -> ServerError:
        fixes = {
            _NOT_FOUND: "check --url (the server's address alone) and the model's name there",
            _UNAUTHORIZED: f"put the server's key into the environment variable {KEY_VARIABLE}",
        }
        return ServerError(
            got=f"{self.base}: HTTP {error.code}: {_message(error.read())}",
            expected="an answer of the model",
            fix=fixes.get(error.code, "the server's own log says more"),
        )


def _address(url: str) -> tuple[str, OpenerDirector]:
    """The server's root without a final slash or /v1, and what opens it."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise OptionError(
            got=f"the URL {url!r}",
            expected="the address of a vLLM server, such as http://localhost:8000",
            fix="give it with --url",
        )
    base = url.rstrip("/").removesuffix("/v1").rstrip("/")
    # A proxy of the environment is for other machines, and this one is often not in no_proxy.
    proxies = ProxyHandler({}) if parts.hostname in _OWN_HOSTS else ProxyHandler()
    return base, build_opener(proxies)


def _message(body: bytes) -> str:
    """The server's own words: `error.message` of its JSON, or the beginning of what it sent."""
    try:
        text = str(json.loads(body)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        text = body.decode("utf-8", "replace")
    return " ".join(text.split())[:_SHOWN]
