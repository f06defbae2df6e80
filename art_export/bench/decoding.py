"""What is timed of a loaded method, in the same way for all of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from art_export.bench.contender import Contender
from art_export.bench.settings import Settings
from engines.rows import Row

FIRST_TOKEN = "first token"
WARM_UP = 2
"""Steps of every loop that are not counted."""

Loop = tuple[Any, int]
"""A stepper and its rows."""


def measure(contender: Contender, adapters: Sequence[Path], settings: Settings) -> dict[str, Any]:
    """Samples of everything, in seconds; those of steps are of one pass over all rows."""
    contender.row(None, settings.prompt)  # threads and allocators are set up by a first request
    found: dict[str, Any] = {"deploys": [], "first": []}
    held: list[Any] = [None]
    if adapters:
        for count in range(settings.deploys):
            steps, latest = _deploy(contender, adapters[count % 2], settings.prompt)
            found["deploys"].append(steps)
        held = [contender.hold(adapter) for adapter in adapters[: settings.rows]] or [latest]
    for _ in range(settings.requests):
        began = time.perf_counter()
        contender.row(held[0], settings.prompt)
        found["first"].append(time.perf_counter() - began)
    again = [adapters[count % 2] for count in range(settings.requests if adapters else 0)]
    found["again"] = _held(contender, again, settings.prompt)
    shipped = [contender.ship(adapter) for adapter in adapters[: settings.requests]]
    found["shipped"] = _held(contender, [path for path in shipped if path], settings.prompt)
    rows = {index: contender.row(each, settings.prompt)[0] for index, each in enumerate(held)}
    plain = contender.row(None, settings.prompt)[0]
    pair = _alternately(
        [
            _loop(contender, [plain], [None], settings),
            _loop(contender, [rows[0]], [held[0]], settings),
        ],
        settings.steps,
    )
    found["decode plain"], found["decode"] = pair
    found["throughput"] = {
        str(batch): _steps(_loop(contender, [rows[0]] * batch, [held[0]] * batch, settings),
                           settings.steps)
        for batch in settings.batches
    }  # fmt: skip
    if len(held) >= settings.rows > 1:
        found |= _mixed(contender, rows, held, settings)
    return found


def _held(contender: Contender, adapters: Sequence[Path], prompt: str) -> list[float]:
    """Seconds to the first token with adapters for which nothing is to be computed."""
    times = []
    for adapter in adapters:
        began = time.perf_counter()
        contender.row(contender.hold(adapter), prompt)
        times.append(time.perf_counter() - began)
    return times


def _deploy(contender: Contender, adapter: Path, prompt: str) -> tuple[dict[str, float], Any]:
    steps, held = contender.deploy(adapter)
    began = time.perf_counter()
    _, logits = contender.row(held, prompt)
    int(logits.argmax())
    steps[FIRST_TOKEN] = time.perf_counter() - began
    return steps, held


def _mixed(
    contender: Contender, rows: dict[int, Row], held: Sequence[Any], settings: Settings
) -> dict[str, Any]:
    """Batches with several adapters, in one pass; and group by group, one adapter after another,
    where the method might have to."""
    mixed, grouped = {}, {}
    for count in settings.mixes:
        places = [index % count for index in range(settings.rows)]
        loop = _take(contender, rows, held, places, settings)
        mixed[str(count)] = _steps(loop, settings.steps)
        if contender.grouped and 1 < count <= settings.pair:
            grouped[str(count)] = _in_groups(contender, rows, held, count, settings)
    places = list(range(settings.pair))
    same, different = _alternately(
        [
            _take(contender, rows, held, [0] * settings.pair, settings),
            _take(contender, rows, held, places, settings),
        ],
        settings.steps,
    )
    return {"mixed": mixed, "grouped": grouped, "same": same, "different": different}


def _take(
    contender: Contender,
    rows: dict[int, Row],
    held: Sequence[Any],
    places: Sequence[int],
    settings: Settings,
) -> Loop:
    return _loop(contender, [rows[n] for n in places], [held[n] for n in places], settings)


def _in_groups(
    contender: Contender, rows: dict[int, Row], held: Sequence[Any], count: int, settings: Settings
) -> list[float]:
    """Seconds that one token for every row takes, the groups decoded one after another."""
    size = settings.rows // count
    total = np.zeros(settings.steps)
    for group in range(count):
        total += _steps(_take(contender, rows, held, [group] * size, settings), settings.steps)
    return [float(each) for each in total]


def _loop(
    contender: Contender, rows: Sequence[Row], held: Sequence[Any], settings: Settings
) -> Loop:
    return contender.stepper(rows, held, WARM_UP + settings.steps), len(rows)


def _steps(loop: Loop, count: int) -> list[float]:
    return _alternately([loop], count)[0]


def _alternately(loops: Sequence[Loop], count: int) -> list[list[float]]:
    """Seconds of `count` steps of each loop, the loops taking turns step by step."""
    times: list[list[float]] = [[] for _ in loops]
    for number in range(WARM_UP + count):
        for place, (stepper, rows) in enumerate(loops):
            tokens = np.full(rows, number, np.int64)
            began = time.perf_counter()
            stepper.step(tokens)
            if number >= WARM_UP:
                times[place].append(time.perf_counter() - began)
    return times
