"""The prefix state: the decoder's state right after the chat's header and the picture.

It is computed once per picture and stored; every request starts from it, so that neither the
picture nor the header is ever encoded again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
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


def save_prefix(prefix: PrefixState, engine: Engine, path: Path) -> None:
    """Write the state as safetensors, tensors under the graph's own names."""
    from safetensors.numpy import save_file

    tensors = {
        spec.past: np.ascontiguousarray(array)
        for spec, array in zip(engine.state, prefix.arrays, strict=True)
    }
    numbers = {"length": prefix.length, "next_position": prefix.next_position}
    save_file(tensors, path, metadata={"prefix": json.dumps(numbers)})


def load_prefix(engine: Engine, path: Path) -> PrefixState:
    """Read a state that `save_prefix` wrote, checked against the engine's graphs.

    Raises:
        BundleError: the file is unreadable, or was made for graphs of another shape.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            numbers = json.loads(file.metadata()["prefix"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise _foreign(path, f"cannot be read as a prefix state: {error}") from error
    length = int(numbers["length"])
    arrays = tuple(_checked(path, tensors, spec.past, spec.shape, length) for spec in engine.state)
    return PrefixState(arrays, length, int(numbers["next_position"]))


def _checked(
    path: Path,
    tensors: Mapping[str, NDArray[Any]],
    name: str,
    shape: tuple[int | None, ...],
    length: int,
) -> NDArray[Any]:
    expected = (1, *(length if n is None else n for n in shape))
    if name not in tensors or tensors[name].shape != expected:
        found = tensors[name].shape if name in tensors else "nothing"
        raise _foreign(path, f"has {found} where the graphs take {name} of shape {expected}")
    return tensors[name]


def _foreign(path: Path, why: str) -> BundleError:
    return BundleError(
        got=f"{path}, which {why}",
        expected="the prefix state that a swap stored for these graphs",
        fix="swap the picture in again",
    )
