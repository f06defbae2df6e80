"""A model that does not fit one device: the decoder's layers spread over several, by accelerate.

A layer's inputs are brought to where it is and its outputs back, so gradients flow as on one
device. Layers that fit nowhere are kept in main memory (on a GPU's machine) or on disk, and are
loaded for each use; `--recompute` goes with that, since the backward pass would otherwise hold all
of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from accelerate import infer_auto_device_map
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from accelerate.utils import (
    OffloadedWeightsLoader,
    get_balanced_memory,
    offload_state_dict,
    set_module_tensor_to_device,
)

from engines.errors import OptionError
from engines.torch_engine import checked_device

if TYPE_CHECKING:
    from engines.families.parts import Parts

AUTO = "auto"
DISK = "disk"
LAYER = re.compile(r"(?:.*\.)?layers\.(\d+)")
Places = list[str]
"""Where each layer is: a device of PyTorch's, or DISK."""


@contextmanager
def placed(parts: Parts, device: str, asked: str) -> Iterator[bool]:
    """Put a model that is in main memory where `asked` says; whether layers are loaded at each use.

    Args:
        device: where vision, embedding and head are, and layers that are loaded at each use run.
        asked: "auto", or a JSON file as transformers' `device_map` is: names that end in
            `layers.N` -> a GPU's number, a device, "cpu" or "disk".

    Raises:
        OptionError: the map cannot be read, leaves a layer out, or names what is not there.
    """
    places = _places(parts, device, asked)
    loaded = [_is_loaded(place, device) for place in places]
    with TemporaryDirectory(prefix="art-export-layers-") as folder:
        _move_all_but_layers(parts, device)
        for index, (layer, place) in enumerate(zip(_layers(parts), places, strict=True)):
            kept = _kept(layer, place, Path(folder, str(index))) if loaded[index] else None
            hook = AlignDevicesHook(
                execution_device=torch.device(device if loaded[index] else place),
                offload=loaded[index],
                io_same_device=True,
                weights_map=kept,
                place_submodules=True,
            )
            add_hook_to_module(layer, hook)
        yield any(loaded)


def is_placed(parts: Parts) -> bool:
    """Whether `placed` has spread the layers."""
    return hasattr(_layers(parts)[0], "_hf_hook")


def _is_loaded(place: str, device: str) -> bool:
    return place == DISK or (place == "cpu" and device != "cpu")


def _layers(parts: Parts) -> Any:
    return parts.decoder.layers


def _move_all_but_layers(parts: Parts, device: str) -> None:
    parts.vision.to(device)
    parts.embed.to(device)
    for name, child in parts.decoder.named_children():
        if name != "layers":
            child.to(device)
    for name, _ in list(parts.decoder.named_buffers(recurse=False)):
        set_module_tensor_to_device(parts.decoder, name, device)


def _kept(layer: torch.nn.Module, place: str, folder: Path) -> Mapping[str, torch.Tensor]:
    """Where the layer's weights are loaded from at each use: main memory, or files in `folder`."""
    # Some have two names, that of transformers' module and that of ours.
    weights = dict(layer.named_parameters(remove_duplicate=False))
    if place != DISK:
        return weights
    offload_state_dict(str(folder), weights)
    stored: Mapping[str, torch.Tensor] = OffloadedWeightsLoader(save_folder=str(folder))
    return stored


def _places(parts: Parts, device: str, asked: str) -> Places:
    found = _automatic(parts, device) if asked == AUTO else _read(Path(asked), device)
    count = len(_layers(parts))
    missing = sorted(set(range(count)) - found.keys())
    if missing or len(found) > count:
        what = f"without layer {missing[0]}" if missing else f"with {len(found)} layers"
        raise OptionError(
            got=f"--device-map {asked} {what}",
            expected=f"a place for each of the {count} layers of the language model",
            fix='write one line a layer, such as "model.language_model.layers.0": 0',
        )
    return [found[index] for index in range(count)]


def _automatic(parts: Parts, device: str) -> dict[int, str]:
    """Layers on all GPUs in equal shares, then in main memory, then on disk."""
    if device == "cpu":
        return dict.fromkeys(range(len(_layers(parts))), "cpu")
    whole = sorted({type(layer).__name__ for layer in _layers(parts)})
    memory = get_balanced_memory(parts.decoder, no_split_module_classes=whole)
    first = torch.device(device).index or 0
    memory[first] -= sum(p.numel() * p.element_size() for p in parts.vision.parameters())
    found = infer_auto_device_map(parts.decoder, memory, no_split_module_classes=whole)
    return {int(m[1]): _named(place) for n, place in found.items() if (m := LAYER.fullmatch(n))}


def _read(path: Path, device: str) -> dict[int, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        given = {str(name): _named(place) for name, place in found.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise OptionError(
            got=f"--device-map {path}, which cannot be read: {error}",
            expected='"auto", or a JSON file of names and devices',
            fix="check the path and the file",
        ) from error
    layers = {
        int(match[1]): place
        for name, place in given.items()
        if "visual" not in name and "vision" not in name and (match := LAYER.fullmatch(name))
    }
    for place in sorted(set(given.values()) - {DISK}):
        checked_device(place)
    return layers


def _named(place: object) -> str:
    return f"cuda:{place}" if isinstance(place, int) else str(place)
