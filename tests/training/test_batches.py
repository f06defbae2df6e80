from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from training.batches import (
    IGNORE,
    Lazy,
    Row,
    batch_indices,
    collate,
    epoch_order,
)


def test_only_answer_tokens_are_targets_and_early_logits_are_not_kept() -> None:
    batch = collate([Row((1, 2, 3, 4, 5), 3), Row((6, 7, 8), 2)])
    assert batch.input_ids.tolist() == [[1, 2, 3, 4], [6, 7, 0, 0]]
    assert batch.keep == 3
    assert batch.targets.tolist() == [[IGNORE, 4, 5], [8, IGNORE, IGNORE]]


rows = st.lists(st.integers(1, 99), min_size=2, max_size=12).flatmap(
    lambda ids: st.integers(1, len(ids) - 1).map(lambda start: Row(tuple(ids), start))
)


@given(st.lists(rows, min_size=1, max_size=6))
def test_every_answer_token_follows_its_input(given_rows: list[Row]) -> None:
    batch = collate(given_rows)
    length = batch.input_ids.shape[1]
    for index, row in enumerate(given_rows):
        found = [
            (length - batch.keep + place, token)
            for place, token in enumerate(batch.targets[index].tolist())
            if token != IGNORE
        ]
        assert [token for _, token in found] == list(row.ids[row.start :])
        for place, token in found:
            assert row.ids[place + 1] == token
            assert batch.input_ids[index, place] == row.ids[place]


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 5))
def test_an_epoch_uses_every_example_once(count: int, size: int, seed: int) -> None:
    stream = [i for step in range(count) for i in batch_indices(count, size, seed, step)]
    for first in range(0, count * size, count):
        assert sorted(stream[first : first + count]) == list(range(count))


def test_batches_depend_on_seed_and_step_alone() -> None:
    assert batch_indices(100, 8, 1, 30) == batch_indices(100, 8, 1, 30)
    assert batch_indices(100, 8, 1, 30) != batch_indices(100, 8, 2, 30)
    assert batch_indices(100, 8, 1, 30) != batch_indices(100, 8, 1, 31)


def test_lazy_values_do_not_depend_on_what_was_asked_before() -> None:
    def table(made: list[tuple[int, ...]]) -> Lazy[tuple[int, ...]]:
        def make(group: Sequence[int]) -> list[tuple[int, ...]]:
            made.append(tuple(group))
            return [tuple(group)] * len(group)

        return Lazy(10, seed=3, size=4, make=make)

    forwards, backwards = list[tuple[int, ...]](), list[tuple[int, ...]]()
    one, two = table(forwards), table(backwards)
    assert [one[i] for i in range(10)] == [two[i] for i in reversed(range(10))][::-1]
    assert sorted(forwards) == sorted(backwards)
    assert sorted(map(len, forwards)) == [2, 4, 4]
    # The first batches of the first epoch need the first group alone.
    early = list[tuple[int, ...]]()
    values = table(early)
    assert [values[i] for i in batch_indices(10, 2, 3, 0) + batch_indices(10, 2, 3, 1)]
    assert early == [tuple(epoch_order(10, 3, 0)[:4])]
    assert len(values) == 10


def test_places_are_those_of_the_answer_tokens() -> None:
    batch = collate([Row((1, 2, 3, 4, 5), 3), Row((6, 7, 8), 2)])
    assert batch.places.tolist() == [2, 3, 4 + 1]
    assert batch.targets[batch.wanted].tolist() == [4, 5, 8]
