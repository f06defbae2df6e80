"""What a process of a benchmark does: one job, told as JSON on stdin, answered in one line."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from art_export.bench.process import answer
from art_export.bench.settings import Settings

if TYPE_CHECKING:
    from art_export.bench.contender import Contender

FIRST_TOKEN, LOAD, START = "first token", "load", "start"
ENGINES = 2
"""As many are loaded at once to see how much memory one more takes."""


def open_contender(method: str, bundle: Path, threads: int | None) -> Contender:
    """The method's engine, loaded."""
    from art_export.bench import art, lora_merge, lora_runtime, soft_prompt
    from engines.contract import EngineOptions

    kinds: dict[str, Callable[[Path, EngineOptions], Contender]] = {
        "art": art.ArtContender,
        "lora-merge": lora_merge.MergedContender,
        "lora-runtime": lora_runtime.RuntimeContender,
        "soft-prompt": soft_prompt.SoftPromptContender,
    }
    return kinds[method](bundle, EngineOptions(threads=threads))


def cold(
    began: float, method: str, bundle: str, adapters: Sequence[str], settings: Settings
) -> dict[str, Any]:
    """From the start of this process to the first token: seconds by step."""
    steps = {}
    contender = open_contender(method, Path(bundle), settings.threads)
    started = time.monotonic()
    # Importing what the engine needs is part of what a cold process costs, and of loading it.
    steps[LOAD] = started - began
    deployed, held = contender.deploy(Path(adapters[0]))
    steps |= deployed
    before = time.monotonic()
    contender.row(held, settings.prompt)
    steps[FIRST_TOKEN] = time.monotonic() - before
    return {"steps": steps, "seconds": time.monotonic() - began}


def warm(
    began: float, method: str, bundle: str, adapters: Sequence[str], settings: Settings
) -> dict[str, Any]:
    """Everything that is measured in a process whose engine is loaded."""
    from art_export.bench import decoding

    contender = open_contender(method, Path(bundle), settings.threads)
    try:
        return decoding.measure(contender, [Path(each) for each in adapters], settings)
    finally:
        contender.close()


def memory(
    began: float, method: str, bundle: str, adapters: Sequence[str], settings: Settings
) -> dict[str, Any]:
    """Growth of resident memory with each further adapter that has answered a request. Without
    `adapters` every adapter is an engine of its own."""
    from art_export.bench.memory import resident

    contender = None
    kept: list[Any] = []
    found = []
    for adapter in adapters[: settings.held] or [bundle] * ENGINES:
        if contender is None or not adapters:
            contender = open_contender(method, Path(bundle), settings.threads)
        kept.append((contender, contender.hold(Path(adapter))))
        contender.row(kept[-1][1], settings.prompt)
        found.append(resident())
    # The first requests also fill the allocator's own stores, so growth is counted from the second,
    # but for engines, which are large beside them.
    before = 1 if adapters else 0
    first, last, more = found[before], found[-1], len(found) - 1 - before
    if first is None or last is None or more < 1:
        return {"rss": None, "anonymous": None}
    return {
        "rss": (last.rss - first.rss) / more,
        "anonymous": (last.anonymous - first.anonymous) / more,
    }


def store(
    began: float, method: str, bundle: str, adapters: Sequence[str], settings: Settings
) -> dict[str, Any]:
    """Put adapters in use for the first time, so that `hold` finds them."""
    contender = open_contender(method, Path(bundle), settings.threads)
    for adapter in adapters:
        contender.deploy(Path(adapter))
    return {"stored": len(adapters)}


def answers(
    began: float,
    method: str,
    bundle: str,
    adapter: str,
    prompts: Sequence[str],
    count: int,
    settings: Settings,
) -> dict[str, Any]:
    """Greedy answers under one adapter, as texts."""
    contender = open_contender(method, Path(bundle), settings.threads)
    _, held = contender.deploy(Path(adapter))
    return {"texts": [each.text for each in contender.answer(held, prompts, count)]}


def merge(
    began: float, model: str, adapter: str, out: str, precision: str, size: int | None
) -> dict[str, Any]:
    from art_export.bench.lora_merge import merge_and_build

    return {"steps": merge_and_build(model, Path(adapter), Path(out), precision, size)}


def refit(began: float, model: str, adapter: str, out: str, precision: str) -> dict[str, Any]:
    from art_export.bench.lora_refit import build_and_refit

    return build_and_refit(model, Path(adapter), Path(out), precision)


def floors(began: float, bundle: str, reads: int) -> dict[str, Any]:
    from art_export.bench.floors import measure_floors

    return measure_floors(Path(bundle), reads)


JOBS: Mapping[str, Callable[..., dict[str, Any]]] = {
    job.__name__: job for job in (cold, warm, memory, store, answers, merge, refit, floors)
}


def settings_of(known: Mapping[str, Any]) -> Settings:
    """Settings as they were before they became JSON."""
    values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in known.items()}
    return Settings(**values)


def main() -> None:
    job = json.loads(sys.stdin.read())
    if "settings" in job:
        job["settings"] = settings_of(job["settings"])
    answer(JOBS[job.pop("kind")](**job))


if __name__ == "__main__":
    main()
