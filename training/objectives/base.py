"""What an objective is: the one seam between the loop and what is optimised.

Most are a function (policy, batch) -> loss, see `training.objectives.supervised`. One that needs
more, other rows, a second policy, rollouts, is a class made from `Material`.

A resumed run repeats every step bit for bit: whatever a loss depends on must follow from the seed,
the step and `state` alone. Draw from generators seeded with them, never from a shared one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar, get_type_hints

import torch

from engines.errors import OptionError
from engines.names import choose
from training.batches import Row
from training.encoding import Encode, after_picture, encode
from training.policy import Policy
from training.scoring import Score
from training.tasks import Example

if TYPE_CHECKING:
    from training.setup import Setup

Setting = str | int | float
Settings = TypeVar("Settings")


class Loss(NamedTuple):
    """`value`: without shape, differentiable in what the policy was built from.
    `metrics`: what to log beside it."""

    value: torch.Tensor
    metrics: Mapping[str, float] = {}


@dataclass(frozen=True)
class Material:
    """What an objective has to work with.

    form: how an example becomes a row of tokens. prefix: tokens that stand before every row.
    batch_size: examples a step. settings: the objective's own options, as they were given.
    """

    setup: Setup
    batch_size: int
    seed: int
    form: Encode = after_picture
    prefix: int = 0
    settings: Mapping[str, Setting] = field(default_factory=dict)

    def rows(self, examples: Sequence[Example]) -> list[Row]:
        """The examples as tokens, in order; PromptError if one does not fit the model."""
        room = self.setup.chat.max_length - self.prefix
        return encode(self.setup.chat, examples, self.form, room)


class Objective(ABC):
    """What a run optimises and how it is scored; one is made for every run.

    notes: what the user should be told of the data. needs_picture: whether it works on a picture
    alone, and not on an adapter of the weights. same_view: for how many steps, from 0 on, the
    picture has to be distorted alike, since they compare what the model says under it.
    """

    notes: tuple[str, ...] = ()
    same_view: int = 1
    needs_picture: ClassVar[bool] = True

    @abstractmethod
    def batch(self, policy: Policy, step: int) -> Sequence[Any]:
        """What the step (from 0) is about. The loop cuts it into `--accumulate` parts."""

    @abstractmethod
    def loss(self, policy: Policy, part: Sequence[Any]) -> Loss:
        """The loss of a part of the batch."""

    @abstractmethod
    def score(self, policy: Policy) -> Score:
        """How good `policy` is on the validation examples; by this the best is kept."""

    def weight(self, part: Sequence[Any]) -> float:
        """Over how much `loss` is a mean: parts count in proportion to it."""
        return len(part)

    def report(self, policy: Policy) -> dict[str, Any]:
        """What to measure once, at the end, on the best; for the record."""
        return {}

    def facts(self) -> dict[str, Any]:
        """What it depends on beside the options, as JSON has it: recorded, and the same when a
        run is resumed."""
        return {}

    def state(self) -> dict[str, Any]:
        """Whatever later steps depend on beside the seed and the step; tensors and plain values."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:  # noqa: B027 - most have no state
        """Go on from `state`."""

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Release engines and the like."""


def parse_settings(kind: type[Settings], given: Mapping[str, Setting]) -> Settings:
    """The dataclass `kind` from names and values as typed; numbers may be text.

    Raises:
        OptionError: a name is unknown (with "did you mean"), or a value is of the wrong type.
    """
    types = get_type_hints(kind)
    known = [item.name for item in fields(kind)]  # type: ignore[arg-type]
    names = {choose("setting", name, known): value for name, value in given.items()}
    return kind(**{name: _as(types[name], name, value) for name, value in names.items()})


def _as(wanted: Any, name: str, value: Setting) -> Setting:
    kind = next((kind for kind in (int, float) if wanted in (kind, kind | None)), str)
    try:
        return kind(value)
    except ValueError as error:
        raise OptionError(
            got=f"{name} = {value!r}",
            expected="a whole number" if kind is int else "a number",
            fix=f"give another {name}",
        ) from error
