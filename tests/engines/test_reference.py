"""The reference is Hugging Face's own, whatever batches it is asked in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines.errors import ModelError
from engines.model import ModelSource
from engines.reference import Reference

SIZE = 64


@pytest.fixture(scope="module")
def reference(tiny_model_dir: Path) -> Reference:
    return Reference(ModelSource("tiny", tiny_model_dir))


def test_batches_by_length_keep_the_order(reference: Reference) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(2)]
    prompts = ["a", "Wake me up on Monday", "b", "a"]
    shown = [pictures[0], None, pictures[1], pictures[1]]
    together = reference.generate(prompts, shown, 6)
    for row, prompt in enumerate(prompts):
        alone = reference.generate([prompt], [shown[row]], 6)[0]
        assert alone.token_ids == together[row].token_ids
        np.testing.assert_allclose(alone.logits, together[row].logits, atol=1e-4)


def test_logits_chose_the_tokens(reference: Reference) -> None:
    answer = reference.generate(["Call"], [None], 6)[0]
    chosen = answer.logits.argmax(-1).tolist()
    assert tuple(chosen[: len(answer.token_ids)]) == answer.token_ids


def test_a_size_that_the_processor_changes(reference: Reference) -> None:
    reference.check_size(SIZE)
    with pytest.raises(ModelError, match="leaves alone"):
        reference.check_size(70)
