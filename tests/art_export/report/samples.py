"""Inputs of every kind, in the form that the commands write. The figures are invented, for tests
alone: none of them was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from engines.picture import save_picture
from engines.provenance import Provenance

SIZE, FRAMES, GAP = 32, 4, 4
SHA = "ab" * 32


def spread(median: float, n: int = 5) -> dict[str, Any]:
    return {"median": median, "low": 0.9 * median, "high": 1.2 * median, "n": n}


def accuracy(correct: int, n: int = 500) -> dict[str, Any]:
    share = correct / n
    low, high = max(0.0, share - 0.02), min(1.0, share + 0.01)
    return {"correct": correct, "n": n, "accuracy": share, "low": low, "high": high}


def method(**measured: Any) -> dict[str, Any]:
    unmeasured: dict[str, Any] = {
        "status": "measured",
        "reason": None,
        "steps": [],
        "to_first_token": {},
        "adapter_bytes": None,
        "resident_bytes_per_adapter": None,
        "time_to_first_token": None,
        "decode_tokens_per_second": None,
        "throughput": {},
        "mixed": {},
        "accuracy": {},
        "notes": [],
    }
    return unmeasured | measured


def bench() -> dict[str, Any]:
    art = method(
        steps=[
            {"name": "vision", "seconds": spread(4e-3)},
            {"name": "prefill", "seconds": spread(1e-2)},
        ],
        to_first_token={
            "cold process": spread(1.5),
            "warm process": spread(0.06),
            "running server": spread(0.04),
        },
        adapter_bytes=180_000,
        resident_bytes_per_adapter=9e4,
        time_to_first_token=spread(0.02),
        decode_tokens_per_second=spread(700.0),
        throughput={"1": spread(700), "8": spread(3000), "32": spread(6000)},
        mixed={"1": spread(5000), "4": spread(4990), "16": spread(4950), "64": spread(4800)},
        accuracy={"tools": accuracy(495)},
    )
    merged = method(
        steps=[
            {"name": "merge", "seconds": spread(1.0)},
            {"name": "export", "seconds": spread(15.0)},
        ],
        to_first_token={"cold process": spread(22.0), "warm process": spread(18.0)},
        adapter_bytes=1_047_000,
        throughput={"1": spread(705), "8": spread(3010), "32": spread(6010)},
        mixed={"1": spread(5000)},
        accuracy={"tools": accuracy(500)},
        notes=["every adapter is an engine of its own"],
    )
    return {
        "kind": "bench",
        "schema": 1,
        "model": "demo",
        "engine": "onnxruntime",
        "precision": "fp32",
        "threads": 2,
        "environment": {"cpu": "an invented one", "cores": 2, "torch": "2.13.0"},
        "repeats": 5,
        "methods": {
            "art": art,
            "lora-merge": merged,
            "lora-refit": method(status="not measured", reason="no GPU here"),
        },
        "ratios": {"lora-merge / art, warm process": 300.0},
        "floors": {"read bandwidth, GB/s": 33.2},
        "targets": [
            {"name": "swap", "wanted": "100 times faster", "value": 300.0, "met": True},
            {"name": "decode", "wanted": "at most 1.02", "value": 1.05, "met": False},
        ],
    }


def check(name: str, passed: bool = True, **numbers: float) -> dict[str, Any]:
    blank = {"max_absolute": None, "max_relative": None, "tolerance": None}
    return {"name": name, "passed": passed, "detail": f"detail of {name}"} | blank | numbers


def verified(passed: bool = True) -> dict[str, Any]:
    return {
        "passed": passed,
        "bundle": "bundle",
        "art": "tools",
        "base_model": "demo",
        "checks": [
            check("files"),
            check("pixels", max_absolute=2e-7, max_relative=1e-7, tolerance=1e-5),
            check("prefix state", max_absolute=0.0, max_relative=0.0, tolerance=1e-3),
            check("prefill logits", passed, max_absolute=3e-5, max_relative=1e-6, tolerance=1e-3),
        ],
        "figures": {
            "precision": "fp32",
            "bytes": 27_000_000,
            "weight_bytes": 26_000_000,
            "tokens_per_second": 701.0,
        },
    }


def served() -> dict[str, Any]:
    """What verify prints about a server."""
    return {
        "passed": True,
        "url": "http://localhost:8000",
        "served": "demo",
        "art": None,
        "base_model": "demo",
        "dtype": "fp32",
        "checks": [check("chat"), check("log-probabilities", max_absolute=1e-4, tolerance=1e-3)],
    }


def evaluated(art: str | None = "tools", correct: int = 495) -> dict[str, Any]:
    asked = {"target": "bundle", "engine": "onnxruntime", "task": "tools", "split": "test"}
    return asked | {"hint": False, "art": art, "notes": [], "seconds": 3.2} | accuracy(correct)


def record(**options: Any) -> dict[str, Any]:
    """A run.json."""
    return {
        "kind": "picture",
        "options": {"model": "demo", "task": "tools", "objective": "sft", "init": None} | options,
        "model": {"name": "demo", "revision": None, "weights_sha256": SHA},
        "data": {"task": "tools", "sha256": SHA},
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "result": {
            "step": 50,
            "score": 0.98,
            "seconds": 150.5,
            "data_hash": SHA,
            "controls": {"start": 0.0, "none": 0.01, "grey": 0.0},
            "notes": [],
        },
    }


def metrics() -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for step in range(76):
        if step:
            lines.append({"step": step, "loss": 0.3 / step, "gradient_norm": 0.1, "rate": 1.0})
        if step % 25 == 0:
            found = {"exact": step / 80, "loss": 0.3 / (step + 1)}
            lines.append({"step": step, "validation": found, "best": step <= 50})
    return lines


def pixels(seed: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def write(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def write_run(
    folder: Path, document: dict[str, Any] | None = None, *, pictures: bool = True
) -> Path:
    folder.mkdir(parents=True)
    write(folder / "run.json", record() if document is None else document)
    lines = "".join(json.dumps(line) + "\n" for line in metrics())
    (folder / "metrics.jsonl").write_text(lines, encoding="utf-8")
    if pictures:
        known = Provenance("demo", SHA, SIZE, "sft", "tools", SHA, 0, 50, 0.98, "0.1.0")
        save_picture(folder / "art.png", pixels(1), known)
        width = FRAMES * (SIZE + GAP) - GAP
        strip = np.full((SIZE, width, 3), 255, np.uint8)
        strip[:, :SIZE] = pixels(0)
        Image.fromarray(strip).save(folder / "strip.png")
    return folder
