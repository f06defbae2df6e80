"""The prefix state: the decoder's state right after the chat's header and the picture.

It is computed once per picture and stored; every request starts from it, so that neither the
picture nor the header is ever encoded again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.chat import Chat
from engines.contract import DecoderInput, Engine
from engines.errors import BundleError


@dataclass(frozen=True, eq=False)
class PrefixState:
    """A state of one row, in the order of the engine's `state`.

    length: tokens in it (the KV cache's length). next_position: mrope position of the next token.
    With length 0 there is no picture and no header: the whole chat follows.
    """

    arrays: tuple[NDArray[Any], ...]
    length: int
    next_position: int

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)


def empty_prefix(engine: Engine) -> PrefixState:
    """The state before any token: what a request without a picture starts from."""
    return PrefixState(engine.dump_state(engine.empty_state()), 0, 0)


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
    _, state = engine.decode(inputs, engine.empty_state())
    return PrefixState(engine.dump_state(state), input_ids.shape[1], following)


def prefix_to_bytes(prefix: PrefixState, engine: Engine) -> bytes:
    """The state as safetensors, tensors under the graph's own names."""
    from safetensors.numpy import save

    tensors = {
        spec.past: np.ascontiguousarray(array)
        for spec, array in zip(engine.state, prefix.arrays, strict=True)
    }
    numbers = {"length": prefix.length, "next_position": prefix.next_position}
    return save(tensors, metadata={name: str(number) for name, number in numbers.items()})


def prefix_from_bytes(engine: Engine, data: bytes, where: str) -> PrefixState:
    """The state that `prefix_to_bytes` wrote, checked against the engine's graphs.

    Args:
        where: the file's name, for messages.

    Raises:
        BundleError: the bytes are no prefix state, or were made for graphs of another shape.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        tensors = load(data)
        length, following = (int(header["__metadata__"][n]) for n in ("length", "next_position"))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise _foreign(where, f"cannot be read as a prefix state: {error}") from error
    arrays = tuple(_checked(where, tensors, spec.past, spec.shape, length) for spec in engine.state)
    return PrefixState(arrays, length, following)


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
