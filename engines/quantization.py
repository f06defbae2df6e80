"""Weights in blocks of small integers, and the weights that those stand for.

A matrix (outputs, inputs) is cut along its inputs into blocks of BLOCK numbers. A block has one
scale s, and a number w is stored as the integer round(w / s) + half, half the middle of the range.
The scale maps the number farthest from zero to the end of the range that has one value more:
the negative one, so a scale may be negative. This is what ONNX Runtime's MatMulNBits reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engines.names import choose

if TYPE_CHECKING:
    from engines.families.parts import Parts

BITS = {"int8": 8, "int4": 4}
BLOCK = 32
ROWS_AT_ONCE = 4096


def scales_of(weight: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """Scales (outputs, inputs / BLOCK) of a weight (outputs, inputs)."""
    scales = np.empty((weight.shape[0], weight.shape[1] // BLOCK), np.float32)
    for rows, blocks in _blocks(weight):
        farthest = np.abs(blocks).argmax(-1)[..., None]
        scales[rows] = np.take_along_axis(blocks, farthest, -1)[..., 0] / -(2 ** (bits - 1))
    return scales


def codes_of(
    weight: NDArray[np.float32], scales: NDArray[np.float32], bits: int
) -> NDArray[np.uint8]:
    """The integers (outputs, inputs * bits / 8); with 4 bits, the first of two is the lower."""
    half = 2 ** (bits - 1)
    codes = np.empty((weight.shape[0], weight.shape[1] * bits // 8), np.uint8)
    for rows, blocks in _blocks(weight):
        # A block of zeros has the scale 0, and any code will do for it.
        inverse = np.divide(
            1.0, scales[rows], where=scales[rows] != 0, out=np.zeros_like(scales[rows])
        )
        found = np.clip(np.rint(blocks * inverse[..., None]) + half, 0, 2 * half - 1)
        packed = found.astype(np.uint8).reshape(len(blocks), -1)
        codes[rows] = packed if bits == 8 else packed[:, ::2] | packed[:, 1::2] << 4
    return codes


def restored(
    codes: NDArray[np.uint8], scales: NDArray[np.float32], bits: int
) -> NDArray[np.float32]:
    """The weight (outputs, inputs) that codes and scales stand for."""
    if bits == 4:
        codes = np.stack((codes & 15, codes >> 4), axis=-1).reshape(len(codes), -1)
    weight: NDArray[np.float32] = codes.astype(np.float32) - 2 ** (bits - 1)
    weight *= np.repeat(scales, BLOCK, axis=1)
    return weight


def _blocks(weight: NDArray[np.float32]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    for start in range(0, len(weight), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        part = weight[rows]
        yield rows, part.reshape(len(part), -1, BLOCK)


def round_weights(parts: Parts, precision: str) -> int:
    """Replace the matrices of embedding and decoder, in memory, by what their codes stand for.

    A picture can then be trained, in PyTorch, against the weights that a bundle of that precision
    computes with. The vision tower is left alone, as bundles do.

    Returns:
        How many matrices were rounded; tied ones count once.

    Raises:
        OptionError: `precision` is neither int8 nor int4.
    """
    import torch
    from torch import nn

    bits = BITS[choose("rounded precision", precision, BITS)]
    modules = [m for part in (parts.embed, parts.decoder) for m in part.modules()]
    weights = {
        module.weight.data_ptr(): module.weight
        for module in modules
        if isinstance(module, nn.Linear | nn.Embedding) and module.weight.shape[1] % BLOCK == 0
    }
    with torch.no_grad():
        for weight in weights.values():
            array = weight.float().cpu().numpy()
            scales = scales_of(array, bits)
            rounded = restored(codes_of(array, scales, bits), scales, bits)
            weight.copy_(torch.from_numpy(rounded))
    return len(weights)
