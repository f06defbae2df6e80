"""Objectives by name; the loop knows none of them.

Add one here, install one under the entry point group `art_export.objectives`, or name one's own
with `--objective module:callable` or `--objective path/to/file.py:callable`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engines.errors import OptionError
from training.objectives.base import Loss, Material, Objective
from training.objectives.supervised import Supervised
from training.plugins import load_callable

__all__ = [
    "OBJECTIVES",
    "Loss",
    "Material",
    "Objective",
    "Supervised",
    "load_objective",
    "make_objective",
]

OBJECTIVES = {
    "distill": "training.objectives.distill:Distill",
    "dpo": "training.objectives.dpo:Dpo",
    "grpo": "training.objectives.grpo:Grpo",
    "sft": "training.objectives.sft:loss",
}
"""name -> "module:callable"."""
GROUP = "art_export.objectives"


def load_objective(name: str) -> Callable[..., Any]:
    """The function or class called `name`; OptionError if there is none that can be loaded."""
    return load_callable("objective", name, OBJECTIVES, GROUP)


def make_objective(found: Callable[..., Any], material: Material) -> Objective:
    """What `load_objective` found, for one run: a class is made from `material`, a function is
    taken for a loss on the answers in the data.

    Raises:
        UserError: the settings or the data do not suit it.
    """
    if isinstance(found, type):
        made: Objective = found(material)
        return made
    if material.settings:
        raise OptionError(
            got=f"the setting {', '.join(material.settings)}",
            expected="none: this objective is a function of the policy and the batch",
            fix="leave it out, or choose the objective that it belongs to",
        )
    return Supervised.of(found, material)
