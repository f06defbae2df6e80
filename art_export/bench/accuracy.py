"""What the adapters of each method are good for, on held-out examples of a task.

Answers come from a process of the method's own; they are scored here, by the task.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from art_export.bench import adapters
from art_export.bench.process import run_job
from art_export.bench.settings import BenchOptions, Task
from art_export.evaluate import Score, evaluate
from engines.files import write_json

Progress = Callable[[str, int, int], None]
KINDS = {
    "art": "art",
    "lora-merge": "lora",
    "lora-runtime": "lora",
    "soft-prompt": "soft-prompt",
    "vllm-art": "art",
    "vllm-lora": "lora",
}
"""Method -> the kind of adapter that it takes."""
VLLM = "vllm"
ASKED_AT_ONCE = 16
"""Questions that a server has at the same time."""


def score_methods(options: BenchOptions, tell: Progress) -> dict[str, dict[str, Score]]:
    """Method -> task -> score, for the adapters that were given; kept in OUT/turns."""
    found: dict[str, dict[str, Score]] = {}
    for task in options.tasks:
        for name in options.methods:
            adapter = task.given.get(KINDS.get(name, ""))
            if adapter is not None:
                tell(f"accuracy on {task.name}: {name}", 0, 1)
                found.setdefault(name, {})[task.name] = _kept(options, name, task, adapter)
    return found


def _kept(options: BenchOptions, name: str, task: Task, adapter: Path) -> Score:
    path = options.turns / f"accuracy-{Path(task.name).stem}-{name}.json"
    asked = {"adapter": str(adapter), "n": len(task.examples)}
    if path.is_file():
        known = json.loads(path.read_text("utf-8"))
        if {key: known[key] for key in asked} == asked:
            return Score(**known["score"])
    score = _score(options, name, task, adapter)
    write_json(path, asked | {"score": asdict(score)})
    return score


def _score(options: BenchOptions, name: str, task: Task, adapter: Path) -> Score:
    if name.startswith(VLLM):
        return _asked(options, name, task, adapter)
    bundle, file = _place(options, name, task, adapter)
    job: dict[str, Any] = {
        "method": name,
        "bundle": str(bundle),
        "adapter": str(file),
        "count": task.max_new_tokens,
        "settings": asdict(options.settings),
    }

    def complete(prompts: Sequence[str]) -> list[str]:
        texts: list[str] = run_job("answers", prompts=list(prompts), **job)["texts"]
        return texts

    # One process for all examples: a batch of them would load the engine anew.
    return evaluate(complete, task.examples, task.is_correct, batch_size=len(task.examples))


def _asked(options: BenchOptions, name: str, task: Task, adapter: Path) -> Score:
    """The score on a vLLM server."""
    from art_export.bench.vllm import VllmBench

    server = VllmBench.of(options)
    picture, lora = (adapter, None) if KINDS[name] == "art" else (None, adapter)

    def complete(prompts: Sequence[str]) -> list[str]:
        return server.answers(picture, lora, prompts, task.max_new_tokens)

    return evaluate(complete, task.examples, task.is_correct, batch_size=ASKED_AT_ONCE)


def _place(options: BenchOptions, name: str, task: Task, adapter: Path) -> tuple[Path, Path]:
    """The bundle that answers, and the adapter's file for it."""
    if name == "lora-runtime":
        return options.reserved, adapters.onnx_adapters(options, [adapter])[0]
    if name != "lora-merge":
        return options.bundle, adapter
    home = options.prepared / f"merged-{Path(task.name).stem}"
    if not (home / "bundle").exists():
        run_job(
            "merge",
            model=options.model,
            adapter=str(adapter),
            out=str(home),
            precision=options.precision,
            size=options.size,
        )
    return home / "bundle", adapter
