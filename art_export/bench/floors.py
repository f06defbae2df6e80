"""What no implementation on this machine can beat: bytes over bandwidth, operations over speed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from engines.bundle import BundleFolder
from engines.chat import Chat
from engines.onnxruntime_engine import GRAPHS

PRODUCTS = ("FusedMatMul", "MatMul", "Gemm", "MatMulNBits")
FACTOR = (256, 1024, 4096)
"""Rows, inputs and outputs of the product whose speed stands for the machine's."""


def measure_floors(bundle: Path, reads: int = 5) -> dict[str, Any]:
    """Sizes read off the graphs, and this machine's bandwidth and speed in fp32, now.

    Returns:
        floors by name: seconds of a decode step and of a swap, bytes of a picture's state by kind.
    """
    folder = BundleFolder.open(bundle)
    chat = Chat.load(folder.path, folder.manifest.picture_size)
    length = len(chat.prefix_ids())
    decoder, vision = (ir.load(bundle / GRAPHS[part]).graph for part in ("decoder", "vision"))
    weights = sum(v.const_value.nbytes for v in decoder.initializers.values() if v.const_value)
    state = state_bytes(decoder, length)
    bandwidth = float(np.median(read_bandwidth(weights, reads)))
    speed = float(np.median(product_speed(reads)))
    sizes = {"batch_size": 1, "sequence_length": length, "num_logits": 1}
    began = time.perf_counter()
    folder.check_files()
    hashed = time.perf_counter() - began
    seen, prefilled = (operations(graph, sizes) for graph in (vision, decoder))
    return {
        "read bandwidth, bytes/s": bandwidth,
        "fp32 product, operations/s": speed,
        "decoder weights, bytes": float(weights),
        "decode step, s: weights and state / bandwidth": (weights + sum(state.values()))
        / bandwidth,
        "sha256 of all files, once a bundle, s": hashed,
        "vision, operations": float(seen),
        "prefill of header and picture, operations": float(prefilled),
        "swap, s: vision and prefill operations / speed": (seen + prefilled) / speed,
        **{f"state of a picture, bytes: {kind}": float(n) for kind, n in state.items()},
        "state of a picture, bytes": float(sum(state.values())),
    }


def state_bytes(decoder: ir.Graph, length: int) -> dict[str, int]:
    """Bytes of one row's state after `length` tokens, by kind, in the graph's own dtypes."""
    kinds = {"past_key_values": "keys and values", "past_conv": "convolution"}
    found: dict[str, int] = {}
    for value in decoder.inputs:
        name = value.name or ""
        if name.startswith("past") and value.shape is not None and value.dtype is not None:
            kind = kinds.get(name.partition(".")[0], "recurrent")
            dims = [n if isinstance(n, int) else length for n in value.shape[1:]]
            found[kind] = found.get(kind, 0) + int(value.dtype.itemsize * np.prod(dims))
    return found


def operations(graph: ir.Graph, sizes: Mapping[str, int]) -> int:
    """Multiplications and additions of the products with constant matrices; symbols of shapes are
    looked up in `sizes`. Attention's own products, a few per cent, are left out."""
    total = 0
    for node in graph:
        matrix = _matrix_elements(node)
        x = node.inputs[0] if node.inputs else None
        if matrix and x is not None and x.shape is not None:
            rows = [n if isinstance(n, int) else sizes.get(str(n), 1) for n in x.shape[:-1]]
            total += 2 * matrix * int(np.prod(rows))
    return total


def _matrix_elements(node: ir.Node) -> int:
    if node.op_type not in PRODUCTS or node.inputs[1] is None:
        return 0
    if node.op_type == "MatMulNBits":
        return node.attributes.get_int("K", 0) * node.attributes.get_int("N", 0)
    constant = node.inputs[1].const_value
    return int(constant.size) if constant is not None else 0


def read_bandwidth(size: int, reads: int = 5) -> list[float]:
    """Bytes a second that all cores together read from a buffer of `size` bytes."""
    cores = len(os.sched_getaffinity(0))
    parts = np.array_split(np.ones(max(size, 1 << 24) // 8, np.int64), cores)
    with ThreadPoolExecutor(cores) as pool:

        def read() -> None:
            # numpy reads faster than it can be told to add: `or` needs one cheap instruction.
            list(pool.map(np.bitwise_or.reduce, parts))

        times = list(_timed(read, reads))
    return [sum(part.nbytes for part in parts) / each for each in times]


def product_speed(reads: int = 5) -> list[float]:
    """Operations a second of a product in fp32 on all cores, by numpy's BLAS."""
    rows, inputs, outputs = FACTOR
    left, right = np.ones((rows, inputs), np.float32), np.ones((inputs, outputs), np.float32)
    return [2 * rows * inputs * outputs / each for each in _timed(lambda: left @ right, reads)]


def _timed(call: Callable[[], Any], count: int) -> Iterator[float]:
    """Seconds of `count` calls, after one that is not counted."""
    call()
    for _ in range(count):
        began = time.perf_counter()
        call()
        yield time.perf_counter() - began
