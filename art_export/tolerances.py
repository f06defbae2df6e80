"""How far a compiled bundle may be from PyTorch's fp32, by precision."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerances:
    """What `verify` allows.

    features, logits: largest absolute difference; None is reported and not judged, since a weight
    in 8 bits has no exact counterpart to be compared with.
    top1: least share of positions at which the likeliest token is PyTorch's.
    answers: least share of greedy answers that are PyTorch's to the last token.
    accuracy: most that a task's accuracy may fall behind PyTorch's; in fp32 nothing may differ.
    """

    features: float | None
    logits: float | None
    top1: float
    answers: float
    accuracy: float


STATE = 1e-3
"""Largest absolute difference between a stored state, or the logits after it, and one that the same
engine computes now, in any precision."""
EXACT = Tolerances(features=1e-3, logits=1e-3, top1=1.0, answers=1.0, accuracy=0.0)
BY_PRECISION = {
    "fp32": EXACT,
    "fp16": Tolerances(None, None, top1=0.99, answers=0.0, accuracy=0.02),
    "bf16": Tolerances(None, None, top1=0.95, answers=0.0, accuracy=0.02),
    "int8": Tolerances(None, None, top1=0.95, answers=0.0, accuracy=0.02),
    "int4": Tolerances(None, None, top1=0.0, answers=0.0, accuracy=0.02),
}
"""A precision without an entry is held to fp32's."""


def tolerances_of(precision: str) -> Tolerances:
    """What is allowed for `precision`."""
    return BY_PRECISION.get(precision, EXACT)
