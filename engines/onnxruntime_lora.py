"""LoRA at run time: adapters for graphs that were built with room for them.

An adapter is a set of tensors named like the graph's optional inputs, two for a linear layer:
A (rows, inputs, rank) and B (rows, rank, outputs). ONNX Runtime has a file for it (.onnx_adapter).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from engines.adapter import LORA, WEIGHTS_NAME, read_adapter
from engines.errors import CheckFailed, DataError

LORA_A, LORA_B = "lora_A.", "lora_B."
"""What the names of the graph's inputs begin with; the layer's name in transformers follows."""
SUFFIX = ".onnx_adapter"
PEFT_PREFIX = "base_model.model."
UNSUPPORTED = ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "fan_in_fan_out")
"""Settings of peft that change more than A, B and one factor."""

Tensors = Mapping[str, NDArray[Any]]
Adapter = Mapping[str, ort.OrtValue]


def tensors_of_peft(folder: Path) -> dict[str, NDArray[np.float32]]:
    """A LoRA that peft wrote as fp32 tensors for the graph, the factor multiplied into B.

    Raises:
        DataError: the folder holds no LoRA, or one with settings that the graph has no room for.
        CheckFailed: some layer's B is all zeros, so that the adapter would change nothing there.
    """
    from safetensors.torch import load_file

    config = read_adapter(folder, LORA).config
    used = [name for name in UNSUPPORTED if config.get(name)]
    if used or config.get("bias", "none") != "none":
        raise _refused(folder, f"with {', '.join(used) or 'trained biases'}")
    rank, alpha = int(config["r"]), float(config["lora_alpha"])
    factor = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    found: dict[str, NDArray[np.float32]] = {}
    for name, tensor in load_file(folder / WEIGHTS_NAME).items():
        layer, _, kind = name.removeprefix(PEFT_PREFIX).rpartition(".lora_")
        array = np.ascontiguousarray(tensor.float().numpy().T)[None]
        if not layer or kind not in ("A.weight", "B.weight") or array.ndim != 3:
            raise _refused(folder, f"with the tensor {name}")
        if kind == "A.weight":
            found[LORA_A + layer] = array
        else:
            found[LORA_B + layer] = array * np.float32(factor)
    _check_effect(found)
    return found


def write_onnx_adapter(tensors: Tensors, path: Path) -> None:
    """Write tensors as a file of ONNX Runtime's own format."""
    file = ort.AdapterFormat()
    file.set_adapter_version(1)
    file.set_model_version(1)
    values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in tensors.items()}
    file.set_parameters(values)
    file.export_adapter(str(path))


def read_onnx_adapter(path: Path) -> dict[str, ort.OrtValue]:
    """The tensors of such a file: views of one block of memory, which lives as long as they do."""
    return dict(ort.AdapterFormat.read_adapter(str(path)).get_parameters())


def check_fits(adapter: Adapter, inputs: Mapping[str, Sequence[int | str]]) -> None:
    """Refuse an adapter that the graph has no room for: a name that matches nothing would leave
    the base model as it is, and nobody would see it.

    Args:
        inputs: optional input -> its shape, a symbol where any size will do.

    Raises:
        DataError: naming the first tensor that does not fit.
    """
    for name, value in adapter.items():
        shape, expected = value.shape(), inputs.get(name)
        if expected is None or not _matches(shape, expected):
            wanted = "none of that name" if expected is None else f"one of shape {expected}"
            raise DataError(
                got=f"the adapter's tensor {name} of shape {shape}, and the graph takes {wanted}",
                expected="a LoRA on the linear layers of the model that the bundle was built from",
                fix="give one for this model, and a bundle that was built with --reserve-lora",
            )


def stacked(adapters: Sequence[Adapter], rows: Sequence[int]) -> Iterator[tuple[str, NDArray[Any]]]:
    """The tensors of one adapter for a batch, one after another, since all may be gigabytes: row i
    computes with adapters[rows[i]].

    Raises:
        DataError: they are of different ranks, or on different layers.
    """
    names = adapters[0].keys()
    if any(each.keys() != names for each in adapters):
        raise DataError(
            got="adapters on different layers in one batch",
            expected="adapters on the same layers, of one rank",
            fix="answer them in batches of their own",
        )
    for name in names:
        yield name, _rows_of(name, adapters, rows)


def _rows_of(name: str, adapters: Sequence[Adapter], rows: Sequence[int]) -> NDArray[Any]:
    arrays = [each[name].numpy() for each in adapters]
    if len({array.shape for array in arrays}) > 1:
        raise DataError(
            got=f"adapters of the shapes {sorted({array.shape for array in arrays})} in one batch",
            expected="adapters of one rank",
            fix="answer them in batches of their own",
        )
    joined: NDArray[Any] = np.concatenate([arrays[row] for row in rows])
    return joined


def _matches(shape: Sequence[int], expected: Sequence[int | str]) -> bool:
    pairs = zip(shape, expected, strict=False)
    return len(shape) == len(expected) and all(
        isinstance(want, str) or size == want for size, want in pairs
    )


def _check_effect(tensors: Tensors) -> None:
    ups = {name: array for name, array in tensors.items() if name.startswith(LORA_B)}
    idle = [name for name, array in ups.items() if not array.any()]
    if not ups or idle:
        what = f"{len(idle)} of {len(ups)} layers are left as they were" if ups else "no layer"
        raise CheckFailed(f"the adapter has no effect: {what}")


def _refused(folder: Path, why: str) -> DataError:
    return DataError(
        got=f"the adapter {folder} {why}",
        expected="plain LoRA on linear layers: A, B, rank and alpha alone",
        fix="merge it into the weights and build a bundle of its own",
    )
