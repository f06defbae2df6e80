"""A graph with room for LoRA computes what peft computes, and without an adapter what it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch

from art_export.build import BuildOptions, build
from art_export.bundle import Bundle
from engines.errors import CheckFailed, DataError, OptionError
from engines.lora import linear_layers, without_noise
from engines.model import load_model, resolve_model
from engines.onnxruntime_engine import OnnxRuntimeEngine
from engines.onnxruntime_lora import (
    LORA_A,
    read_onnx_adapter,
    stacked,
    tensors_of_peft,
    write_onnx_adapter,
)
from engines.runtime import Runtime
from tests.models import TINY, tiny_model

FAMILIES = ("qwen3_5", "qwen2_5_vl")
PROMPT = "Wake me up at 07:30 on Monday."
RANK = 4


@dataclass(frozen=True)
class Reserved:
    """A tiny model built with room for LoRA. adapters: folders that peft wrote."""

    model: Path
    bundle: Path
    adapters: tuple[Path, Path]


@pytest.fixture(scope="module", params=FAMILIES)
def reserved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reserved:
    home = tmp_path_factory.mktemp(request.param)
    model = tiny_model(request.param, home / "model")
    size = TINY[request.param].size
    build(BuildOptions(str(model), home / "bundle", size=size, reserve_lora=True))
    adapters = (_adapter(model, home / "one", 1), _adapter(model, home / "two", 2))
    return Reserved(model, home / "bundle", adapters)


def _adapter(model: Path, out: Path, seed: int) -> Path:
    """A random adapter on every linear layer, with a factor other than 1."""
    torch.manual_seed(seed)
    base = load_model(resolve_model(str(model)))
    targets = linear_layers(base)
    config = peft.LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules=targets, base_model_name_or_path=str(model)
    )
    with without_noise():
        wrapped = peft.get_peft_model(base, config)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    wrapped.save_pretrained(str(out))
    return out


def _peft_logits(reserved: Reserved, adapter: Path) -> np.ndarray:
    """Of every position of the prompt, by peft's own layers in PyTorch."""
    model = load_model(resolve_model(str(reserved.model)))
    with without_noise():
        peft.PeftModel.from_pretrained(model, str(adapter))
    with Bundle.load(reserved.bundle) as bundle:
        chat = bundle.runtime.chat
        ids = torch.tensor([chat.full_ids(PROMPT)])
    with torch.no_grad():
        logits: np.ndarray = model(input_ids=ids).logits[0].numpy()
    return logits


@pytest.fixture
def loaded(reserved: Reserved) -> Iterator[tuple[Runtime, OnnxRuntimeEngine]]:
    with Bundle.load(reserved.bundle) as bundle:
        engine = bundle.runtime.engine
        assert isinstance(engine, OnnxRuntimeEngine)
        yield bundle.runtime, engine


def _logits(runtime: Runtime) -> np.ndarray:
    empty = runtime.prefix(None)
    return runtime.tail_logits(runtime.tail(PROMPT, empty), empty)


def test_the_graph_equals_peft(
    reserved: Reserved, loaded: tuple[Runtime, OnnxRuntimeEngine], tmp_path: Path
) -> None:
    runtime, engine = loaded
    plain = _logits(runtime)
    for place, folder in enumerate(reserved.adapters):
        path = tmp_path / f"{place}.onnx_adapter"
        write_onnx_adapter(tensors_of_peft(folder), path)
        with engine.adapted(read_onnx_adapter(path)):
            found = _logits(runtime)
        expected = _peft_logits(reserved, folder)
        assert np.abs(expected - plain).max() > 0.1
        assert np.abs(found - expected).max() < 1e-3
    assert np.array_equal(_logits(runtime), plain)


def test_rows_of_a_batch_with_adapters_of_their_own(
    reserved: Reserved, loaded: tuple[Runtime, OnnxRuntimeEngine]
) -> None:
    runtime, engine = loaded
    adapters = [_values(folder) for folder in reserved.adapters]
    empty = runtime.prefix(None)
    tail = runtime.tail(PROMPT, empty)
    alone = []
    for adapter in adapters:
        with engine.adapted(adapter):
            alone.append(_two_steps(runtime, [tail]))
    both = {name: engine.value(array) for name, array in stacked(adapters, (1, 0, 1))}
    with engine.adapted(both):
        mixed = _two_steps(runtime, [tail] * 3)
    for place, adapter_index in enumerate((1, 0, 1)):
        assert np.abs(mixed[:, place] - alone[adapter_index][:, 0]).max() < 1e-4
    assert np.abs(alone[0] - alone[1]).max() > 0.1


def _two_steps(runtime: Runtime, tails: list[list[int]]) -> np.ndarray:
    """Logits (3, rows, vocabulary) of the prefill and of two steps of the stepper."""
    prefilled = runtime.prefill(tails, [runtime.prefix(None)] * len(tails))
    stepper = runtime.engine.stepper(prefilled.state, prefilled.mask, prefilled.positions, 2)
    tokens = np.full(len(tails), 7)
    return np.stack([prefilled.logits, *(stepper.step(tokens).copy() for _ in range(2))])


def _values(folder: Path) -> dict[str, Any]:
    import onnxruntime as ort

    tensors = tensors_of_peft(folder)
    return {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in tensors.items()}


def test_an_adapter_that_matches_nothing_is_refused(
    reserved: Reserved, loaded: tuple[Runtime, OnnxRuntimeEngine]
) -> None:
    _, engine = loaded
    values = _values(reserved.adapters[0])
    name = next(name for name in values if name.startswith(LORA_A))
    with (
        pytest.raises(DataError, match="none of that name"),
        engine.adapted({name + ".other": values[name]}),
    ):
        pass


def test_a_plain_bundle_has_no_room(reserved: Reserved, tiny_bundle_dir: Path) -> None:
    with Bundle.load(tiny_bundle_dir) as bundle:
        engine = bundle.runtime.engine
        assert isinstance(engine, OnnxRuntimeEngine)
        with (
            pytest.raises(DataError, match="--reserve-lora"),
            engine.adapted(_values(reserved.adapters[0])),
        ):
            pass


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"engine": "openvino"}, "--reserve-lora for openvino"),
        ({"provider": "cuda"}, "--reserve-lora for onnxruntime with provider 'cuda'"),
    ],
)
def test_other_forms_have_no_such_inputs(
    change: dict[str, Any], told: str, tmp_path: Path, tiny_model_dir: Path
) -> None:
    options = BuildOptions(str(tiny_model_dir), tmp_path / "bundle", reserve_lora=True, **change)
    with pytest.raises(OptionError, match=told):
        build(options)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda config: config.update(use_dora=True), "use_dora"),
        (lambda config: config.update(bias="all"), "trained biases"),
    ],
)
def test_settings_that_there_is_no_room_for(
    change: Callable[[dict[str, Any]], None], told: str, reserved: Reserved, tmp_path: Path
) -> None:
    import json
    import shutil

    folder = Path(shutil.copytree(reserved.adapters[0], tmp_path / "adapter"))
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    with pytest.raises(DataError, match=told):
        tensors_of_peft(folder)


def test_an_adapter_without_effect(reserved: Reserved, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(reserved.adapters[0], tmp_path / "adapter"))
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({n: t * (0 if "lora_B" in n else 1) for n, t in tensors.items()}, path)
    with pytest.raises(CheckFailed, match="no effect"):
        tensors_of_peft(folder)
