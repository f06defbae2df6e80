"""Soft prompts (Lester et al., arXiv 2104.08691) at run time: peft's prompt tuning, as vectors.

They stand before the whole chat, as in peft; `Runtime.prefix_from_embeddings` puts them there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.adapter import SOFT_PROMPT, WEIGHTS_NAME, read_adapter
from engines.errors import DataError

TENSOR = "prompt_embeddings"
"""What peft calls them in the weight file."""


def load_soft_prompt(folder: Path, hidden: int) -> NDArray[np.float32]:
    """The vectors fp32 (n, hidden) that peft's prompt tuning saved in `folder`.

    Args:
        hidden: width of the model's embeddings.

    Raises:
        DataError: the folder holds no soft prompt, or one for a model of another width, or with
            numbers that are not finite.
    """
    from safetensors.torch import load_file

    read_adapter(folder, SOFT_PROMPT)
    found = load_file(folder / WEIGHTS_NAME).get(TENSOR)
    shape = () if found is None else tuple(found.shape)
    if found is None or len(shape) != 2 or 0 in shape or shape[1] != hidden:
        raise _unusable(folder, f"with {TENSOR} of shape {shape or 'none'}", hidden)
    if not bool(found.isfinite().all()):
        raise _unusable(folder, "with numbers that are not finite", hidden)
    vectors: NDArray[np.float32] = found.float().numpy()
    return vectors


def _unusable(folder: Path, why: str, hidden: int) -> DataError:
    return DataError(
        got=f"the soft prompt {folder} {why}",
        expected=f"finite vectors of shape (n, {hidden}), as this model's embeddings are",
        fix="give a soft prompt that was trained for this model",
    )
