"""The benchmark: prepare, take turns, and put together what was found.

Every turn gives each method a process of its own, in alternating order, so that whatever the
machine does meanwhile meets all of them. What a turn has found is kept in OUT/turns, and a second
run goes on from there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from art_export.bench import adapters, lora_refit
from art_export.bench.accuracy import score_methods
from art_export.bench.art import swaps_on_server
from art_export.bench.assemble import Found, assemble
from art_export.bench.process import run_job
from art_export.bench.results import BenchResult
from art_export.bench.settings import METHODS, BenchOptions
from art_export.bench.verdict import ratios_of, targets_of
from engines.bundle import BundleFolder
from engines.environment import environment
from engines.errors import ArtExportError, OptionError
from engines.files import write_json
from engines.names import choose

Progress = Callable[[str, int, int], None]
LOADED = ("art", "lora-runtime", "soft-prompt", "lora-merge")
"""Methods that run on the bundle's own engine in a process of ours."""
OF_LORA = ("lora-runtime", "lora-merge", "lora-refit", "vllm-lora")
"""Methods whose random adapters are made for the layers that the bundle with room for LoRA has."""
ENGINE = "onnxruntime"
RESULT = "bench.json"


def bench(options: BenchOptions, progress: Progress | None = None) -> BenchResult:
    """Measure the methods, write OUT/bench.json and return what is in it.

    Raises:
        OptionError: a method is not known, or OUT holds turns of other settings.
        CheckFailed: a process of the benchmark failed; what was found before is kept.
    """
    for name in options.methods:
        choose("method", name, METHODS)
    tell = progress or (lambda stage, done, total: None)
    _check_settings(options)
    measured = [name for name in LOADED if name in options.methods]
    absent = {name: why for name in options.methods if (why := _absent(options, name))}
    if len(absent) < len(options.methods):
        _prepare(options, tell)
    found = {name: Found(name, absent=absent.get(name)) for name in options.methods}
    for turn in range(options.settings.repeats):
        # The order is turned round every time: nobody is always the first on a warm machine.
        order = measured if turn % 2 == 0 else measured[::-1]
        for name in order:
            tell(f"turn {turn + 1}: {name}", turn, options.settings.repeats)
            _take_turn(options, found[name], turn)
    floors = _floors(options, tell) if measured else {}
    for name in options.methods:
        if name not in measured and name not in absent:
            tell(name, 0, 1)
            _outside(options, found[name])
    present = tuple(name for name in options.methods if name not in absent)
    scores = score_methods(replace(options, methods=present), tell)
    methods = {
        name: assemble(options, found[name], scores.get(name, {})) for name in options.methods
    }
    ratios = ratios_of(found, methods)
    result = BenchResult(
        model=options.model,
        engine=ENGINE,
        precision=options.precision,
        threads=options.settings.threads or len(os.sched_getaffinity(0)),
        environment={**environment(), "cores_busy_elsewhere": _busy(found.values())},
        repeats=options.settings.repeats,
        methods=methods,
        ratios=ratios,
        floors=floors,
        targets=targets_of(ratios, methods),
    )
    write_json(options.out / RESULT, result.record())
    return result


def _busy(found: Iterable[Found]) -> float | None:
    """The most that any process was disturbed; None where that is not known."""
    shares = [share for each in found for share in each.busy()]
    return round(max(shares), 2) if shares else None


def _check_settings(options: BenchOptions) -> None:
    """The same settings as those that the turns in OUT were taken with."""
    path = options.turns / "settings.json"
    others = {
        name: getattr(options, name) for name in ("model", "precision", "size", "rank", "tokens")
    }
    asked = json.loads(json.dumps(asdict(options.settings) | others))
    # More turns may be added to those that are there.
    asked.pop("repeats")
    if path.is_file() and (known := json.loads(path.read_text("utf-8"))) != asked:
        other = [name for name in asked if known.get(name) != asked[name]]
        raise OptionError(
            got=f"{options.out} with turns of other settings: {', '.join(other)}",
            expected="a new folder, or the settings of before",
            fix="choose another folder with -o",
        )
    write_json(path, asked)


def _prepare(options: BenchOptions, tell: Progress) -> None:
    """Bundles and adapters; what is there is kept."""
    from art_export.build import BuildOptions, build

    of_lora = any(name in OF_LORA for name in options.methods)
    for place, reserve in ((options.bundle, False), (options.reserved, True)):
        if (of_lora or not reserve) and not place.exists():
            tell(f"build {place.name}", 0, 1)
            build(
                BuildOptions(
                    options.model, place, precision=options.precision, size=options.size,
                    reserve_lora=reserve,
                )
            )  # fmt: skip
    tell("adapters", 0, 1)
    count = max(options.settings.rows, options.settings.held, 2)
    stored = BundleFolder.open(options.bundle).art_names()
    missing = [path for path in adapters.pictures(options, count) if path.stem not in stored]
    if missing:
        _job(options, "store", "art", options.bundle, missing)
    if of_lora:
        adapters.onnx_adapters(options, adapters.loras(options, count))
    if "soft-prompt" in options.methods:
        adapters.soft_prompts(options, count)


def _adapters_of(options: BenchOptions, name: str) -> list[Path]:
    count = max(options.settings.rows, options.settings.held, 2)
    if name == "art":
        return adapters.pictures(options, count)
    if name == "soft-prompt":
        return adapters.soft_prompts(options, count)
    if name == "lora-runtime":
        return adapters.onnx_adapters(options, adapters.loras(options, count))
    return []


def _bundle_of(options: BenchOptions, name: str) -> Path:
    others = {"lora-runtime": options.reserved, "lora-merge": options.merged / "bundle"}
    return others.get(name, options.bundle)


def _take_turn(options: BenchOptions, found: Found, turn: int) -> None:
    """One turn of one method, unless it was taken before."""
    path = options.turns / f"{turn}-{found.method}.json"
    if not path.exists():
        write_json(path, _measure(options, found, turn))
    found.turns.append(json.loads(path.read_text("utf-8")))


def _measure(options: BenchOptions, found: Found, turn: int) -> dict[str, Any]:
    name, settings = found.method, options.settings
    files = _adapters_of(options, name)
    bundle = _bundle_of(options, name)
    taken: dict[str, Any] = {}
    if name == "lora-merge" and found.merges_again(settings.once_over):
        taken["merge"] = _merge(options)
    # The plan's weights are in the disk's cache for everybody by now.
    taken["cold"] = _job(options, "cold", name, bundle, files or [bundle])
    taken["warm"] = _job(options, "warm", name, bundle, files)
    if turn == 0:
        taken["memory"] = _job(options, "memory", name, bundle, files)
    if name == "art":
        taken["server"], taken["no server"] = _server(options, files)
    return taken


def _merge(options: BenchOptions) -> dict[str, Any]:
    return run_job(
        "merge",
        model=options.model,
        adapter=str(adapters.loras(options, 1)[0]),
        out=str(options.merged),
        precision=options.precision,
        size=options.size,
    )


def _server(options: BenchOptions, pictures: Sequence[Path]) -> tuple[list[float], str | None]:
    """Seconds of swaps on a running server, or why there are none."""
    settings = options.settings
    try:
        found = swaps_on_server(options.bundle, pictures, settings.prompt, settings.deploys)
    except (ArtExportError, OSError) as error:
        return [], " ".join(str(error).split())
    return found, None


def _job(
    options: BenchOptions, kind: str, name: str, bundle: Path, files: Sequence[Path]
) -> dict[str, Any]:
    return run_job(
        kind,
        method=name,
        bundle=str(bundle),
        adapters=[str(each) for each in files],
        settings=asdict(options.settings),
    )


def _floors(options: BenchOptions, tell: Progress) -> dict[str, float]:
    tell("floors", 0, 1)
    found = run_job("floors", bundle=str(options.bundle), reads=5)
    sizes = {}
    if any(name in OF_LORA for name in options.methods):
        lora = float(adapters.bytes_of(adapters.loras(options, 1)[0]))
        sizes = {f"LoRA of rank {options.rank}, bytes": lora}
    return {n: f for n, f in found.items() if n not in ("answered", "wall", "busy")} | sizes


def _absent(options: BenchOptions, name: str) -> str | None:
    """Why a method cannot be measured here; None if it can."""
    if name == "lora-refit":
        return lora_refit.unavailable()
    if name.startswith("vllm") and options.url is None:
        return "no vLLM server was given with --url"
    return None


def _outside(options: BenchOptions, found: Found) -> None:
    """Methods on another engine, or on a server."""
    if found.method != "lora-refit":
        _ask_server(options, found)
        return
    job = run_job(
        "refit",
        model=options.model,
        adapter=str(adapters.loras(options, 1)[0]),
        out=str(options.prepared),
        precision=options.precision,
    )
    found.turns.append(job)


def _ask_server(options: BenchOptions, found: Found) -> None:
    from art_export.bench.vllm import VllmBench

    settings = options.settings
    server = VllmBench.of(options)
    files = adapters.pictures(options, settings.rows) if found.method == "vllm-art" else []
    for _ in range(settings.repeats):
        warm = server.art(files) if files else server.lora(adapters.loras(options, settings.rows))
        found.turns.append({"warm": warm})
