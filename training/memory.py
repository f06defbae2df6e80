"""Less memory and time for a step: bf16 arithmetic, and activations computed twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from engines.families.parts import Parts, State, Vision


def lighten(parts: Parts, *, bf16: bool = False, recompute: bool = False) -> Parts:
    """The same frozen model for training steps.

    Args:
        bf16: multiply matrices in bfloat16 (torch.autocast); logits and visual tokens come out
            in fp32. The picture and its optimiser stay in fp32.
        recompute: keep only the inputs of the decoder's layers for the backward pass (gradient
            checkpointing; Chen et al., arXiv 1604.06174). Changes `parts` too, which without
            gradients makes no difference.
    """
    if recompute:
        for layer in parts.decoder.layers:  # type: ignore[union-attr]
            _recompute(layer)
    if not bf16:
        return parts
    return replace(parts, vision=_Bf16Vision(parts.vision), decoder=_Bf16Decoder(parts.decoder))


class _Bf16Vision(Vision):
    """The vision part under autocast."""

    def __init__(self, part: Vision) -> None:
        super().__init__()
        self.part = part

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(pixels.device.type, torch.bfloat16):
            tokens: torch.Tensor = self.part(pixels)
        return tokens.float()


class _Bf16Decoder(nn.Module):
    """The decoder under autocast; its state is in whatever it computes it in."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    @property
    def layers(self) -> nn.ModuleList:
        """The layers, for whoever asks whether they are loaded for each use."""
        return self.part.layers  # type: ignore[return-value]

    def forward(self, embeds: torch.Tensor, *others: Any) -> tuple[torch.Tensor, State]:
        with torch.autocast(embeds.device.type, torch.bfloat16):
            logits, state = self.part(embeds, *others)
        return logits.float(), state


def _recompute(layer: nn.Module) -> None:
    forward = layer.forward

    def again(*inputs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs)
        # A layer whose weights were loaded for this use has to end, to let go of them.
        whole = hasattr(layer, "_hf_hook")
        return checkpoint(forward, *inputs, use_reentrant=False, early_stop=not whole)

    layer.forward = again
