"""Rollouts of the tiny model, from PyTorch and from a bundle compiled from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engines.errors import OptionError
from engines.sampling import SamplingOptions
from training.options import TrainOptions
from training.picture import grey_start
from training.policy import picture_policy, text_policy
from training.rollouts import EngineRollouts, open_runtime, pixels_of, text_prefix
from training.setup import Setup, load_setup

SIZE = 64
PROMPTS = ("Wake me up at 07:30 on Monday.", "12 + 30", "How many apples does Anna have now?")


@pytest.fixture(scope="module")
def setup(tiny_model_dir: Path) -> Setup:
    return load_setup(TrainOptions(str(tiny_model_dir), "tools", Path("unused"), examples=4), SIZE)


def test_a_state_after_words_is_that_of_the_whole_chat(setup: Setup) -> None:
    runtime = open_runtime(setup, None, None)
    ids = setup.chat.full_ids(PROMPTS[0])
    whole = runtime.tail_logits(ids, runtime.prefix(None))
    rest = runtime.tail_logits(ids[7:], text_prefix(runtime, ids[:7]))
    assert np.allclose(whole[7:], rest, atol=1e-4)
    assert text_prefix(runtime, []).length == 0


def test_the_engine_sees_what_the_policy_sees(setup: Setup) -> None:
    pixels = grey_start(SIZE, 0)
    policy = picture_policy(setup.parts, setup.chat, torch.tensor(pixels).float())
    seen = pixels_of(policy)
    assert seen is not None
    assert np.array_equal(seen, pixels)
    assert pixels_of(text_policy(setup.parts)) is None


def test_how_many_rows_are_decoded_at_once_changes_no_answer(setup: Setup) -> None:
    runtime, pixels = open_runtime(setup, "torch", None), grey_start(SIZE, 0)
    seeds = [[(0, row, one) for one in range(3)] for row in range(3)]
    drawn = [
        EngineRollouts(runtime, 5, rows).draw(pixels, PROMPTS, SamplingOptions(), seeds)
        for rows in (1, 6, 100)
    ]
    ids = [[[one.token_ids for one in group] for group in groups] for groups in drawn]
    assert ids[0] == ids[1] == ids[2]


def test_a_bundle_answers_as_pytorch_does(setup: Setup, tiny_bundle_dir: Path) -> None:
    pixels = grey_start(SIZE, 0)
    runtime = open_runtime(setup, None, str(tiny_bundle_dir))
    with runtime.engine as engine:
        assert engine.name == "onnxruntime"
        compiled = EngineRollouts(runtime, 6, 8)
        eager = EngineRollouts(open_runtime(setup, None, None), 6, 8)
        one, two = compiled.greedy(pixels, PROMPTS), eager.greedy(pixels, PROMPTS)
    assert [answer.token_ids for answer in one] == [answer.token_ids for answer in two]


def test_engine_and_bundle_must_go_together(setup: Setup, tiny_bundle_dir: Path) -> None:
    with pytest.raises(OptionError, match="without --bundle"):
        open_runtime(setup, "onnxruntime", None)
    with pytest.raises(OptionError, match="whose engine is onnxruntime"):
        open_runtime(setup, "torch", str(tiny_bundle_dir))
