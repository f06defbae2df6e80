"""LoRA on the same data, batches, seed and loop as a picture: what it is compared with.

Low-rank adapters (Hu et al., arXiv 2106.09685) by peft on every linear layer of the language
model. The fair field: the adapter is merged into the weights, and the result is exported and built
like any other model (`engines.lora`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import peft

from engines.families import load_parts
from engines.families.parts import Parts
from engines.lora import check_effect, linear_layers, merge, save_merged
from training.baselines.adapter import AdapterLearner, train_adapter
from training.options import AdapterResult, LoraOptions, Progress
from training.policy import Policy, text_policy
from training.reporters import Reporter
from training.setup import Setup

__all__ = ["LoraOptions", "merge", "save_merged", "train_lora"]


def train_lora(
    options: LoraOptions,
    progress: Progress | None = None,
    reporters: Sequence[Reporter] = (),
) -> AdapterResult:
    """As `train_adapter`; CheckFailed besides when some layer's adapter has no effect."""
    return train_adapter(options, LoraLearner, progress, reporters)


class LoraLearner(AdapterLearner):
    """An adapter in every linear layer of the language model."""

    kind: ClassVar[str] = "lora"

    def __init__(self, setup: Setup, options: LoraOptions) -> None:
        config = peft.LoraConfig(
            r=options.rank,
            lora_alpha=2 * options.rank if options.alpha is None else options.alpha,
            lora_dropout=0.0,
            target_modules=linear_layers(setup.model),
            base_model_name_or_path=setup.source.name,
        )
        super().__init__(setup, options, config)

    def parts_of(self, setup: Setup) -> Parts:
        return load_parts(setup.model, setup.parts.picture_size)

    def check(self) -> None:
        check_effect(self.model)

    def policy(self, step: int) -> Policy:
        return text_policy(self.light)

    def candidate(self, step: int) -> Policy:
        return text_policy(self.parts)
