"""Prompt tuning on tiny random models: peft's own forward with what is saved is the reference."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch

import training.baselines.adapter as adapter_module
from engines.chat import Chat
from engines.errors import OptionError, PromptError
from engines.families import load_parts
from engines.model import load_model, resolve_model, weights_sha256
from engines.onnxruntime_engine import OnnxRuntimeEngine
from engines.runtime import Runtime
from engines.soft_prompt import load_soft_prompt
from engines.torch_engine import TorchEngine
from tests.models import tiny_model
from training.baselines.soft_prompt import train_soft_prompt, vectors_policy
from training.batches import Batch
from training.interruption import Interrupted
from training.objectives.sft import loss as sft
from training.options import AdapterResult, SoftPromptOptions
from training.policy import Policy, PrefixPolicy, no_logits

SIZE = 64
PROMPT = "Wake me up at 07:30 on Monday."


def make_options(model: Path, out: Path) -> SoftPromptOptions:
    return SoftPromptOptions(
        model=str(model),
        task="tools",
        out=out,
        steps=4,
        lr=0.1,
        batch_size=3,
        examples=12,
        validation_examples=4,
        validate_every=2,
        checkpoint_every=2,
        tokens=5,
    )


@pytest.fixture
def options(tiny_model_dir: Path, tmp_path: Path) -> SoftPromptOptions:
    return make_options(tiny_model_dir, tmp_path / "run")


@pytest.fixture(scope="module")
def trained(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> AdapterResult:
    out = tmp_path_factory.mktemp("soft-prompt") / "run"
    return train_soft_prompt(make_options(tiny_model_dir, out))


def load(folder: Path) -> Any:
    return load_model(resolve_model(str(folder)))


def hidden_of(model: Any) -> int:
    return int(model.config.get_text_config().hidden_size)


@torch.no_grad()
def peft_logits(folder: Path, adapter: Path, ids: list[int]) -> np.ndarray:
    """Logits (length, vocabulary) of the chat's tokens, by peft around the untouched model."""
    model = peft.PeftModel.from_pretrained(load(folder), str(adapter))
    given = torch.tensor([ids])
    logits = model(input_ids=given, attention_mask=torch.ones_like(given)).logits
    found: np.ndarray = logits[0, -len(ids) :].numpy()
    return found


def test_it_trains_and_leaves_the_base_alone(trained: AdapterResult, tiny_model_dir: Path) -> None:
    assert trained.step > 0
    assert trained.trained_parameters == 5 * hidden_of(load(tiny_model_dir))
    assert trained.weights_sha256 == weights_sha256(tiny_model_dir)
    config = peft.PeftConfig.from_pretrained(str(trained.adapter))
    assert config.peft_type == "PROMPT_TUNING"
    assert config.base_model_name_or_path == str(tiny_model_dir)


def test_pefts_forward_is_our_policy_and_our_engines(
    trained: AdapterResult, tiny_model_dir: Path, tiny_bundle_dir: Path
) -> None:
    model = load(tiny_model_dir)
    chat = Chat.load(tiny_model_dir, SIZE)
    ids = chat.full_ids(PROMPT)
    expected = peft_logits(tiny_model_dir, trained.adapter, ids)
    vectors = load_soft_prompt(trained.adapter, hidden_of(model))
    with torch.no_grad():
        policy = vectors_policy(load_parts(model, SIZE), torch.from_numpy(vectors))
        ours = policy(torch.tensor([ids]), len(ids))[0].numpy()
    np.testing.assert_allclose(ours, expected, atol=2e-4)
    assert np.abs(ours - bare_logits(model, ids)).max() > 1e-2
    with OnnxRuntimeEngine(tiny_bundle_dir) as engine:
        check_runtime(Runtime(engine, chat), vectors, ids, expected)


@torch.no_grad()
def bare_logits(model: Any, ids: list[int]) -> np.ndarray:
    found: np.ndarray = model(input_ids=torch.tensor([ids])).logits[0].numpy()
    return found


def check_runtime(
    runtime: Runtime, vectors: np.ndarray, ids: list[int], expected: np.ndarray
) -> None:
    prefix = runtime.prefix_from_embeddings(vectors)
    assert (prefix.length, prefix.next_position) == (len(vectors), len(vectors))
    tail = runtime.tail(PROMPT, prefix)
    assert tail == ids
    np.testing.assert_allclose(runtime.tail_logits(tail, prefix), expected, atol=2e-4)


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl", "smolvlm"])
def test_other_families(family: str, tmp_path: Path) -> None:
    """DeepStack's rows are wider than peft's vectors; SmolVLM has one axis of positions."""
    folder = tiny_model(family, tmp_path / "model")
    model = load(folder)
    torch.manual_seed(3)
    config = peft.PromptTuningConfig(
        task_type=peft.TaskType.CAUSAL_LM,
        num_virtual_tokens=3,
        base_model_name_or_path=str(folder),
    )
    peft.get_peft_model(model, config).save_pretrained(str(tmp_path / "adapter"))
    vectors = load_soft_prompt(tmp_path / "adapter", hidden_of(model))
    runtime = Runtime(TorchEngine(load(folder)), Chat.load(folder))
    ids = runtime.chat.full_ids(PROMPT)
    check_runtime(runtime, vectors, ids, peft_logits(folder, tmp_path / "adapter", ids))


def test_vectors_that_do_not_fit_are_refused(tiny_bundle_dir: Path) -> None:
    with OnnxRuntimeEngine(tiny_bundle_dir) as engine:
        runtime = Runtime(engine, Chat.load(tiny_bundle_dir, SIZE))
        width = engine.embed(np.zeros((1, 1), np.int64)).shape[-1]
        for shape in ((0, width), (3, width + 1)):
            with pytest.raises(PromptError, match="to put before the chat"):
                runtime.prefix_from_embeddings(np.zeros(shape, np.float32))


def test_an_interrupted_run_resumes_bit_for_bit(
    options: SoftPromptOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_soft_prompt(replace(options, out=tmp_path / "whole"))
    calls = 0

    def interrupting(policy: Policy, batch: Batch) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return sft(policy, batch)

    with monkeypatch.context() as patch:
        patch.setattr(adapter_module, "load_objective", lambda name: interrupting)
        with pytest.raises(Interrupted):
            train_soft_prompt(options)
    train_soft_prompt(replace(options, resume=True))
    for name in ("adapter/adapter_model.safetensors", "metrics.jsonl"):
        assert (options.out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_gradients_are_those_of_pefts_forward(tiny_model_dir: Path) -> None:
    """One prefix for all rows, against peft, which puts the vectors before each row."""
    config = peft.PromptTuningConfig(task_type=peft.TaskType.CAUSAL_LM, num_virtual_tokens=4)
    wrapped = peft.get_peft_model(load(tiny_model_dir), config)
    ids = torch.tensor([Chat.load(tiny_model_dir, SIZE).full_ids(PROMPT)] * 2)
    ids[1] = ids[1].flip(0)
    (weight,) = [value for value in wrapped.parameters() if value.requires_grad]
    theirs = wrapped(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    entropy(theirs[:, -ids.shape[1] :], ids).backward()
    vectors = weight.detach().clone().requires_grad_()
    whole = vectors_policy(load_parts(load(tiny_model_dir), SIZE), vectors)
    cut = whole.cut()
    entropy(cut(ids, ids.shape[1]), ids).backward()
    whole.flow(cut)
    assert weight.grad is not None and vectors.grad is not None
    assert weight.grad.abs().max() > 1e-4
    assert torch.allclose(vectors.grad, weight.grad, atol=1e-6, rtol=1e-4)


def test_the_output_head_is_not_read_for_the_vectors(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = load_parts(load(tiny_model_dir), SIZE)
    ids = torch.tensor([Chat.load(tiny_model_dir, SIZE).full_ids(PROMPT)])
    vectors = torch.randn(4, parts.embed(ids).shape[-1]).requires_grad_()
    heads: list[Any] = []
    forward = parts.decoder.forward

    def noted(*given: Any) -> Any:
        heads.append(given[5] if len(given) > 5 else None)
        return forward(*given)

    with monkeypatch.context() as patch:
        patch.setattr(parts.decoder, "forward", noted)
        whole = vectors_policy(parts, vectors)
    assert heads == [no_logits]
    entropy(whole(ids, ids.shape[1]), ids).backward()
    found = vectors.grad

    vectors.grad = None
    positions = torch.arange(4).expand(3, 1, 4)
    _, state = parts.decoder(vectors[None], None, positions, parts.empty_state(1), 1)
    entropy(PrefixPolicy(parts, tuple(state), 4)(ids, ids.shape[1]), ids).backward()
    assert found is not None and vectors.grad is not None
    assert torch.equal(found, vectors.grad)


def entropy(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Of every token but the first."""
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def test_parts_of_a_batch_and_bf16_are_the_same_training(
    options: SoftPromptOptions, trained: AdapterResult, tmp_path: Path
) -> None:
    width = trained.trained_parameters // options.tokens
    whole = load_soft_prompt(trained.adapter, width)
    parts = train_soft_prompt(replace(options, out=tmp_path / "parts", accumulate=3))
    np.testing.assert_allclose(load_soft_prompt(parts.adapter, width), whole, atol=1e-3)
    light = train_soft_prompt(replace(options, out=tmp_path / "light", precision="bf16"))
    assert light.loss == pytest.approx(trained.loss, rel=0.02)
    assert light.loss != trained.loss


def test_starts(options: SoftPromptOptions, tmp_path: Path) -> None:
    model = load(Path(options.model))
    table = model.get_input_embeddings().weight
    text = replace(options, init="TEXT", init_text="Anna has 12", steps=1, lr=1e-9)
    found = load_soft_prompt(train_soft_prompt(text).adapter, table.shape[1])
    ids = Chat.load(Path(options.model), SIZE).tokenizer("Anna has 12").input_ids
    first = table[torch.tensor((ids * 5)[:5])].numpy()
    np.testing.assert_allclose(found, first, atol=1e-6)
    sampled = replace(options, out=tmp_path / "sampled", steps=1, lr=1e-9)
    rows = load_soft_prompt(train_soft_prompt(sampled).adapter, table.shape[1])
    farthest = (torch.from_numpy(rows)[:, None] - table).abs().amax(dim=2)
    assert float(farthest.min(dim=1).values.max()) < 1e-6


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tokens": 0}, "tokens = 0"),
        ({"init": "TEXT"}, "init = TEXT with the text None"),
        ({"init_text": "x"}, "init = SAMPLE_VOCAB with the text 'x'"),
        ({"init": "GUESS"}, "GUESS"),
    ],
)
def test_options_that_cannot_be(
    options: SoftPromptOptions, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(OptionError, match=said):
        train_soft_prompt(replace(options, **wrong))
