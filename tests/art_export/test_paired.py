"""McNemar's exact test against scipy's binomial test, and the pairing by ids."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from art_export.paired import mcnemar, mcnemar_by_id
from engines.errors import OptionError

PAIRS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200)


# scipy is imported by the first example.
@settings(deadline=None)
@given(PAIRS)
def test_as_the_binomial_test(pairs: list[tuple[bool, bool]]) -> None:
    stats = pytest.importorskip("scipy.stats")
    first, second = [one for one, _ in pairs], [other for _, other in pairs]
    found = mcnemar(first, second)
    assert found.b == pairs.count((True, False))
    assert found.c == pairs.count((False, True))
    discordant = found.b + found.c
    expected = stats.binomtest(found.b, discordant).pvalue if discordant else 1.0
    assert found.p_value == pytest.approx(expected, rel=1e-9)
    assert found.difference == pytest.approx((sum(first) - sum(second)) / len(pairs))


def test_a_value_worked_out_by_hand() -> None:
    # 1 against 7 of 8: 2 * (1 + 8) / 256.
    found = mcnemar([True] + [False] * 7 + [True], [False] + [True] * 7 + [True])
    assert (found.n, found.b, found.c) == (9, 1, 7)
    assert found.p_value == 2 * 9 / 256


def test_thousands_of_examples_fit() -> None:
    assert (
        0 < mcnemar([True] * 1600 + [False] * 1400, [False] * 1600 + [True] * 1400).p_value < 1e-3
    )


@given(PAIRS)
def test_ids_pair_whatever_the_order(pairs: list[tuple[bool, bool]]) -> None:
    first = {str(i): one for i, (one, _) in enumerate(pairs)}
    second = {str(i): other for i, (_, other) in reversed(list(enumerate(pairs)))}
    assert mcnemar_by_id(first, second) == mcnemar(
        [one for one, _ in pairs], [other for _, other in pairs]
    )


def test_other_examples_are_refused() -> None:
    with pytest.raises(OptionError, match="only one side has, such as b"):
        mcnemar_by_id({"a": True, "b": True}, {"a": True})
    with pytest.raises(OptionError, match="2 and 1 examples"):
        mcnemar([True, True], [True])
    with pytest.raises(OptionError, match="0 and 0"):
        mcnemar([], [])
