"""Folders that peft writes: what an adapter says of itself, read before any model is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.errors import DataError

if TYPE_CHECKING:
    import torch

LORA, SOFT_PROMPT = "LORA", "PROMPT_TUNING"
CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
BASE_HASH = "art-export.base_hash"
"""Key in the weight file's metadata, which peft passes over."""


@dataclass(frozen=True)
class AdapterRecord:
    """kind: peft's name for it. base_model: name of the model that it was trained for.
    base_hash: SHA-256 of that model's weights; None in adapters of other programs. config: all of
    adapter_config.json."""

    folder: Path
    kind: str
    base_model: str | None
    base_hash: str | None
    config: Mapping[str, Any]

    def check_base(self, model: str, weights_sha256: str) -> None:
        """DataError if the adapter was trained for other weights than those of `model`.

        The hash decides where it is recorded. An adapter of another program has but the base
        model's name, whose last part has to occur in the name or path given here.
        """
        if self.base_hash is not None:
            wrong = self.base_hash != weights_sha256
            mine, theirs = weights_sha256[:12], self.base_hash[:12]
        else:
            theirs = self.base_model or ""
            mine, wrong = model, Path(theirs).name.lower() not in model.lower()
        if wrong:
            raise DataError(
                got=f"the adapter {self.folder}, trained for {self.base_model} ({theirs})",
                expected=f"one for {model} ({mine})",
                fix="give the model that it was trained for; if that is this one under another "
                f"name, correct base_model_name_or_path in its {CONFIG_NAME}",
            )


def read_adapter(folder: Path, kind: str) -> AdapterRecord:
    """What the adapter in `folder` says of itself.

    Args:
        kind: LORA or SOFT_PROMPT, which it has to be.

    Raises:
        DataError: the folder holds no adapter of that kind, or one that cannot be read.
    """
    config = _config(folder / CONFIG_NAME)
    if config.get("peft_type") != kind:
        raise DataError(
            got=f"the adapter {folder} of the type {config.get('peft_type')}",
            expected=f"one of the type {kind}",
            fix="use --lora for LORA and --soft-prompt for PROMPT_TUNING",
        )
    base_hash = _metadata(folder / WEIGHTS_NAME).get(BASE_HASH)
    return AdapterRecord(folder, kind, config.get("base_model_name_or_path"), base_hash, config)


def adapter_to_bytes(tensors: Mapping[str, torch.Tensor], base_hash: str) -> bytes:
    """An adapter's weight file as peft reads it, with the hash of its base model's weights."""
    from safetensors.torch import save

    # One entry alone: safetensors writes several in any order, and equal runs make equal files.
    return save(dict(tensors), metadata={BASE_HASH: base_hash})


def _config(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise _no_adapter(path, f"without {CONFIG_NAME}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _no_adapter(path, f"whose {CONFIG_NAME} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise _no_adapter(path, f"whose {CONFIG_NAME} is no object")
    return config


def _metadata(path: Path) -> Mapping[str, str]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise _no_adapter(path, f"without {WEIGHTS_NAME}")
    try:
        with safe_open(path, framework="np") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise _no_adapter(path, f"whose {WEIGHTS_NAME} cannot be read: {error}") from error


def _no_adapter(path: Path, why: str) -> DataError:
    return DataError(
        got=f"{path.parent}, a folder {why}",
        expected="a folder that peft wrote, as RUN/adapter",
        fix="give the adapter's folder",
    )
