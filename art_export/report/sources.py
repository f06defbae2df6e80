"""What the report is made from, after it was read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engines.picture import Picture, Pixels


@dataclass(frozen=True)
class Validation:
    """One line of metrics: exact answers as a share of 1, and mean loss in nats, after `step`."""

    step: int
    exact: float
    loss: float | None
    best: bool


@dataclass(frozen=True, eq=False)
class Run:
    """A finished training run.

    Attributes:
        name: of its folder.
        kind: what was trained: "picture", or the adapter it is compared with.
        facts: model, data and result as run.json has them.
        options, versions: as text, to be shown.
        score: of the best on validation, as a share of 1; `step` is when that was.
        controls: validation scores of pictures that nobody trained, by name.
        steps: (step, metrics by name) of every optimiser step.
        validations: in order.
        picture: art.png; None where an adapter is no picture.
        start: the first picture, uint8 (size, size, 3); None where no strip was written.
        strip: the development, uint8 (size, frames side by side, 3); None likewise.
    """

    name: str
    kind: str
    model: str
    task: str
    facts: Mapping[str, str]
    options: Mapping[str, str]
    versions: Mapping[str, str]
    score: float
    step: int
    seconds: float | None
    controls: Mapping[str, float]
    notes: tuple[str, ...]
    steps: tuple[tuple[int, Mapping[str, float]], ...]
    validations: tuple[Validation, ...]
    picture: Picture | None
    start: Pixels | None
    strip: Pixels | None


@dataclass(frozen=True)
class Check:
    """One line of verify's table; numbers are None where a check has none."""

    name: str
    passed: bool
    detail: str
    absolute: float | None
    relative: float | None
    allowed: float | None


@dataclass(frozen=True)
class Verified:
    """What `art-export verify --json` printed, about a bundle or a server."""

    name: str
    subject: str
    art: str | None
    base_model: str
    passed: bool
    checks: tuple[Check, ...]
    figures: Mapping[str, float]
    precision: str | None


@dataclass(frozen=True)
class Accuracy:
    """`correct` of `n` on a task's held-out examples; `low` to `high` is the 95 % interval."""

    way: str
    task: str
    correct: int
    n: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Spread:
    """A median of `n` samples, and their 10th and 90th percentiles."""

    median: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Method:
    """One way to put an adapter into use. Seconds, bytes, tokens a second; an empty mapping or None
    is what was not measured, and `reason` says why."""

    name: str
    measured: bool
    reason: str | None
    steps: tuple[tuple[str, Spread], ...]
    to_first_token: Mapping[str, Spread]
    adapter_bytes: float | None
    resident_bytes: float | None
    time_to_first_token: Spread | None
    decode: Spread | None
    throughput: Mapping[int, Spread]
    mixed: Mapping[int, Spread]
    accuracy: tuple[Accuracy, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Target:
    """What was wanted of a figure, and whether it was met."""

    name: str
    wanted: str
    value: float | None
    met: bool


@dataclass(frozen=True)
class Bench:
    """What `art-export bench` wrote."""

    name: str
    model: str
    engine: str
    precision: str
    threads: int
    repeats: int
    environment: Mapping[str, str]
    methods: tuple[Method, ...]
    ratios: Mapping[str, float]
    floors: Mapping[str, float]
    targets: tuple[Target, ...]


@dataclass(frozen=True)
class Sources:
    """Everything that was given, in the order it was given; `files` are (name, sha256)."""

    runs: tuple[Run, ...] = ()
    verified: tuple[Verified, ...] = ()
    benches: tuple[Bench, ...] = ()
    accuracies: tuple[Accuracy, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
