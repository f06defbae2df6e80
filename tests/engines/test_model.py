"""Base models: found, refused with one clear error, hashed by content."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engines.errors import ModelError
from engines.model import (
    DEMO_FOLDER,
    load_model,
    load_tokenizer,
    resolve_model,
    weights_sha256,
)


@pytest.fixture
def copy(tiny_model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


def test_a_folder(tiny_model_dir: Path) -> None:
    source = resolve_model(str(tiny_model_dir))
    assert source.path == tiny_model_dir
    assert source.config["model_type"] == "qwen3_5"


def test_demo_is_in_the_package() -> None:
    assert resolve_model("demo").path == DEMO_FOLDER


@pytest.mark.parametrize("name", ["no-such-model", "./nowhere/at/all", "/nowhere"])
def test_nothing_there(name: str) -> None:
    with pytest.raises(ModelError, match="hub id"):
        resolve_model(name)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_an_incomplete_folder_names_what_is_missing(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ModelError, match="safetensors" if "safe" in name else name):
        resolve_model(str(copy))


def test_another_family(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "qwen3_5_moe"}))
    with pytest.raises(ModelError, match=r"one of: .*qwen3_5"):
        resolve_model(str(copy))


def test_an_older_folders_chat_template(copy: Path) -> None:
    """It is the processor's, and goes before one that came with the text model."""
    (copy / "chat_template.jinja").write_text("of the text model")
    (copy / "chat_template.json").write_text(json.dumps({"chat_template": "older"}))
    assert load_tokenizer(copy).chat_template == "of the text model"
    (copy / "chat_template.jinja").unlink()
    assert load_tokenizer(copy).chat_template == "older"


def test_a_broken_config(copy: Path) -> None:
    (copy / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not JSON"):
        resolve_model(str(copy))


def test_the_hash_is_of_content_and_not_of_files(copy: Path) -> None:
    before = weights_sha256(copy)
    tensors = load_file(copy / "model.safetensors")
    names = sorted(tensors)
    (copy / "model.safetensors").unlink()
    for part, chosen in enumerate((names[::2], names[1::2])):
        save_file({name: tensors[name] for name in chosen}, copy / f"model-{part}.safetensors")
    assert weights_sha256(copy) == before


def test_one_changed_bit_changes_the_hash(copy: Path) -> None:
    before = weights_sha256(copy)
    tensors = load_file(copy / "model.safetensors")
    name = sorted(tensors)[0]
    tensors[name].view(torch.uint8 if tensors[name].ndim else torch.float32).flatten()[0] ^= 1
    save_file(tensors, copy / "model.safetensors")
    assert weights_sha256(copy) != before


def test_truncated_weights(copy: Path) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cannot be read"):
        weights_sha256(copy)


def test_a_loaded_model_has_nothing_to_train(tiny_model_dir: Path) -> None:
    model = load_model(resolve_model(str(tiny_model_dir)))
    assert not model.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in model.parameters())
