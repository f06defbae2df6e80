"""The ways to adapt the model that are compared, and how each is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["none", "prompt", "noise", "art", "soft-prompt", "lora"]
TRAINED: tuple[Kind, ...] = ("art", "soft-prompt", "lora")


@dataclass(frozen=True)
class Recipe:
    """One row of the table.

    kind: what is put before or into the model; `prompt` is `shots` examples of the training split
    as earlier turns. rates: learning rates to choose from by validation at seed 0; the first is
    what is taken unless a search is asked for. epsilon: a ball round an artwork, None for a free
    picture. size: pixels a side, None for the tower's own. tower: another one than the model's, see
    `Place.under`. after: the row whose result it starts
    from. objective, settings: as `art-export train` takes them; `teacher` puts the file of the
    `prompt` row's turns among the settings.
    """

    kind: Kind
    rates: tuple[float, ...] = (0.1,)
    steps: int = 80
    batch_size: int = 4
    shots: int = 0
    rank: int = 8
    tokens: int = 64
    epsilon: str | None = None
    size: int | None = None
    tower: str | None = None
    after: str | None = None
    objective: str = "sft"
    teacher: bool = False
    settings: Mapping[str, str | int | float] = field(default_factory=dict)

    @property
    def trained(self) -> bool:
        """Whether there is anything to train."""
        return self.kind in TRAINED


RATES = (0.1, 0.3, 0.05)
BALL = (2 / 255, 1 / 255, 4 / 255)
LORA = (2e-3, 5e-4, 4e-3)
METHODS: dict[str, Recipe] = {
    "base": Recipe("none"),
    "two-shot": Recipe("prompt", shots=2),
    "noise": Recipe("noise"),
    "art": Recipe("art", RATES),
    "lora-8": Recipe("lora", LORA),
    "lora-16": Recipe("lora", LORA, rank=16),
    "soft-prompt": Recipe("soft-prompt", (0.03, 0.1, 0.01)),
    "art-32": Recipe("art", BALL, epsilon="32/255"),
}
"""In the order in which they are measured."""
LONG = 320
REMEDIES: dict[str, Recipe] = {
    "art-320": Recipe("art", RATES, steps=LONG),
    "lora-8-320": Recipe("lora", LORA, steps=LONG),
    "art-sign": Recipe("art", BALL, epsilon="255/255"),
    "art-longer": Recipe("art", (0.05, 0.03), after="art"),
    "art-random-tower": Recipe("art", RATES, tower="random"),
    "art-144": Recipe("art", RATES, size=384),
    "art-distilled": Recipe("art", RATES, objective="distill", teacher=True),
    "art-distilled-sft": Recipe("art", (0.05, 0.1), after="art-distilled"),
    "art-grpo": Recipe(
        "art", (0.02, 0.05), steps=12, after="art", objective="grpo", settings={"group": 8}
    ),
}
"""What may bring a picture nearer to LoRA, and LoRA itself with as many steps; reported whatever
they give."""
ROWS = {**METHODS, **REMEDIES}
