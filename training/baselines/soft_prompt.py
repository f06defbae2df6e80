"""A soft prompt on the same data, batches, seed and loop as a picture: its nearest relative.

Prompt tuning (Lester et al., arXiv 2104.08691) by peft: vectors in the place of the embeddings of
words, before the whole chat. As free as vectors can be, where a picture has to pass through the
vision tower; but an engine takes them only where its embeddings are an input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import peft
import torch
from torch.nn import functional as F

from engines.families.parts import Parts
from training.baselines.adapter import AdapterLearner, train_adapter
from training.options import AdapterResult, Progress, SoftPromptOptions
from training.policy import Policy, PrefixPolicy, no_logits
from training.reporters import Reporter
from training.setup import Setup

__all__ = ["SoftPromptOptions", "train_soft_prompt"]


def train_soft_prompt(
    options: SoftPromptOptions,
    progress: Progress | None = None,
    reporters: Sequence[Reporter] = (),
) -> AdapterResult:
    """As `train_adapter`."""
    return train_adapter(options, SoftPromptLearner, progress, reporters)


class SoftPromptLearner(AdapterLearner):
    """Vectors before the chat, run once a step for the whole batch, as a picture is."""

    kind: ClassVar[str] = "soft-prompt"

    def __init__(self, setup: Setup, options: SoftPromptOptions) -> None:
        config = peft.PromptTuningConfig(
            task_type=peft.TaskType.CAUSAL_LM,
            num_virtual_tokens=options.tokens,
            prompt_tuning_init=options.init,
            prompt_tuning_init_text=options.init_text,
            tokenizer_name_or_path=str(setup.source.path) if options.init == "TEXT" else None,
            base_model_name_or_path=setup.source.name,
        )
        super().__init__(setup, options, config)

    def policy(self, step: int) -> Policy:
        self._whole = vectors_policy(self.light, self.vectors())
        self._cut = self._whole.cut()
        return self._cut

    def collect(self) -> dict[str, float]:
        self._whole.flow(self._cut)
        return super().collect()

    def candidate(self, step: int) -> Policy:
        return vectors_policy(self.parts, self.vectors())

    def vectors(self) -> torch.Tensor:
        """(tokens, hidden), differentiable."""
        vectors: torch.Tensor = self.model.get_prompt(1)[0]
        return vectors


def vectors_policy(parts: Parts, vectors: torch.Tensor) -> PrefixPolicy:
    """The model after vectors (n, hidden) at the positions 0, 1, ..., as peft puts them.

    They run here, once, at batch 1. With DeepStack a row is wider, and what follows is zeros, as
    for text.
    """
    empty = parts.empty_state(1)
    device, count = vectors.device, len(vectors)
    width = parts.embed(torch.zeros(1, 1, dtype=torch.long, device=device)).shape[-1]
    rows = F.pad(vectors, (0, width - vectors.shape[-1]))[None].to(empty[0].dtype)
    positions = torch.arange(count, device=device).expand(3, 1, count)
    _, state = parts.decoder(rows, None, positions, empty, 1, no_logits)
    return PrefixPolicy(parts, tuple(state), count)
