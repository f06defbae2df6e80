"""LoRA on a tiny random model: trained, saved, merged, and equal in every form."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

import training.baselines.adapter as adapter_module
import training.run as run_module
from engines.chat import Chat
from engines.errors import CheckFailed, DataError, OptionError, OutputExistsError
from engines.lora import linear_layers, merge, save_merged
from engines.model import load_model, resolve_model, weights_sha256
from training.baselines.lora import train_lora
from training.batches import IGNORE, Batch
from training.interruption import Interrupted
from training.objectives.sft import loss as sft
from training.options import AdapterResult, LoraOptions, TrainOptions
from training.policy import Policy
from training.setup import load_dataset


def make_options(model: Path, out: Path) -> LoraOptions:
    return LoraOptions(
        model=str(model),
        task="tools",
        out=out,
        steps=6,
        batch_size=3,
        examples=12,
        validation_examples=4,
        validate_every=2,
        checkpoint_every=2,
    )


@pytest.fixture
def options(tiny_model_dir: Path, tmp_path: Path) -> LoraOptions:
    return make_options(tiny_model_dir, tmp_path / "run")


@pytest.fixture(scope="module")
def trained(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> AdapterResult:
    return train_lora(make_options(tiny_model_dir, tmp_path_factory.mktemp("lora") / "run"))


def logits_of(model: Any, folder: Path) -> torch.Tensor:
    ids = torch.tensor([Chat.load(folder, 64).full_ids("Wake me up at 07:30 on Monday.")])
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids).logits
    return logits


def load(folder: Path) -> Any:
    return load_model(resolve_model(str(folder)))


def test_it_trains_and_records(trained: AdapterResult) -> None:
    lines = [json.loads(line) for line in (trained.out / "metrics.jsonl").read_text().splitlines()]
    assert trained.loss < lines[0]["validation"]["loss"]
    record = json.loads((trained.out / "run.json").read_text())
    assert record["kind"] == "lora"
    assert record["result"]["trained_parameters"] == trained.trained_parameters > 0
    assert sorted(path.name for path in trained.adapter.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_every_linear_layer_of_the_language_model_and_no_other_is_adapted(
    tiny_model_dir: Path,
) -> None:
    names = linear_layers(load(tiny_model_dir))
    ends = {name.rsplit(".", 1)[1] for name in names}
    assert {"q_proj", "o_proj", "in_proj_qkv", "in_proj_a", "out_proj", "down_proj"} <= ends
    assert not any("visual" in name or "lm_head" in name for name in names)


def test_the_merged_folder_is_the_adapted_model(
    trained: AdapterResult, tiny_model_dir: Path, tmp_path: Path
) -> None:
    out = save_merged(str(tiny_model_dir), trained.adapter, tmp_path / "merged")
    merged = logits_of(load(out), out)
    wrapped = peft.PeftModel.from_pretrained(load(tiny_model_dir), str(trained.adapter))
    assert torch.allclose(merged, logits_of(wrapped, tiny_model_dir), atol=1e-4)
    assert (merged - logits_of(load(tiny_model_dir), tiny_model_dir)).abs().max() > 1e-2
    assert {path.name for path in tiny_model_dir.iterdir()} <= {p.name for p in out.iterdir()}
    assert weights_sha256(out) != weights_sha256(tiny_model_dir)


def test_bf16_is_written_on_request(
    trained: AdapterResult, tiny_model_dir: Path, tmp_path: Path
) -> None:
    out = save_merged(str(tiny_model_dir), trained.adapter, tmp_path / "m", torch.bfloat16)
    size = (out / "model.safetensors").stat().st_size
    whole = (tiny_model_dir / "model.safetensors").stat().st_size
    assert size < 0.6 * whole
    assert torch.isfinite(logits_of(load(out), out)).all()


def test_merging_refuses_what_is_no_adapter_or_has_no_effect(
    trained: AdapterResult, tiny_model_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="adapter_config"):
        merge(load(tiny_model_dir), tmp_path)
    model = load(tiny_model_dir)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"])
    peft.get_peft_model(model, config).save_pretrained(str(tmp_path / "idle"))
    with pytest.raises(CheckFailed, match="no effect"):
        merge(load(tiny_model_dir), tmp_path / "idle")
    with pytest.raises(OutputExistsError):
        save_merged(str(tiny_model_dir), trained.adapter, tmp_path)


def test_lora_sees_the_data_and_batches_of_a_picture(
    options: LoraOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[list[int]]] = []

    def recording(policy: Policy, batch: Batch) -> torch.Tensor:
        seen.append([[t for t in row.tolist() if t != IGNORE] for row in batch.targets])
        return sft(policy, batch)

    for module in (adapter_module, run_module):
        monkeypatch.setattr(module, "load_objective", lambda name: recording)
    shared = ("model", "task", "steps", "batch_size", "examples", "validation_examples")
    same = {name: getattr(options, name) for name in shared}
    picture = TrainOptions(out=tmp_path / "picture", size=64, controls=False, **same)
    assert load_dataset(options) == load_dataset(picture)
    train_lora(options)
    run_module.train(picture)
    assert len(seen) == 2 * options.steps
    assert seen[: options.steps] == seen[options.steps :]
    assert seen[0] != seen[1]


def test_the_base_on_disk_is_untouched(options: LoraOptions) -> None:
    before = weights_sha256(Path(options.model))
    assert train_lora(options).weights_sha256 == before == weights_sha256(Path(options.model))


def test_an_interrupted_run_resumes_bit_for_bit(
    options: LoraOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_lora(replace(options, out=tmp_path / "whole"))
    calls = 0

    def interrupting(policy: Policy, batch: Batch) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return sft(policy, batch)

    with monkeypatch.context() as patch:
        patch.setattr(adapter_module, "load_objective", lambda name: interrupting)
        with pytest.raises(Interrupted):
            train_lora(options)
    train_lora(replace(options, resume=True))
    for name in ("adapter/adapter_model.safetensors", "metrics.jsonl"):
        assert (options.out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_rank_below_one_is_refused(options: LoraOptions) -> None:
    with pytest.raises(OptionError, match="rank = 0"):
        train_lora(replace(options, rank=0))


def test_an_objective_on_the_frozen_model_is_refused(options: LoraOptions) -> None:
    with pytest.raises(OptionError, match="'grpo' for an adapter"):
        train_lora(replace(options, objective="grpo"))


@pytest.mark.parametrize(("rank", "alpha", "scaling"), [(4, None, 2.0), (16, None, 2.0), (4, 4, 1)])
def test_the_scale_does_not_depend_on_the_rank(
    options: LoraOptions, rank: int, alpha: int | None, scaling: float
) -> None:
    result = train_lora(replace(options, rank=rank, alpha=alpha, steps=1))
    config = peft.PeftConfig.from_pretrained(str(result.adapter))
    assert isinstance(config, peft.LoraConfig)
    assert (config.r, config.lora_alpha / config.r) == (rank, scaling)
