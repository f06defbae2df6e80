"""vLLM's /v1/completions: prompts as token ids or as embeddings, without the server's template.

For what a chat message cannot say: a prompt in words with messages of its own, or a soft prompt,
whose vectors are no tokens (the server has to be started with --enable-prompt-embeds).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.runtime import Completion
from engines.vllm_http import JsonService
from engines.vllm_server import ServerOptions

PATH = "/v1/completions"


def complete(
    options: ServerOptions,
    model: str,
    prompts: Sequence[Mapping[str, Any]],
    max_new_tokens: int,
) -> list[Completion]:
    """Greedy answers in the order of the prompts, each made by `ids_prompt` or `vectors_prompt`.

    Args:
        model: the name that the server gives it.

    Raises:
        ServerError: the server fails or refuses, as one without --enable-prompt-embeds does.
    """
    service = JsonService(options.url, options.timeout)
    common = {
        "model": model,
        "max_tokens": max_new_tokens,
        "temperature": 0,
        # What a request leaves out comes from the model's generation_config.json.
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "return_token_ids": True,
    }
    pool = ThreadPoolExecutor(max(1, min(options.parallel, len(prompts))), "vllm-request")
    try:
        return list(pool.map(lambda prompt: _complete(service, common | dict(prompt)), prompts))
    finally:
        pool.shutdown(cancel_futures=True)


def ids_prompt(ids: Sequence[int]) -> dict[str, Any]:
    """A prompt of token ids, taken as they are."""
    return {"prompt": list(ids)}


def vectors_prompt(vectors: NDArray[np.float32]) -> dict[str, Any]:
    """A prompt of embeddings fp32 (length, hidden), as torch.save writes them."""
    import torch

    file = io.BytesIO()
    torch.save(torch.from_numpy(vectors), file)
    return {"prompt_embeds": base64.b64encode(file.getvalue()).decode("ascii")}


def _complete(service: JsonService, body: Mapping[str, Any]) -> Completion:
    answer = service.call(PATH, body)
    with service.understood(PATH):
        choice = answer["choices"][0]
        ids = tuple(int(token) for token in choice.get("token_ids") or ())
        return Completion(str(choice["text"]), ids, choice["finish_reason"] == "stop")
