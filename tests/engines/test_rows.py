"""A row decoded in a batch that others enter and leave has the logits that it has alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engines.chat import Chat
from engines.onnxruntime_engine import OnnxRuntimeEngine
from engines.rows import SEGMENT, LiveBatch, Row, join, part
from engines.runtime import Runtime

SIZE, TOLERANCE = 64, 1e-4
PROMPTS = ("Wake me up", "a", "How many apples are in the box on Monday? " * 4)


@pytest.fixture(scope="module")
def runtime(tiny_bundle_dir: Path) -> Iterator[Runtime]:
    with OnnxRuntimeEngine(tiny_bundle_dir) as engine:
        yield Runtime(engine, Chat.load(tiny_bundle_dir, SIZE))


@pytest.fixture(scope="module")
def rows(runtime: Runtime) -> list[Row]:
    """Prompts of three lengths, one of them without a picture."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    prefixes = [runtime.prefix(pixels[0]), runtime.prefix(None), runtime.prefix(pixels[1])]
    tails = [runtime.tail(p, s) for p, s in zip(PROMPTS, prefixes, strict=True)]
    return runtime.prefill_rows(tails, prefixes)[0]


def _tokens(row: int, step: int) -> int:
    return 10 + (37 * row + 11 * step) % 290


def _alone(runtime: Runtime, row: Row, number: int, steps: int) -> list[np.ndarray]:
    batch = LiveBatch(runtime.engine)
    batch.change([], [row], steps)
    found = [batch.step(np.array([_tokens(number, step)])).copy() for step in range(steps)]
    return [logits[0] for logits in found]


def test_parts_of_a_batch_are_the_rows_that_were_joined(runtime: Runtime, rows: list[Row]) -> None:
    joined = join(runtime.engine, rows)
    assert joined.mask.sum(1).tolist() == [row.length for row in rows]
    for place, row in enumerate(rows):
        for found, own in zip(
            part(runtime.engine, joined.arrays, place, row.length), row.arrays, strict=True
        ):
            np.testing.assert_array_equal(found, own)


def test_rows_come_and_go(runtime: Runtime, rows: list[Row]) -> None:
    """0 begins, 1 comes after two steps, 0 leaves and 2 comes after two more, and 1 goes on."""
    expected = [_alone(runtime, row, number, 6) for number, row in enumerate(rows)]
    batch = LiveBatch(runtime.engine)
    steps = dict.fromkeys(range(3), 0)

    def advance(*numbers: int) -> None:
        logits = batch.step(np.array([_tokens(n, steps[n]) for n in numbers]))
        for place, number in enumerate(numbers):
            np.testing.assert_allclose(
                logits[place], expected[number][steps[number]], atol=TOLERANCE
            )
            steps[number] += 1

    batch.change([], [rows[0]], 9)
    advance(0)
    advance(0)
    batch.change([0], [rows[1]], 9)
    advance(0, 1)
    advance(0, 1)
    batch.change([1], [rows[2]], 9)
    advance(1, 2)
    advance(1, 2)
    batch.change([1, 0], [], 9)
    advance(2, 1)
    assert steps == {0: 4, 1: 5, 2: 3}
    batch.change([], [], 9)
    assert len(batch) == batch.room == 0


def test_room_is_bounded_and_kept_to(runtime: Runtime, rows: list[Row]) -> None:
    batch = LiveBatch(runtime.engine)
    batch.change([], rows[:1], 10 * SEGMENT)
    assert batch.room == SEGMENT
    batch.change([0], [], 1)
    batch.step(np.array([5]))
    with pytest.raises(ValueError, match="room"):
        batch.step(np.array([5]))
