"""Every family against Hugging Face's own forward and generate in fp32, by PyTorch and compiled.

Rows have prompts of unequal lengths and a picture each of its own.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from art_export.build import BuildOptions, build
from art_export.probes import prompt_of_length
from engines.chat import Chat
from engines.errors import ModelError
from engines.families import FAMILIES, check_family, load_parts
from engines.model import ModelSource
from engines.prefix import PrefixState
from engines.reference import Reference, ReferenceAnswer
from engines.registry import ENGINES, engine_class
from engines.runtime import Runtime
from engines.torch_engine import TorchEngine
from tests.models import TINY, tiny_model

LENGTHS = (5, 63, 64, 65, 200, 1000, 12, 31)
"""Tokens of the user's text, one prompt each."""
NEW_TOKENS = 64
TOLERANCE = 1e-4
VERIFIED = "qwen3_5"
"""The family whose bundles of every engine another test verifies."""


@dataclass(frozen=True, eq=False)
class Case:
    """A family's tiny model with what Hugging Face makes of every row."""

    source: ModelSource
    reference: Reference
    chat: Chat
    pictures: NDArray[np.uint8]
    prompts: tuple[str, ...]
    answers: list[ReferenceAnswer]


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    """What was made so far: pytest asks for a family more than once."""
    return {}


@pytest.fixture(scope="module", params=FAMILIES)
def case(
    request: pytest.FixtureRequest,
    cases: dict[str, Case],
    tmp_path_factory: pytest.TempPathFactory,
) -> Case:
    family = request.param
    if family not in cases:
        cases[family] = _make_case(family, tmp_path_factory.mktemp(family) / "model")
    return cases[family]


def _make_case(family: str, folder: Path) -> Case:
    tiny_model(family, folder, max_length=2048)
    source, size = ModelSource(family, folder), TINY[family].size
    reference, chat = Reference(source), Chat.load(folder, size)
    # Chance would end answers of a random model early; all of their tokens are to be compared.
    reference.model.generation_config.eos_token_id = None
    reference._ends = ()
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (len(LENGTHS), size, size, 3), dtype=np.uint8)
    words = random.Random(0)
    prompts = tuple(prompt_of_length(chat, length, words) for length in LENGTHS)
    answers = reference.generate(prompts, list(pictures), NEW_TOKENS)
    return Case(source, reference, chat, pictures, prompts, answers)


@pytest.fixture(
    scope="module",
    params=[
        "torch",
        pytest.param("onnxruntime", marks=pytest.mark.slow),
        pytest.param("openvino", marks=pytest.mark.slow),
    ],
)
def runtime(
    request: pytest.FixtureRequest, case: Case, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Runtime]:
    size = case.chat.layout.size
    if request.param == "torch":
        yield Runtime(TorchEngine.from_source(case.source, size), case.chat)
        return
    pytest.importorskip(ENGINES[request.param].package)
    if request.param == "openvino" and case.source.name == VERIFIED:
        pytest.skip("tests/art_export/test_verify.py compares it with Hugging Face's generate")
    bundle = tmp_path_factory.mktemp("bundles") / "bundle"
    build(BuildOptions(str(case.source.path), bundle, engine=request.param, size=size))
    with engine_class(request.param).open(bundle) as engine:
        yield Runtime(engine, Chat.load(bundle, size))


@pytest.fixture(scope="module")
def features(case: Case, runtime: Runtime) -> NDArray[np.float32]:
    """Visual tokens of all pictures, computed in one batch."""
    return runtime.engine.vision(case.pictures)


@pytest.fixture(scope="module")
def prefixes(runtime: Runtime, features: NDArray[np.float32]) -> list[PrefixState]:
    return [runtime.prefix_from_features(row[None]) for row in features]


def test_the_processor_leaves_pictures_alone(case: Case) -> None:
    case.reference.check_size(case.chat.layout.size)


def test_patches_are_the_processors(case: Case) -> None:
    parts = load_parts(case.reference.model, case.chat.layout.size)
    pixels = case.pictures[0]
    found = parts.vision.patches(torch.from_numpy(pixels)[None])[0]
    expected = case.reference.processed(pixels)["pixel_values"].reshape(found.shape)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_precisions(case: Case, dtype: str) -> None:
    """As close to fp32 as Hugging Face's own forward in that dtype is, give or take rounding."""
    size = case.chat.layout.size
    exact, other = case.reference, Reference(case.source, dtype)
    runtime = Runtime(TorchEngine(other.model, size), case.chat)
    prefix = runtime.prefix(case.pictures[0])
    tail = runtime.tail(case.prompts[4], prefix)
    found = runtime.tail_logits(tail, prefix)
    wanted, rounded = (
        reference.prefill_logits(case.prompts[4], case.pictures[0])[-len(tail) :]
        for reference in (exact, other)
    )
    assert _rms(found - wanted) < 2 * _rms(rounded - wanted)


def test_vision_features(case: Case, features: NDArray[np.float32]) -> None:
    for row, pixels in zip(features, case.pictures, strict=True):
        np.testing.assert_allclose(row, case.reference.vision(pixels), atol=TOLERANCE)


def test_prefill_logits(case: Case, runtime: Runtime, prefixes: list[PrefixState]) -> None:
    for prompt, pixels, prefix in zip(case.prompts, case.pictures, prefixes, strict=True):
        tail = runtime.tail(prompt, prefix)
        expected = case.reference.prefill_logits(prompt, pixels)[-len(tail) :]
        np.testing.assert_allclose(runtime.tail_logits(tail, prefix), expected, atol=TOLERANCE)


def test_a_chat_without_a_picture(case: Case, runtime: Runtime) -> None:
    prefix = runtime.prefix(None)
    found = runtime.tail_logits(runtime.tail(case.prompts[3], prefix), prefix)
    expected = case.reference.prefill_logits(case.prompts[3], None)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


@pytest.mark.parametrize("rows", [[0], [1], [5], [2, 4], list(range(len(LENGTHS)))], ids=str)
def test_greedy_tokens(
    case: Case, runtime: Runtime, prefixes: list[PrefixState], rows: list[int]
) -> None:
    """Logits of every step and the tokens that they choose, in batches of 1, 2 and 8."""
    steps = _greedy(runtime, [case.prompts[row] for row in rows], [prefixes[row] for row in rows])
    for place, row in enumerate(rows):
        expected, found = case.answers[row].logits, steps[:, place]
        assert len(expected) == len(found) == NEW_TOKENS
        assert found.argmax(-1).tolist() == expected.argmax(-1).tolist()
        np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_pictures_matter(case: Case) -> None:
    """Else the tests above would prove nothing about them."""
    first, second = (
        case.reference.prefill_logits(case.prompts[0], pixels) for pixels in case.pictures[:2]
    )
    assert np.abs(first - second)[-1].max() > 100 * TOLERANCE


@pytest.mark.parametrize("kind", ["qwen3_vl_moe", "qwen3_5_moe", "llava"])
def test_an_unknown_family_lists_what_is_supported(kind: str) -> None:
    with pytest.raises(ModelError, match=rf"'{kind}'\n.*{', '.join(FAMILIES)}"):
        check_family(kind)


def _greedy(
    runtime: Runtime, prompts: Sequence[str], prefixes: Sequence[PrefixState]
) -> NDArray[np.float32]:
    """Logits (steps, batch, vocabulary)."""
    tails = [runtime.tail(*pair) for pair in zip(prompts, prefixes, strict=True)]
    prefilled = runtime.prefill(tails, prefixes)
    return np.stack([logits.copy() for logits in runtime.steps(prefilled, NEW_TOKENS)])


def _rms(x: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(x**2)))
