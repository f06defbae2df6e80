"""LoRA (Hu et al., arXiv 2106.09685) at run time: peft's adapters, merged into the weights.

A compiled graph holds its weights, so an adapter that changes them means: merge, export, build.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import torch
from torch import nn

from engines.adapter import LORA, read_adapter
from engines.errors import CheckFailed, DataError
from engines.files import staged_folder
from engines.model import load_model, resolve_model, weights_sha256


def merge(model: Any, adapter: Path) -> Any:
    """Add the adapter in folder `adapter` to the weights of a transformers model, in place.

    Returns:
        the model, without any trace of peft.

    Raises:
        DataError: the folder holds no LoRA, or one for a model of another shape.
        CheckFailed: the adapter matches no layer, or leaves some layer as it was.
    """
    read_adapter(adapter, LORA)
    try:
        with without_noise():
            wrapped = peft.PeftModel.from_pretrained(model, str(adapter))
    except (ValueError, RuntimeError) as error:
        # peft's for modules that are not there, PyTorch's for sizes that differ.
        told = " ".join(str(error).split())
        raise DataError(
            got=f"the adapter {adapter}, which does not fit this model: {told[:200]}",
            expected="one that was trained for this model",
            fix="give the model that it was trained for",
        ) from error
    check_effect(wrapped)
    return wrapped.merge_and_unload()


def save_merged(model: str, adapter: Path, out: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write base model plus adapter as a Hugging Face folder that `build` takes.

    fp32 by default, so that what is compared is LoRA and not the rounding of the merged weights.

    Raises:
        OutputExistsError: `out` exists; and what `merge` and `resolve_model` raise.
        DataError: besides, when the adapter was trained for other weights.
    """
    source = resolve_model(model)
    read_adapter(adapter, LORA).check_base(model, weights_sha256(source.path))
    with staged_folder(out) as folder:
        merged = merge(load_model(source), adapter).to(dtype)
        merged.save_pretrained(folder)
        for path in sorted(source.path.iterdir()):
            written = folder / path.name
            weights = ".safetensors" in path.name
            if path.is_file() and not weights and not written.exists():
                shutil.copyfile(path, written)
    return out


def linear_layers(model: Any) -> list[str]:
    """Full names of the language model's linear layers, without the head over the vocabulary."""
    text = model.get_decoder()
    inside = {id(module) for module in text.modules() if isinstance(module, nn.Linear)}
    return [name for name, module in model.named_modules() if id(module) in inside]


def check_effect(model: Any) -> None:
    """CheckFailed if there is no adapter in `model`, or one that changes nothing.

    Serving the base model unnoticed is a known failure of adapters whose names do not match.
    """
    ups = {name: value for name, value in model.named_parameters() if "lora_B" in name}
    idle = [name for name, value in ups.items() if not bool(value.detach().any())]
    if not ups or idle:
        what = f"it leaves {len(idle)} of {len(ups)} layers as they were" if ups else "none matches"
        raise CheckFailed(f"the adapter has no effect on the model's layers: {what}")


@contextmanager
def without_noise() -> Iterator[None]:
    """Hide one warning: peft asks transformers for an attribute that has been renamed since."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield
