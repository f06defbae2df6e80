"""Ratios between methods of one run, and the goals that they are held to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from art_export.bench.assemble import Found
from art_export.bench.results import MethodResult, Target

MERGE = "file to first token: lora-merge / art in a warm process"
MERGE_COLD = "file to first token: lora-merge / art in a cold process"
RUNTIME = "file to first token: art / lora-runtime, in a warm process"
STORED = "file to first token: stored picture / lora-runtime, in a warm process"
SHIPPED = "file to first token: picture prepared elsewhere / lora-runtime, in a warm process"
DECODE = "decode step: with a picture / plain model"
RESERVED = "decode step: room for LoRA, no adapter / plain model"
ADAPTED = "decode step: lora-runtime / plain model"
PROMPTED = "decode step: soft-prompt / plain model"
MIXED = "decode step, 16 rows: 16 different pictures / the same one"
MIXED_LORA = "decode step, 16 rows: 16 different LoRA / the same one"
MEGABYTE = 1e6
FASTER = 100
AT_MOST = {RUNTIME: 1.0, SHIPPED: 1.0, DECODE: 1.02, MIXED: 1.05}
"""Ratio -> the most that it should be."""


def ratios_of(found: Mapping[str, Found], methods: Mapping[str, MethodResult]) -> dict[str, float]:
    """Ratios of medians, as far as both sides were measured."""
    pairs = dict(_pairs(found, methods))
    return {name: above / below for name, (above, below) in pairs.items()}


def targets_of(
    ratios: Mapping[str, float], methods: Mapping[str, MethodResult]
) -> tuple[Target, ...]:
    """The goals whose figures were measured."""
    made = []
    if MERGE in ratios:
        made.append(Target(MERGE, f"at least {FASTER}", ratios[MERGE], ratios[MERGE] >= FASTER))
    for name, most in AT_MOST.items():
        if name in ratios:
            made.append(Target(name, f"at most {most:g}", ratios[name], ratios[name] <= most))
    memory = methods["art"].resident_bytes_per_adapter if "art" in methods else None
    if memory is not None:
        amount = memory / MEGABYTE
        name = "resident memory per further picture, MB"
        made.append(Target(name, "below 3", amount, amount < 3))
    return tuple(made)


def _pairs(
    found: Mapping[str, Found], methods: Mapping[str, MethodResult]
) -> Iterator[tuple[str, tuple[float, float]]]:
    art, merged, lora = (found.get(name) for name in ("art", "lora-merge", "lora-runtime"))
    if art is None or not art.turns:
        return
    swapped = methods["art"].to_first_token
    if merged is not None and merged.turns:
        built = methods["lora-merge"].to_first_token["cold process"].median
        yield MERGE, (built, swapped["warm process"].median)
        yield MERGE_COLD, (built, swapped["cold process"].median)
    yield DECODE, _medians(art.pooled("decode"), art.pooled("decode plain"))
    if art.pooled("different"):
        yield MIXED, _medians(art.pooled("different"), art.pooled("same"))
    prompted = found.get("soft-prompt")
    if prompted is not None and prompted.turns:
        yield PROMPTED, _medians(prompted.pooled("decode"), prompted.pooled("decode plain"))
    if lora is not None and lora.turns:
        fed = methods["lora-runtime"].to_first_token["warm process"].median
        yield RUNTIME, (swapped["warm process"].median, fed)
        yield STORED, (float(np.median(art.pooled("again"))), fed)
        if art.pooled("shipped"):
            yield SHIPPED, (float(np.median(art.pooled("shipped"))), fed)
        plain = art.pooled("decode plain")
        yield RESERVED, _medians(lora.pooled("decode plain"), plain)
        yield ADAPTED, _medians(lora.pooled("decode"), plain)
        if lora.pooled("different"):
            yield MIXED_LORA, _medians(lora.pooled("different"), lora.pooled("same"))


def _medians(above: list[float], below: list[float]) -> tuple[float, float]:
    return float(np.median(above)), float(np.median(below))
