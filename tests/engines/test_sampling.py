from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines.chat import Chat
from engines.errors import OptionError
from engines.model import load_model, resolve_model
from engines.runtime import Runtime
from engines.sampling import SamplingOptions, pick, sample
from engines.torch_engine import TorchEngine

SIZE = 64
PROMPTS = ("Wake me up at 07:30 on Monday.", "12 + 30", "How many apples does Anna have now?")


@pytest.fixture(scope="module")
def runtime(tiny_model_dir: Path) -> Runtime:
    model = load_model(resolve_model(str(tiny_model_dir)))
    return Runtime(TorchEngine(model, SIZE), Chat.load(tiny_model_dir, SIZE))


def rngs(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng([7, number]) for number in range(count)]


def test_tokens_come_as_often_as_they_are_likely() -> None:
    shares = np.array([0.5, 0.3, 0.15, 0.05])
    logits = np.tile(np.log(shares), (4000, 1)).astype(np.float32)
    tokens, logprobs = pick(logits, SamplingOptions(), rngs(4000))
    assert np.allclose(np.bincount(tokens) / 4000, shares, atol=0.03)
    assert np.allclose(logprobs, np.log(shares)[tokens], atol=1e-6)


def test_a_temperature_flattens_and_zero_is_greedy() -> None:
    logits = np.tile(np.log([0.8, 0.2]), (4000, 1)).astype(np.float32)
    tokens, logprobs = pick(logits, SamplingOptions(temperature=2.0), rngs(4000))
    expected = np.sqrt([0.8, 0.2]) / np.sqrt([0.8, 0.2]).sum()
    assert np.allclose(np.bincount(tokens) / 4000, expected, atol=0.03)
    assert np.allclose(logprobs, np.log(expected)[tokens], atol=1e-6)
    tokens, logprobs = pick(logits, SamplingOptions(temperature=0.0), rngs(4000))
    assert not tokens.any()
    assert np.allclose(logprobs, np.log(0.8), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        (SamplingOptions(top_k=1), {0}),
        (SamplingOptions(top_k=2), {0, 1}),
        (SamplingOptions(top_p=0.4), {0}),
        (SamplingOptions(top_p=0.6), {0, 1}),
        (SamplingOptions(top_k=3, top_p=0.99), {0, 1, 2}),
    ],
)
def test_unlikely_tokens_are_left_out(options: SamplingOptions, allowed: set[int]) -> None:
    logits = np.tile(np.log([0.5, 0.3, 0.15, 0.05]), (500, 1)).astype(np.float32)
    tokens, _ = pick(logits, options, rngs(500))
    assert set(tokens.tolist()) == allowed


@pytest.mark.parametrize("changes", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}])
def test_senseless_options_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=next(iter(changes))):
        SamplingOptions(**changes)  # type: ignore[arg-type]


def test_temperature_zero_is_what_the_runtime_generates(runtime: Runtime) -> None:
    prefix = runtime.prefix(np.zeros((SIZE, SIZE, 3), np.uint8))
    tails = [runtime.tail(prompt, prefix) for prompt in PROMPTS]
    found = sample(
        runtime, tails, [prefix] * 3, 8, SamplingOptions(0.0), [[(0, i)] for i in (0, 1, 2)]
    )
    expected = runtime.generate(PROMPTS, [prefix] * 3, 8)
    for (drawn,), completion in zip(found, expected, strict=True):
        own = [token for token in drawn.token_ids if token not in runtime.chat.eos_ids]
        assert (tuple(own), drawn.finished) == (completion.token_ids, completion.finished)
        assert drawn.text == completion.text


def test_an_answer_depends_on_its_seed_alone(runtime: Runtime) -> None:
    prefix = runtime.prefix(None)
    tails = [runtime.tail(prompt, prefix) for prompt in PROMPTS]
    options, seeds = (
        SamplingOptions(),
        [[(3, row, number) for number in range(4)] for row in range(3)],
    )
    together = sample(runtime, tails, [prefix] * 3, 6, options, seeds)
    alone = sample(runtime, tails[1:2], [prefix], 6, options, [[seeds[1][2]]])
    assert together[1][2].token_ids == alone[0][0].token_ids
    assert len({drawn.token_ids for drawn in together[1]}) > 1


def test_logprobs_are_those_of_the_whole_sequence(runtime: Runtime) -> None:
    prefix = runtime.prefix(None)
    tail = runtime.tail(PROMPTS[0], prefix)
    ((drawn,),) = sample(runtime, [tail], [prefix], 6, SamplingOptions(0.7), [[(1,)]])
    logits = runtime.tail_logits([*tail, *drawn.token_ids], prefix)[len(tail) - 1 : -1] / 0.7
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chosen = expected[np.arange(len(drawn.token_ids)), list(drawn.token_ids)]
    assert np.allclose(chosen, drawn.logprobs, atol=1e-4)


def test_all_prompts_get_as_many_answers(runtime: Runtime) -> None:
    with pytest.raises(ValueError, match="one number of answers"):
        sample(runtime, [[1], [2]], [], 4, SamplingOptions(), [[(0,)], [(1,), (2,)]])
