"""A bundle in onnxruntime-genai: the same tokens as ours, by its own tokenizer and processor."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

from art_export.build import BuildOptions, build
from art_export.bundle import Bundle
from art_export.genai import CONFIG_NAME, TYPES, write_genai
from art_export.genai_graphs import GENAI_GRAPHS
from engines.chat import Chat
from engines.families import FAMILIES
from engines.model import ModelSource
from engines.onnxruntime_engine import GRAPHS
from engines.reference import Reference
from tests.models import TINY, tiny_model

og = pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")

SIZE = 64
NEW = 48
QUESTION = "Wake me up at 07:30 on Monday."


@dataclass(frozen=True)
class Asked:
    """The chat as text and as ids, and our answer without its end token."""

    text: str
    prompt: list[int]
    answer: list[int]


@pytest.fixture(scope="module")
def bundle(tiny_bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _with_genai(tiny_bundle_dir, tmp_path_factory.mktemp("genai") / "bundle")


def _noise(size: int = SIZE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def _png(folder: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(folder / "picture.png")
    return folder / "picture.png"


def _with_genai(built: Path, folder: Path) -> Path:
    shutil.copytree(built, folder)
    if not (folder / CONFIG_NAME).exists():
        size = json.loads((built / "manifest.json").read_text())["picture_size"]
        assert write_genai(folder, Chat.load(folder, size), 1024)
    return folder


def _genai(folder: Path, prompt: str, png: Path | None) -> tuple[list[int], list[int], Any]:
    """Ids of prompt and answer, and the inputs that its processor made."""
    og.disable_telemetry_events()
    model = og.Model(str(folder))
    images = None if png is None else og.Images.open(str(png))
    inputs = model.create_multimodal_processor()(prompt, images=images)
    params = og.GeneratorParams(model)
    length = inputs["input_ids"].as_numpy().shape[1]
    params.set_search_options(do_sample=False, max_length=length + NEW)
    generator = og.Generator(model, params)
    generator.set_inputs(inputs)
    found = []
    while not generator.is_done():
        generator.generate_next_token()
        found.append(int(generator.get_next_tokens()[0]))
    end = json.loads((folder / CONFIG_NAME).read_text())["model"]["eos_token_id"]
    answer = found[:-1] if found[-1] in end else found
    return inputs["input_ids"].as_numpy()[0].tolist(), answer, inputs


def _ours(folder: Path, pixels: np.ndarray | None) -> Asked:
    with Bundle.load(folder) as loaded:
        runtime, chat = loaded.runtime, loaded.runtime.chat
        answer = runtime.generate([QUESTION], [runtime.prefix(pixels)], NEW)[0]
    picture = [] if pixels is None else [{"type": "image"}]
    text = chat.tokenizer.apply_chat_template(
        [{"role": "user", "content": [*picture, {"type": "text", "text": QUESTION}]}],
        add_generation_prompt=True,
        tokenize=False,
        enable_thinking=False,
    )
    ids = chat.full_ids(QUESTION)
    if pixels is not None:
        ids = chat.prefix_ids() + chat.tail_ids(QUESTION)
    return Asked(text, ids, list(answer.token_ids))


def _talkative(folder: Path, size: int) -> tuple[np.ndarray, Asked]:
    """A picture under which a random model has something to say."""
    for seed in range(8):
        asked = _ours(folder, _noise(size, seed))
        if len(asked.answer) > NEW // 4:
            return _noise(size, seed), asked
    raise AssertionError("no picture makes this model say anything")


def test_text_gets_the_same_tokens(tiny_bundle_dir: Path, bundle: Path) -> None:
    asked = _ours(tiny_bundle_dir, None)
    prompt, answer, _ = _genai(bundle, asked.text, None)
    assert (prompt, answer) == (asked.prompt, asked.answer)
    assert answer


def test_a_picture_gets_the_same_tokens(
    tiny_bundle_dir: Path, bundle: Path, tmp_path: Path
) -> None:
    pixels, asked = _talkative(tiny_bundle_dir, SIZE)
    prompt, answer, _ = _genai(bundle, asked.text, _png(tmp_path, pixels))
    assert (prompt, answer) == (asked.prompt, asked.answer)


def test_the_processor_gives_the_picture_itself(
    tiny_bundle_dir: Path, tiny_model_dir: Path, bundle: Path, tmp_path: Path
) -> None:
    """Its patches, and Hugging Face's, become the features that the pixels have, bit for bit."""
    text = _ours(tiny_bundle_dir, _noise()).text
    theirs = _genai(bundle, text, _png(tmp_path, _noise()))[2]["pixel_values"].as_numpy()
    hugging_face = Reference(ModelSource("tiny", tiny_model_dir)).processed(_noise())
    ours = ort.InferenceSession(bundle / GRAPHS["vision"])
    expected = ours.run(None, {"pixels": _noise()[None]})[0]
    adapted = ort.InferenceSession(bundle / GENAI_GRAPHS["vision"])
    for values in (theirs, hugging_face["pixel_values"].numpy()):
        assert np.array_equal(adapted.run(None, {"pixel_values": values})[0], expected[0])


@pytest.mark.parametrize("sides", [(SIZE, 2 * SIZE), (2 * SIZE, 2 * SIZE), (32, 32), (80, 70)])
def test_a_picture_of_another_size_fails(
    tiny_bundle_dir: Path, bundle: Path, tmp_path: Path, sides: tuple[int, int]
) -> None:
    text = _ours(tiny_bundle_dir, _noise()).text
    with pytest.raises(RuntimeError, match=r"image_features|Reshape|Patch"):
        _genai(bundle, text, _png(tmp_path, np.zeros((*sides, 3), np.uint8)))


def test_no_weight_is_stored_twice(tiny_bundle_dir: Path, bundle: Path) -> None:
    for part, path in GENAI_GRAPHS.items():
        more = (bundle / path).stat().st_size - (tiny_bundle_dir / GRAPHS[part]).stat().st_size
        assert more < 16 * 1024


def test_the_config_follows_the_graph(bundle: Path) -> None:
    config = json.loads((bundle / CONFIG_NAME).read_text())["model"]["decoder"]
    decoder = ort.InferenceSession(bundle / config["filename"])
    inputs = {node.name for node in decoder.get_inputs()}
    named = set()
    for template in config["inputs"].values():
        layers = range(config["num_hidden_layers"])
        named |= {template % layer for layer in layers} if "%d" in template else {template}
    assert inputs <= named
    assert config["outputs"]["logits"] in {node.name for node in decoder.get_outputs()}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_other_precisions(tiny_model_dir: Path, tmp_path: Path, precision: str) -> None:
    built = tmp_path / "built"
    build(BuildOptions(str(tiny_model_dir), built, size=SIZE, precision=precision))
    pixels, asked = _talkative(built, SIZE)
    folder = _with_genai(built, tmp_path / "bundle")
    prompt, answer, _ = _genai(folder, asked.text, _png(tmp_path, pixels))
    assert (prompt, answer) == (asked.prompt, asked.answer)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(set(TYPES) - {"qwen3_5"}))
def test_other_families(family: str, tmp_path: Path) -> None:
    """DeepStack included: Qwen3-VL's features are part of what its embeddings are wide."""
    built, size = tmp_path / "built", TINY[family].size
    build(BuildOptions(str(tiny_model(family, tmp_path / "model")), built, size=size))
    folder = _with_genai(built, tmp_path / "bundle")
    pixels, asked = _talkative(built, size)
    prompt, answer, _ = _genai(folder, asked.text, _png(tmp_path, pixels))
    assert (prompt, answer) == (asked.prompt, asked.answer)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(TYPES)))
def test_families_that_it_cannot_run_rightly_have_no_config(family: str, tmp_path: Path) -> None:
    folder = tiny_model(family, tmp_path / "model")
    assert not write_genai(folder, Chat.load(folder), 1024)
    assert not (folder / CONFIG_NAME).exists()
