from __future__ import annotations

import pytest

from engines.errors import OptionError
from training.objectives import OBJECTIVES, load_objective


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_name_in_the_table_leads_to_a_function(name: str) -> None:
    assert callable(load_objective(name))


def test_an_unknown_objective_is_answered_with_the_nearest() -> None:
    with pytest.raises(OptionError, match="did you mean 'sft'"):
        load_objective("stf")
