"""Verifiable rewards: (completion, reference answer) -> 0..1, computed, never judged by a model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from training.plugins import load_callable
from training.tasks.math import final_number

if TYPE_CHECKING:
    from training.data import Source

Reward = Callable[[str, str], float]

REWARDS = {
    "exact": "training.rewards:exact",
    "number": "training.rewards:number",
    "tool": "training.rewards:tool",
}
"""name -> "module:callable"."""
PARSED, NAMED, ARGUMENTS = 0.1, 0.2, 0.6
"""Parts of the reward for a tool call; what is missing to 1 is for nothing beside the call."""
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def load_reward(name: str | None, source: Source) -> Reward:
    """The reward called `name`, or the one that suits the task.

    Raises:
        OptionError: there is none of that name that can be loaded.
    """
    own = getattr(source, "reward", "exact")
    if name is None and callable(own):
        return cast(Reward, own)
    return cast(Reward, load_callable("reward", name or str(own), REWARDS))


def exact(completion: str, reference: str) -> float:
    """1 for the reference's text, outer white space aside, else 0."""
    return float(completion.strip() == reference.strip())


def number(completion: str, reference: str) -> float:
    """The reward of ART's released evaluation (arXiv 2606.11854): for the number after the last
    `Answer:`, 1 if right, 0.4 within 1 %, 0.2 within 10 %, 0.1 otherwise; 0.01 for any number
    elsewhere; else 0."""
    found, wanted = final_number(completion), final_number(reference)
    if found is None:
        return 0.01 if _NUMBER.search(completion) else 0.0
    if wanted is None:
        return 0.1
    if found == wanted:
        return 1.0
    distance = abs(found - wanted) / max(abs(wanted), 1e-9)
    return 0.4 if distance <= 0.01 else 0.2 if distance <= 0.1 else 0.1


def tool(completion: str, reference: str) -> float:
    """A call {"name": ..., "arguments": {...}}, by its parts: 0.1 if the whole completion is a
    JSON object, 0.2 for the name, 0.6 by the share of arguments that are right, and the rest if
    there is nothing beside them. Arguments count under the right name alone."""
    found, wanted = _object(completion), _object(reference)
    if found is None or wanted is None:
        return 0.0
    if found == wanted:
        return 1.0
    if found.get("name") != wanted.get("name"):
        return PARSED
    return PARSED + NAMED + ARGUMENTS * _share(found.get("arguments"), wanted.get("arguments"))


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _share(found: object, wanted: object) -> float:
    """Of the wanted arguments, how many are there with their value."""
    if not isinstance(found, dict) or not isinstance(wanted, dict) or not wanted:
        return 1.0 if found == wanted else 0.0
    missing = object()
    right: list[bool] = [found.get(key, missing) == value for key, value in wanted.items()]
    return sum(right) / len(wanted)
