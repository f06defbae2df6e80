from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from math import log
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from engines.errors import DataError, OptionError
from tests.training.objectives.conftest import grey_policy, material_of, metrics
from training.encoding import text_alone
from training.objectives.dpo import Dpo
from training.options import TrainOptions
from training.policy import Policy, text_policy
from training.run import train
from training.tasks import Example

Check = Callable[[TrainOptions], None]


@pytest.fixture
def preferring(options: TrainOptions, tmp_path: Path) -> TrainOptions:
    path = tmp_path / "pairs.jsonl"
    lines = [
        {"prompt": f"How many are {n} and {n}?", "chosen": f"Answer: {2 * n}", "rejected": "many"}
        for n in range(24)
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return replace(options, task=str(path), objective="dpo")


def logprob(policy: Policy, ids: list[int], answer: list[int]) -> torch.Tensor:
    """Of one whole answer, computed the long way."""
    logits = policy(torch.tensor([[*ids, *answer[:-1]]]), len(answer))[0]
    return logits.log_softmax(-1)[range(len(answer)), answer].sum()


def test_the_loss_is_that_of_the_paper(preferring: TrainOptions) -> None:
    objective = Dpo(material_of(preferring, beta="0.5"))
    setup = objective.material.setup
    policy, reference = grey_policy(setup), text_policy(setup.parts)
    pairs = objective.batch(policy, 0)
    expected = []
    for pair in pairs:
        example = next(
            e
            for e in setup.data.train
            if tuple(setup.chat.tail_ids(e.prompt)) == pair.chosen.ids[: pair.chosen.start]
        )
        tail, full = setup.chat.tail_ids(example.prompt), setup.chat.full_ids(example.prompt)
        gains = []
        for text in (example.answer, example.rejected or ""):
            answer = setup.chat.answer_ids(text)
            gains.append(logprob(policy, tail, answer) - logprob(reference, full, answer))
        expected.append(-F.logsigmoid(0.5 * (gains[0] - gains[1])))
    found = objective.loss(policy, pairs)
    assert torch.allclose(found.value, torch.stack(expected).mean(), atol=1e-4)
    assert found.metrics["preferred"] == pytest.approx(
        sum(float(value.detach()) < log(2) for value in expected) / len(expected)
    )


def test_without_a_picture_there_is_no_preference(preferring: TrainOptions) -> None:
    objective = Dpo(replace(material_of(preferring), form=text_alone, prefix=0))
    bare = text_policy(objective.material.setup.parts)
    loss = objective.loss(bare, objective.batch(bare, 0)).value
    assert float(loss) == pytest.approx(log(2), abs=1e-5)


def test_the_picture_learns_to_prefer(preferring: TrainOptions) -> None:
    result = train(replace(preferring, steps=15, lr=1.0, batch_size=12, settings={"beta": 0.5}))
    start = metrics(result.out)[0]["validation"]["loss"]
    assert result.loss < start
    losses = [line["loss"] for line in metrics(result.out) if "loss" in line]
    assert losses[-1] < losses[0]


def test_an_interrupted_run_goes_on_bit_for_bit(
    preferring: TrainOptions, check_resumed: Check
) -> None:
    check_resumed(preferring)


def test_no_weight_changes(preferring: TrainOptions, check_frozen: Check) -> None:
    check_frozen(replace(preferring, steps=2))


def test_data_without_pairs_is_refused(options: TrainOptions) -> None:
    with pytest.raises(DataError, match="rejected"):
        train(replace(options, objective="dpo"))
    assert not options.out.exists()


def test_beta_is_positive(preferring: TrainOptions) -> None:
    with pytest.raises(OptionError, match="beta = 0"):
        train(replace(preferring, settings={"beta": 0}))


def test_pairs_change_the_hash_of_the_data_and_nothing_else_does() -> None:
    from training.data import data_hash

    plain, paired = Example("p", "a", "c"), Example("p", "a", "c", "worse")
    assert data_hash([plain]) != data_hash([paired])
