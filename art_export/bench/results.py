"""What a benchmark finds, and its form as JSON (schema 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from art_export.evaluate import Score

SCHEMA = 1
MEASURED, NOT_MEASURED = "measured", "not measured"
LOW, HIGH = 10, 90
"""Percentiles that a summary's `low` and `high` are."""


@dataclass(frozen=True)
class Summary:
    """Of `n` samples: the median and the percentiles LOW and HIGH, in the samples' own unit."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Summary:
        low, median, high = np.percentile(samples, [LOW, 50, HIGH])
        return cls(float(median), float(low), float(high), len(samples))


@dataclass(frozen=True)
class Step:
    """One step on the way from an adapter's file to the first token, in seconds."""

    name: str
    seconds: Summary


@dataclass(frozen=True)
class MethodResult:
    """One way to adapt the model.

    steps: from file to first token, in order, in a process that is already loaded, or in all the
    processes that the way needs. to_first_token: seconds by where it happens ("cold process",
    "warm process", "running server"). adapter_bytes: of the files that are shipped.
    resident_bytes_per_adapter: growth of the process's resident memory with each further adapter.
    time_to_first_token: seconds of a request whose adapter is loaded. decode_tokens_per_second: of
    one row. throughput, mixed: decoded tokens a second by rows, and by different adapters among the
    rows of the largest batch. accuracy: by task.
    """

    status: str
    reason: str | None = None
    steps: tuple[Step, ...] = ()
    to_first_token: Mapping[str, Summary] = field(default_factory=dict)
    adapter_bytes: int | None = None
    resident_bytes_per_adapter: float | None = None
    time_to_first_token: Summary | None = None
    decode_tokens_per_second: Summary | None = None
    throughput: Mapping[str, Summary] = field(default_factory=dict)
    mixed: Mapping[str, Summary] = field(default_factory=dict)
    accuracy: Mapping[str, Score] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def not_measured(cls, reason: str) -> MethodResult:
        return cls(NOT_MEASURED, reason)

    @property
    def measured(self) -> bool:
        return self.status == MEASURED


@dataclass(frozen=True)
class Target:
    """A goal with what was found; met or not."""

    name: str
    wanted: str
    value: float
    met: bool


@dataclass(frozen=True)
class BenchResult:
    """Everything that one run found."""

    model: str
    engine: str
    precision: str
    threads: int
    environment: Mapping[str, Any]
    repeats: int
    methods: Mapping[str, MethodResult]
    ratios: Mapping[str, float]
    floors: Mapping[str, float]
    targets: tuple[Target, ...]

    def record(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {"kind": "bench", "schema": SCHEMA, **asdict(self)}
