"""LoRA, soft prompt and words: the same answers on a compiled engine as in PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch

from art_export.adapted import in_words, open_lora, open_soft_prompt
from art_export.subject import open_subject
from engines.adapter import CONFIG_NAME
from engines.chat import Chat
from engines.contract import EngineOptions
from engines.errors import BundleError, DataError, PromptError
from engines.lora import linear_layers
from engines.manifest import MANIFEST_NAME
from engines.model import load_model, resolve_model

PROMPTS = ("Wake me up at 07:30 on Monday.", "12 + 30", "How many apples does Anna have now?")
OWN = EngineOptions()


def load(folder: Path) -> Any:
    return load_model(resolve_model(str(folder)))


@pytest.fixture(scope="module")
def lora(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA that changes every linear layer a little."""
    folder = tmp_path_factory.mktemp("lora")
    torch.manual_seed(0)
    model = load(tiny_model_dir)
    config = peft.LoraConfig(r=2, target_modules=linear_layers(model))
    wrapped = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, value in wrapped.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.2)
    wrapped.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def soft_prompt(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("soft-prompt")
    torch.manual_seed(0)
    config = peft.PromptTuningConfig(
        task_type=peft.TaskType.CAUSAL_LM,
        num_virtual_tokens=4,
        prompt_tuning_init="SAMPLE_VOCAB",
        base_model_name_or_path=str(tiny_model_dir),
    )
    peft.get_peft_model(load(tiny_model_dir), config).save_pretrained(str(folder))
    return folder


def hugging_face(model: Any, folder: Path) -> list[tuple[int, ...]]:
    """Greedy tokens of transformers' own generate, end-of-turn left out."""
    chat, found = Chat.load(folder, 64), []
    for prompt in PROMPTS:
        ids = torch.tensor([chat.full_ids(prompt)])
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False
        )[0].tolist()
        found.append(tuple(token for token in out[ids.shape[1] :] if token not in chat.eos_ids))
    return found


def test_lora_is_what_peft_generates_on_model_and_bundle(
    tiny_model_dir: Path, tiny_bundle_dir: Path, lora: Path
) -> None:
    wrapped = peft.PeftModel.from_pretrained(load(tiny_model_dir), str(lora))
    expected = hugging_face(wrapped, tiny_model_dir)
    assert expected != hugging_face(load(tiny_model_dir), tiny_model_dir)
    with open_lora(str(tiny_model_dir), lora, 64, OWN) as eager:
        assert [one.token_ids for one in eager.generate(PROMPTS, 8)] == expected
        assert not eager.deploy
    with open_lora(str(tiny_bundle_dir), lora, None, OWN) as compiled:
        assert compiled.engine == "onnxruntime"
        assert [one.token_ids for one in compiled.generate(PROMPTS, 8)] == expected
        assert compiled.deploy["merge"] > 0 and compiled.deploy["build"] > 0
        assert f"build {compiled.deploy['build']:.1f} s" in compiled.notes[0]


def test_a_base_that_has_changed_since_the_build_is_refused(
    tiny_bundle_dir: Path, lora: Path, tmp_path: Path
) -> None:
    copied = tmp_path / "bundle"
    copied.mkdir()
    for path in tiny_bundle_dir.iterdir():
        (copied / path.name).symlink_to(path)
    (copied / MANIFEST_NAME).unlink()
    manifest = json.loads((tiny_bundle_dir / MANIFEST_NAME).read_text())
    (copied / MANIFEST_NAME).write_text(json.dumps(manifest | {"weights_sha256": "ab" * 32}))
    with (
        pytest.raises(BundleError, match="built from weights abababababab"),
        open_lora(str(copied), lora, None, OWN),
    ):
        raise AssertionError("it was opened")


def test_soft_prompt_on_model_and_bundle(
    tiny_model_dir: Path, tiny_bundle_dir: Path, soft_prompt: Path
) -> None:
    with open_soft_prompt(str(tiny_model_dir), soft_prompt, 64, OWN) as eager:
        expected = [one.token_ids for one in eager.generate(PROMPTS, 8)]
    with open_soft_prompt(str(tiny_bundle_dir), soft_prompt, None, OWN) as compiled:
        assert [one.token_ids for one in compiled.generate(PROMPTS, 8)] == expected
    with open_subject(str(tiny_bundle_dir), "none") as bare:
        assert [one.token_ids for one in bare.generate(PROMPTS, 8)] != expected


@pytest.mark.parametrize("kind", ["lora", "soft_prompt"])
def test_an_adapter_for_another_model_is_refused(
    request: pytest.FixtureRequest, kind: str, tmp_path: Path
) -> None:
    source: Path = request.getfixturevalue(kind)
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / CONFIG_NAME).read_text())
    config["base_model_name_or_path"] = "Qwen/Qwen3-VL-2B"
    (tmp_path / CONFIG_NAME).write_text(json.dumps(config))
    opened = {"lora": open_lora, "soft_prompt": open_soft_prompt}[kind]
    with (
        pytest.raises(DataError, match="trained for Qwen/Qwen3-VL-2B"),
        opened("demo", tmp_path, None, OWN),
    ):
        raise AssertionError("it was opened")


def test_words_are_answered_as_if_they_were_the_prompt(tiny_bundle_dir: Path) -> None:
    """Whatever all questions share is computed once, and changes nothing."""
    begin = "Anna has 12 apples. "

    def words(chat: Chat, question: str) -> list[int]:
        return chat.full_ids(begin + question)

    with open_subject(str(tiny_bundle_dir), "none") as bare:
        expected = bare.generate([begin + prompt for prompt in PROMPTS], 8)
        asked = in_words(bare, words, PROMPTS)
        assert asked.generate(PROMPTS, 8) == expected
        assert expected != bare.generate(PROMPTS, 8)
        shared = asked.prefix.length  # type: ignore[attr-defined]
        assert shared >= len(bare.runtime.chat.tokenizer(begin).input_ids) - 1
        alone = in_words(bare, words, PROMPTS[:1])
        assert alone.generate(PROMPTS[:1], 8) == expected[:1]


def test_words_that_do_not_fit_are_refused(tiny_bundle_dir: Path) -> None:
    with open_subject(str(tiny_bundle_dir), "none") as bare:
        limit = bare.runtime.chat.max_length
        asked = in_words(bare, lambda chat, question: [7] * (limit - 4), ["x"])
        with pytest.raises(PromptError, match="with 8 to generate"):
            asked.generate(["x"], 8)
        assert np.isfinite(asked.prefix.arrays[0]).all()  # type: ignore[attr-defined]
