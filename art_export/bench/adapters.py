"""Adapters to measure with: given ones first, then random ones of the same kind and size.

What an adapter costs does not depend on what is in it, only what it is good for does. So speed is
measured with random ones; accuracy never is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from art_export.bench.settings import BenchOptions
from engines.adapter import CONFIG_NAME, LORA, SOFT_PROMPT, WEIGHTS_NAME, adapter_to_bytes
from engines.bundle import BundleFolder
from engines.files import write_bytes, write_json
from engines.model import load_config
from engines.onnxruntime_engine import GRAPHS
from engines.onnxruntime_lora import (
    LORA_A,
    LORA_B,
    PEFT_PREFIX,
    SUFFIX,
    tensors_of_peft,
    write_onnx_adapter,
)
from engines.picture import save_picture

SMALL = 0.01
"""Standard deviation of random weights: the model must not overflow."""


def pictures(options: BenchOptions, count: int) -> list[Path]:
    """PNG files of noise, of the bundle's size."""
    size = BundleFolder.open(options.bundle).manifest.picture_size
    paths = [options.prepared / "pictures" / f"noise-{n:03}.png" for n in range(count)]
    for seed, path in enumerate(paths):
        if not path.exists():
            rng = np.random.default_rng(seed)
            save_picture(path, rng.integers(0, 256, (size, size, 3), dtype=np.uint8), None)
    return paths


def loras(options: BenchOptions, count: int) -> list[Path]:
    """Folders as peft writes them, with A and B for every linear layer."""
    paths = [options.prepared / "loras" / f"random-{n:03}" for n in range(count)]
    missing = [(seed, path) for seed, path in enumerate(paths) if not path.exists()]
    if missing:
        layers = lora_layers(options.reserved)
        for seed, path in missing:
            _random_lora(options, layers, seed, path)
    return paths


def onnx_adapters(options: BenchOptions, folders: Sequence[Path]) -> list[Path]:
    """The same in ONNX Runtime's own format."""
    place = options.prepared / "onnx_adapters"
    place.mkdir(parents=True, exist_ok=True)
    found = []
    for folder in folders:
        path = place / f"{_key(folder)}{SUFFIX}"
        if not path.exists():
            write_onnx_adapter(tensors_of_peft(folder), path)
        found.append(path)
    return found


def _key(folder: Path) -> str:
    """A name for what is in a folder now: many are called `adapter`."""
    weights = (folder / WEIGHTS_NAME).resolve()
    return hashlib.sha256(f"{weights}:{weights.stat().st_mtime_ns}".encode()).hexdigest()[:16]


def soft_prompts(options: BenchOptions, count: int) -> list[Path]:
    """Folders as peft writes them, of as many vectors as asked for."""
    import torch

    config = load_config(options.bundle).get_text_config()
    paths = [options.prepared / "soft-prompts" / f"random-{n:03}" for n in range(count)]
    for seed, path in enumerate(paths):
        if not path.exists():
            rng = np.random.default_rng(seed)
            vectors = rng.standard_normal((options.tokens, config.hidden_size), np.float32) * SMALL
            tensors = {"prompt_embeddings": torch.from_numpy(vectors)}
            facts = {"peft_type": SOFT_PROMPT, "num_virtual_tokens": options.tokens}
            _write(options, path, tensors, facts)
    return paths


def lora_layers(bundle: Path) -> dict[str, tuple[int, int]]:
    """Layer -> (inputs, outputs), read off a bundle with room for LoRA."""
    import onnx_ir as ir

    graph = ir.load(bundle / GRAPHS["decoder"]).graph
    shapes = {value.name: value.shape for value in graph.inputs if value.name and value.shape}
    found = {}
    for name, shape in shapes.items():
        if name.startswith(LORA_A):
            layer = name.removeprefix(LORA_A)
            up = shapes[LORA_B + layer]
            found[layer] = (int(str(shape[1])), int(str(up[2])))
    return found


def bytes_of(path: Path) -> int:
    """Of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(each.stat().st_size for each in files)


def _random_lora(
    options: BenchOptions, layers: dict[str, tuple[int, int]], seed: int, path: Path
) -> None:
    import torch

    rng = np.random.default_rng(seed)
    tensors = {}
    for layer, (inputs, outputs) in layers.items():
        for kind, shape in (("A", (options.rank, inputs)), ("B", (outputs, options.rank))):
            values = rng.standard_normal(shape, np.float32) * SMALL
            tensors[f"{PEFT_PREFIX}{layer}.lora_{kind}.weight"] = torch.from_numpy(values)
    facts = {
        "peft_type": LORA,
        "r": options.rank,
        "lora_alpha": 2 * options.rank,
        "target_modules": list(layers),
        "bias": "none",
    }
    _write(options, path, tensors, facts)


def _write(
    options: BenchOptions, path: Path, tensors: Mapping[str, Any], facts: Mapping[str, Any]
) -> None:
    manifest = BundleFolder.open(options.bundle).manifest
    data = adapter_to_bytes(tensors, manifest.weights_sha256)
    write_bytes(path / WEIGHTS_NAME, data)
    known = {"base_model_name_or_path": manifest.base_model, "task_type": "CAUSAL_LM"}
    write_json(path / CONFIG_NAME, {**known, **facts})
