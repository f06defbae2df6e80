"""Generation: batches of unequal prompts and different pictures give what single rows give."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engines.chat import Chat
from engines.errors import PromptError
from engines.onnxruntime_engine import OnnxRuntimeEngine
from engines.prefix import PrefixState
from engines.runtime import Runtime

SIZE = 64
PROMPTS = ("Wake me up", "a", "How many apples are in the box on Monday? " * 9, "a b", "a", "Call")


@pytest.fixture(scope="module")
def runtime(tiny_bundle_dir: Path) -> Iterator[Runtime]:
    with OnnxRuntimeEngine(tiny_bundle_dir) as engine:
        yield Runtime(engine, Chat.load(tiny_bundle_dir, SIZE))


@pytest.fixture(scope="module")
def prefixes(runtime: Runtime) -> list[PrefixState]:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(2)]
    states = [runtime.prefix(pictures[0]), runtime.prefix(pictures[1]), runtime.prefix(None)]
    return [states[row % 3] for row in range(len(PROMPTS))]


def test_batches_equal_single_rows(runtime: Runtime, prefixes: list[PrefixState]) -> None:
    together = runtime.generate(PROMPTS, prefixes, 12)
    for row, prompt in enumerate(PROMPTS):
        assert runtime.generate([prompt], [prefixes[row]], 12)[0] == together[row]


def test_rows_keep_their_order_whatever_the_batch_size(
    runtime: Runtime, prefixes: list[PrefixState]
) -> None:
    expected = runtime.generate(PROMPTS, prefixes, 6)
    assert runtime.generate(PROMPTS, prefixes, 6, batch_size=4) == expected


def test_step_logits_do_not_depend_on_the_batch(
    runtime: Runtime, prefixes: list[PrefixState]
) -> None:
    tails = [runtime.tail(p, s) for p, s in zip(PROMPTS, prefixes, strict=True)]
    steps = runtime.steps(runtime.prefill(tails, prefixes), 5)
    batched = [step.copy() for step in steps]
    for row, tail in enumerate(tails):
        alone = runtime.steps(runtime.prefill([tail], [prefixes[row]]), 5)
        for step, logits in enumerate(alone):
            np.testing.assert_allclose(batched[step][row], logits[0], atol=1e-4)


def test_the_picture_matters(runtime: Runtime, prefixes: list[PrefixState]) -> None:
    first, second, none = (
        runtime.prefill([runtime.tail("a", state)], [state]).logits for state in prefixes[:3]
    )
    assert np.abs(first - second).max() > 1e-3
    assert np.abs(first - none).max() > 1e-3


def test_generation_stops_at_the_limit(runtime: Runtime, prefixes: list[PrefixState]) -> None:
    answer = runtime.generate(["a"], prefixes[:1], 3)[0]
    assert len(answer.token_ids) == 3 or answer.finished


def test_a_prompt_that_is_too_long(runtime: Runtime, prefixes: list[PrefixState]) -> None:
    with pytest.raises(PromptError, match="at most 1024 tokens"):
        runtime.generate(["x " * 2000], prefixes[:1], 4)
    with pytest.raises(PromptError, match="max-new-tokens"):
        runtime.generate(["x"], prefixes[:1], 5000)


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt(runtime: Runtime, prefixes: list[PrefixState], prompt: str) -> None:
    with pytest.raises(PromptError, match="empty"):
        runtime.generate([prompt], prefixes[:1], 4)
