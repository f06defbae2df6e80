"""The prefix state: the decoder's state after what is the same in every request: the chat's header
and the picture, or vectors that stand before the chat.

It is computed once per adapter and stored; every request starts from it, so that neither the
picture nor the header is ever encoded again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from mmap import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.chat import Chat
from engines.contract import DecoderInput, Engine
from engines.errors import BundleError, PromptError
from engines.positions import text_positions

_NONE = np.zeros(0, np.float32)
LOGITS = "logits"
"""Name, in the file, of what is no part of the graphs' state."""


@dataclass(frozen=True, eq=False)
class PrefixState:
    """A state of one row, in the order of the engine's `state`.

    length: tokens in it (the KV cache's length). next_position: mrope position of the next token.
    in_chat: whether the chat's header and picture are inside, so that only the rest of the chat
    follows; else all of it does. logits: fp32 (vocabulary,) of the token after a picture, by which
    pictures are told apart without computing anything; empty for other states.
    """

    arrays: tuple[NDArray[Any], ...]
    length: int
    next_position: int
    in_chat: bool
    logits: NDArray[np.float32] = field(default_factory=lambda: _NONE)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in (*self.arrays, self.logits))


def empty_prefix(engine: Engine) -> PrefixState:
    """The state before any token: what a request without a picture starts from."""
    return PrefixState(engine.dump_state(engine.empty_state()), 0, 0, in_chat=False)


def make_prefix(engine: Engine, chat: Chat, features: NDArray[np.float32]) -> PrefixState:
    """Prefill header and picture.

    Args:
        features: visual tokens (1, tokens, hidden) from `engine.vision`.
    """
    input_ids = np.array([chat.prefix_ids()], np.int64)
    positions, following = chat.prefix_positions()
    embeddings = engine.embed(input_ids).copy()
    embeddings[input_ids == chat.image_token_id] = features.reshape(-1, features.shape[-1])
    inputs = DecoderInput(embeddings, np.ones_like(input_ids), positions[:, None].copy())
    logits, state = engine.decode(inputs, engine.empty_state())
    arrays, length = engine.dump_state(state), input_ids.shape[1]
    return PrefixState(arrays, length, following, in_chat=True, logits=logits[0, -1].copy())


def prefix_of_embeddings(engine: Engine, embeddings: NDArray[np.float32]) -> PrefixState:
    """Prefill vectors that stand before the whole chat, at the positions 0, 1, ...

    Args:
        embeddings: fp32 (n, hidden); a model whose rows are wider (DeepStack) gets zeros there, as
            for text.

    Raises:
        PromptError: there are none, or they are wider than the model's embeddings.
    """
    width = engine.embed(np.zeros((1, 1), np.int64)).shape[-1]
    count, given = embeddings.shape
    if not count or given > width:
        raise PromptError(
            got=f"{count} vectors of width {given} to put before the chat",
            expected=f"at least one, of the width of the model's embeddings, at most {width}",
            fix="give those that were trained for this model",
        )
    rows = np.zeros((1, count, width), np.float32)
    rows[0, :, :given] = embeddings
    positions = text_positions(np.zeros(1, np.int64), count)
    inputs = DecoderInput(rows, np.ones((1, count), np.int64), positions)
    _, state = engine.decode(inputs, engine.empty_state())
    return PrefixState(engine.dump_state(state), count, count, in_chat=False)


def prefix_to_bytes(prefix: PrefixState, engine: Engine) -> bytes:
    """The state as safetensors, tensors under the graph's own names, and its logits."""
    from safetensors.numpy import save

    tensors = {
        spec.past: np.ascontiguousarray(array)
        for spec, array in zip(engine.state, prefix.arrays, strict=True)
    }
    tensors[LOGITS] = prefix.logits
    numbers = {"length": prefix.length, "next_position": prefix.next_position}
    return save(tensors, metadata={name: str(number) for name, number in numbers.items()})


def prefix_from_bytes(engine: Engine, data: bytes | mmap, where: str) -> PrefixState:
    """The state that `prefix_to_bytes` wrote, checked against the engine's graphs.

    Args:
        data: the file's content, which the arrays are views of. A mapped file's memory goes back to
            the system with the last of them.
        where: the file's name, for messages.

    Raises:
        BundleError: the bytes are no prefix state, or were made for graphs of another shape.
    """
    try:
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        told = header.pop("__metadata__")
        tensors = {name: _view(data, start, facts) for name, facts in header.items()}
        length, following = (int(told[n]) for n in ("length", "next_position"))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _foreign(where, f"cannot be read as a prefix state: {error}") from error
    arrays = tuple(_checked(where, tensors, spec.past, spec.shape, length) for spec in engine.state)
    if LOGITS not in tensors or tensors[LOGITS].ndim != 1:
        raise _foreign(where, f"has no {LOGITS} of one token")
    return PrefixState(arrays, length, following, in_chat=True, logits=tensors[LOGITS])


def _view(data: bytes | mmap, start: int, facts: Mapping[str, Any]) -> NDArray[Any]:
    """One tensor of a safetensors file as it lies there; the library's own reader copies."""
    begin, end = facts["data_offsets"]
    if facts["dtype"] != "F32":
        raise ValueError(f"a tensor of dtype {facts['dtype']}")
    flat = np.frombuffer(data, "<f4", (end - begin) // 4, start + begin) if end > begin else _NONE
    return flat.reshape(facts["shape"])


def _checked(
    where: str,
    tensors: Mapping[str, NDArray[Any]],
    name: str,
    shape: tuple[int | None, ...],
    length: int,
) -> NDArray[Any]:
    expected = (1, *(length if n is None else n for n in shape))
    if name not in tensors or tensors[name].shape != expected:
        found = tensors[name].shape if name in tensors else "nothing"
        raise _foreign(where, f"has {found} where the graphs take {name} of shape {expected}")
    return tensors[name]


def _foreign(where: str, why: str) -> BundleError:
    return BundleError(
        got=f"{where}, which {why}",
        expected="the prefix state that a swap stored for these graphs",
        fix="swap the picture in again",
    )
