"""Models of their true shape, with random weights, from build to verify.

    python -m benchmarks.real_shapes Qwen3.5-0.8B -o runs/shapes
    python -m benchmarks.real_shapes tiny-qwen3_vl -o runs/shapes

Weights are random bf16, made on the fly; `tiny-` and a family tries the script out. Every stage
runs in a process of its own, so that its peak memory is its own:

    weights   make the model's folder
    build     export and compile, with the comparison with PyTorch that `build` makes
    serve     load the bundle, swap a picture in, generate
    verify    compare with Hugging Face's forward and generate

A stage that fails ends the run, with its error in the result. The last line is one JSON document,
also written to OUT/<model>.json.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from engines.environment import environment
from engines.files import write_json
from tests.models import TINY, random_weights, save_model, shaken
from tests.real_configs import REAL_CONFIGS, real_config

TINY_PREFIX = "tiny-"
NAMES = (*REAL_CONFIGS, *(TINY_PREFIX + family for family in TINY))
PROMPTS = ("Wake me up at 07:30 on Monday.", "How many apples does Anna have now?")
MARKERS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}


@dataclass(frozen=True)
class Run:
    """What to run, and where its files lie. prompts: greedy answers that verify compares."""

    name: str
    out: Path
    engine: str
    precision: str
    new_tokens: int
    prompts: int

    @property
    def model(self) -> Path:
        return self.out / self.name / "model"

    @property
    def bundle(self) -> Path:
        return self.out / self.name / "bundle"


def _weights(run: Run) -> dict[str, Any]:
    config, tokenizer, tiny = _shape(run.name)
    model = shaken(random_weights(config, "bfloat16"))
    save_model(model, tokenizer, tiny.processor(), run.model)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "bytes": sum(path.stat().st_size for path in run.model.glob("*.safetensors")),
    }


def _shape(name: str) -> tuple[Any, Any, Any]:
    """Configuration, tokenizer and the family's tiny maker. The small tokenizer's markers take
    the place of the real one's; the vocabulary keeps its true size."""
    if name.startswith(TINY_PREFIX):
        tiny = TINY[name.removeprefix(TINY_PREFIX)]
        tokenizer = tiny.tokenizer()
        return tiny.config(tokenizer, 2048), tokenizer, tiny
    config = real_config(name)
    tiny = TINY[config.model_type]
    tokenizer = tiny.tokenizer()
    for key, token in MARKERS.items():
        setattr(config, key, tokenizer.convert_tokens_to_ids(token))
    for key in ("bos", "eos", "pad"):
        setattr(config.text_config, f"{key}_token_id", getattr(tokenizer, f"{key}_token_id"))
    return config, tokenizer, tiny


def _build(run: Run) -> dict[str, Any]:
    from art_export.build import BuildOptions, build

    options = BuildOptions(str(run.model), run.bundle, engine=run.engine, precision=run.precision)
    result = build(options, _progress)
    known = asdict(result)
    keys = ("seconds", "nodes", "bytes", "weight_bytes", "parity", "tolerance")
    return {key: known[key] for key in keys}


def _serve(run: Run) -> dict[str, Any]:
    from art_export.bundle import Bundle
    from engines.picture import Picture

    times: dict[str, float] = {}
    started = time.perf_counter()
    with Bundle.load(run.bundle) as bundle:
        started = _lap(times, "load", started)
        size = bundle.folder.manifest.picture_size
        noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
        bundle.swap(Picture(noise), name="noise")
        started = _lap(times, "swap", started)
        first = bundle.generate(PROMPTS[:1], max_new_tokens=1)
        started = _lap(times, "first token", started)
        answers = bundle.generate(PROMPTS, max_new_tokens=run.new_tokens)
        _lap(times, "generate", started)
    tokens = sum(len(answer.token_ids) for answer in answers)
    return {"seconds": times, "tokens": tokens + len(first[0].token_ids), "picture_size": size}


def _lap(times: dict[str, float], name: str, started: float) -> float:
    now = time.perf_counter()
    times[name] = now - started
    click.echo(f"    {name}: {times[name]:.2f} s", err=True)
    return now


def _verify(run: Run) -> dict[str, Any]:
    from art_export.verify import VerifyOptions, verify

    report = verify(VerifyOptions(run.bundle, art="noise", prompts=run.prompts), _progress)
    return {"passed": report.passed, "checks": [asdict(check) for check in report.checks]}


def _progress(stage: str, done: int, total: int) -> None:
    click.echo(f"    {time.strftime('%H:%M:%S')} {stage} ({done}/{total})", err=True)


STAGES: dict[str, Callable[[Run], dict[str, Any]]] = {
    "weights": _weights,
    "build": _build,
    "serve": _serve,
    "verify": _verify,
}


def _in_a_child(run: Run, stage: str) -> dict[str, Any]:
    """Run one stage: its result or its error, wall-clock seconds and peak resident bytes."""
    result = run.out / run.name / f"{stage}.json"
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.real_shapes", run.name, "-o", str(run.out)]
    command += ["--engine", run.engine, "--precision", run.precision, "--stage", stage]
    command += ["--new-tokens", str(run.new_tokens), "--prompts", str(run.prompts)]
    started = time.perf_counter()
    child = subprocess.Popen(command)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    found = json.loads(result.read_text()) if result.exists() else {}
    if child.returncode and "error" not in found:
        # -9 is a kill, mostly for want of memory.
        found["error"] = f"the stage's process ended with {child.returncode}"
    return {
        "wall_seconds": time.perf_counter() - started,
        # ru_maxrss is in KiB on Linux.
        "peak_rss_bytes": usage.ru_maxrss * 1024,
        **found,
    }


def _child(run: Run, stage: str) -> None:
    """Run one stage here and leave its result, or its error, for the parent."""
    result = run.out / run.name / f"{stage}.json"
    try:
        found = STAGES[stage](run)
    except BaseException as error:
        write_json(result, {"error": f"{type(error).__name__}: {error}"})
        raise
    write_json(result, found)


def _all_stages(run: Run) -> dict[str, Any]:
    stages: dict[str, Any] = {}
    for stage in STAGES:
        click.echo(f"{run.name}: {stage}", err=True)
        stages[stage] = found = _in_a_child(run, stage)
        peak = found["peak_rss_bytes"] / 2**30
        click.echo(f"  {found['wall_seconds']:.1f} s, peak {peak:.2f} GiB", err=True)
        if "error" in found:
            click.echo(f"  {found['error']}", err=True)
            break
    return {
        "model": run.name,
        "engine": run.engine,
        "precision": run.precision,
        "environment": environment(),
        "stages": stages,
    }


@click.command(help=__doc__)
@click.argument("name", type=click.Choice(NAMES))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder to use.")
@click.option("--engine", default="onnxruntime", show_default=True)
@click.option("--precision", default="fp32", show_default=True)
@click.option("--new-tokens", default=32, show_default=True, help="To generate for each prompt.")
@click.option("--prompts", default=4, show_default=True, help="Answers that verify compares.")
@click.option("--keep", is_flag=True, help="Keep the model and the bundle.")
@click.option("--stage", type=click.Choice(tuple(STAGES)), hidden=True)
def main(
    name: str,
    out: Path,
    engine: str,
    precision: str,
    new_tokens: int,
    prompts: int,
    keep: bool,
    stage: str | None,
) -> None:
    run = Run(name, out, engine, precision, new_tokens, prompts)
    if stage:
        _child(run, stage)
        return
    shutil.rmtree(out / name, ignore_errors=True)
    (out / name).mkdir(parents=True)
    result = _all_stages(run)
    write_json(out / f"{name}.json", result)
    if not keep:
        shutil.rmtree(out / name)
    click.echo(json.dumps(result))
    last = list(result["stages"].values())[-1]
    if "error" in last or not last.get("passed", True):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
