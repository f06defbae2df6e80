"""What adapters say of themselves, and which are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from engines.adapter import (
    BASE_HASH,
    CONFIG_NAME,
    LORA,
    SOFT_PROMPT,
    WEIGHTS_NAME,
    adapter_to_bytes,
    read_adapter,
)
from engines.errors import DataError


def write(folder: Path, config: Any, base_hash: str | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / CONFIG_NAME).write_text(json.dumps(config))
    metadata = {"format": "pt"} if base_hash is None else {BASE_HASH: base_hash}
    save_file({"x": torch.ones(2, 3)}, folder / WEIGHTS_NAME, metadata)
    return folder


def of(base: str | None) -> dict[str, Any]:
    return {"peft_type": LORA, "base_model_name_or_path": base}


def test_what_it_says(tmp_path: Path) -> None:
    record = read_adapter(write(tmp_path, of("Qwen/X"), "ab" * 32), LORA)
    assert (record.kind, record.base_model, record.base_hash) == (LORA, "Qwen/X", "ab" * 32)
    assert read_adapter(write(tmp_path, of("Qwen/X")), LORA).base_hash is None


def test_equal_adapters_are_equal_bytes() -> None:
    tensors = {"b": torch.ones(3), "a": torch.zeros(2)}
    assert len({adapter_to_bytes(tensors, "cd" * 32) for _ in range(20)}) == 1


def test_the_hash_decides_where_there_is_one(tmp_path: Path) -> None:
    record = read_adapter(write(tmp_path, of("another-name"), "ab" * 32), LORA)
    record.check_base("demo", "ab" * 32)
    with pytest.raises(
        DataError, match=r"abababababab\)\nexpected: one for another-name \(efefefefefef"
    ):
        record.check_base("another-name", "ef" * 32)


@pytest.mark.parametrize(
    "model", ["Qwen/Qwen3.5-0.8B", "./qwen3.5-0.8b", "/hub/models--Qwen--Qwen3.5-0.8B/snapshots/1"]
)
def test_else_the_name(tmp_path: Path, model: str) -> None:
    record = read_adapter(write(tmp_path, of("Qwen/Qwen3.5-0.8B")), LORA)
    record.check_base(model, "ef" * 32)
    with pytest.raises(DataError, match="base_model_name_or_path"):
        record.check_base("Qwen/Qwen3.5-2B", "ef" * 32)


def test_an_adapter_that_names_no_base_is_taken(tmp_path: Path) -> None:
    read_adapter(write(tmp_path, of(None)), LORA).check_base("demo", "ef" * 32)


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "null"])
def test_a_configuration_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    write(tmp_path, {})
    (tmp_path / CONFIG_NAME).write_text(text)
    with pytest.raises(DataError, match=CONFIG_NAME):
        read_adapter(tmp_path, LORA)


def test_what_is_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"without {CONFIG_NAME}"):
        read_adapter(tmp_path / "missing", LORA)
    write(tmp_path, of("x"))
    with pytest.raises(DataError, match="type LORA\nexpected: one of the type PROMPT_TUNING"):
        read_adapter(tmp_path, SOFT_PROMPT)
    (tmp_path / WEIGHTS_NAME).write_bytes(b"rubbish")
    with pytest.raises(DataError, match=f"whose {WEIGHTS_NAME} cannot be read"):
        read_adapter(tmp_path, LORA)
    (tmp_path / WEIGHTS_NAME).unlink()
    with pytest.raises(DataError, match=f"without {WEIGHTS_NAME}"):
        read_adapter(tmp_path, LORA)
