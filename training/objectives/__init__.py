"""Objectives by name. An objective turns a policy and a batch into a loss.

The loop knows none of them: add one here and `--objective NAME` finds it.
"""

from __future__ import annotations

import importlib
from typing import cast

from engines.names import choose
from training.policy import Objective

OBJECTIVES = {"sft": "training.objectives.sft:loss"}
"""name -> "module:function"."""


def load_objective(name: str) -> Objective:
    """The objective called `name`; OptionError, with the nearest name, if there is none."""
    module, function = OBJECTIVES[choose("objective", name, OBJECTIVES)].split(":")
    return cast(Objective, getattr(importlib.import_module(module), function))
