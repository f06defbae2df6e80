"""A LoRA on a vLLM server that already runs: loaded for as long as it is needed, and checked.

The server has to be started with --enable-lora, --max-lora-rank as high as the adapter's, and
VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment, and it reads the adapter's folder itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from engines.adapter import WEIGHTS_NAME
from engines.chat import Chat
from engines.errors import CheckFailed, ServerError
from engines.vllm_http import JsonService
from engines.vllm_server import ServerOptions, VllmServer

PROBE = "What is 12 + 30?"
PROBE_TOKENS = 8


@contextmanager
def lora_on_server(options: ServerOptions, chat: Chat, folder: Path) -> Iterator[VllmServer]:
    """The server's model under the adapter in `folder`, which is unloaded in the end.

    Raises:
        ServerError: the server does not load adapters, or not this one.
        CheckFailed: the adapter changes nothing there; servers have been seen to go on with the
            base model where an adapter's names match no layer.
    """
    base = VllmServer(options, chat)
    service = JsonService(options.url, options.timeout)
    path = folder.resolve()
    name = "art-export-" + hashlib.sha256((path / WEIGHTS_NAME).read_bytes()).hexdigest()[:12]
    _load(service, name, path)
    try:
        adapted = VllmServer(replace(options, model=name), chat)
        _check_effect(base, adapted)
        yield adapted
    finally:
        service.send("/v1/unload_lora_adapter", {"lora_name": name})


def _load(service: JsonService, name: str, path: Path) -> None:
    try:
        service.send("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path)})
    except ServerError as error:
        raise ServerError(
            got=f"a server that does not load the adapter {path}: {error.got}",
            expected="one started with --enable-lora, a --max-lora-rank as high as the adapter's, "
            "and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment, on this machine",
            fix="start it so; or with --lora-modules NAME=DIR, and give --served-model NAME in "
            "the place of --lora",
        ) from error


def _check_effect(base: VllmServer, adapted: VllmServer) -> None:
    (one,) = base.ask([PROBE], [None], PROBE_TOKENS, logprobs=True)
    (other,) = adapted.ask([PROBE], [None], PROBE_TOKENS, logprobs=True)
    if (one.completion.text, one.logprobs) == (other.completion.text, other.logprobs):
        raise CheckFailed(
            f"the adapter has no effect on the server: {adapted.model.name} and "
            f"{base.model.name} give {PROBE!r} the same answer and log-probabilities"
        )
