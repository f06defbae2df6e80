"""How far decoding is from the hardware's limit, beside other engines.

    python -m benchmarks.decode --shape Qwen3.5-0.8B -o runs/decode
    python -m benchmarks.decode --shape tiny-qwen3_5 --precisions fp32 --quick -o runs/decode
    python -m benchmarks.decode --device cuda -o runs/decode

A decoder must read every weight and its state once a token, so bytes / read bandwidth is a floor
of the time that a token takes. Weights are random, of the true shape. Every engine is measured in
a process of its own, the engines taking turns, and with each turn the bandwidth is measured too:
all cores, or the GPU, read a buffer of the weights' size. Figures are medians over all turns. The
bytes are those of this project's graphs for ONNX Runtime; each figure's share of the floor is
against them.

The last line is one JSON document, also written to OUT/decode-<shape>.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.decode_peers import ONNXRUNTIME, PEERS, PRECISIONS, Skip, load, prepare
from benchmarks.real_shapes import MARKERS
from engines.environment import OtherWork, environment
from engines.files import write_json
from engines.tensorrt_library import no_cuda
from tests.models import TINY, random_weights, save_model, shaken
from tests.real_configs import real_config

CONTEXTS, PREFILL = (128, 1024), 512
QUICK = {"rounds": 1, "steps": 8}
FULL = {"rounds": 3, "steps": 24}
SMALL_VL = "Qwen3-VL-0.6B"
SHAPES = ("Qwen3.5-0.8B", SMALL_VL, *(f"tiny-{family}" for family in TINY))


def main_bytes(bundle: Path) -> tuple[int, Callable[[int], int]]:
    """Bytes of weights that a step of the decoder reads, and those of the state by context."""
    import onnx_ir as ir

    from art_export.bench.floors import state_bytes
    from engines.onnxruntime_engine import GRAPHS

    graph = ir.load(bundle / GRAPHS["decoder"]).graph
    weights = sum(v.const_value.nbytes for v in graph.initializers.values() if v.const_value)
    return weights, lambda context: sum(state_bytes(graph, context).values())


def _weights(shape: str, folder: Path) -> dict[str, Any]:
    config, family = _config(shape)
    tiny = TINY[family]
    save_model(
        shaken(random_weights(config, "bfloat16")), tiny.tokenizer(), tiny.processor(), folder
    )
    return {}


def _config(shape: str) -> tuple[Any, str]:
    if shape.startswith("tiny-"):
        family = shape.removeprefix("tiny-")
        return TINY[family].config(TINY[family].tokenizer(), 2048), family
    config = real_config("Qwen3-VL-2B" if shape == SMALL_VL else shape)
    if shape == SMALL_VL:
        # The text model of Qwen3-0.6B under the 2B's tower.
        config.text_config.hidden_size = config.vision_config.out_hidden_size = 1024
        config.text_config.intermediate_size = 3072
    tokenizer = TINY[config.model_type].tokenizer()
    for key, token in MARKERS.items():
        setattr(config, key, tokenizer.convert_tokens_to_ids(token))
    for key in ("bos", "eos", "pad"):
        setattr(config.text_config, f"{key}_token_id", getattr(tokenizer, f"{key}_token_id"))
    return config, config.model_type


def _measure(
    name: str,
    precision: str,
    device: str,
    model: Path,
    out: Path,
    contexts: Sequence[int],
    steps: int,
) -> dict[str, Any]:
    """Milliseconds of every prefill and every step, and how many cores other processes kept busy
    meanwhile: a run beside anything else says little."""
    peer = load(name, precision, device, model, out)
    peer.prefill(PREFILL)
    others = OtherWork()
    found: dict[str, list[float]] = {f"prefill {PREFILL}": _times(lambda: peer.prefill(PREFILL), 2)}
    for context in contexts:
        peer.start(context, steps + 3)
        for _ in range(3):
            peer.step()
        found[f"decode {context}"] = _times(peer.step, steps)
    return {"milliseconds": found, "cores_busy_elsewhere": others.cores()}


def _bandwidth(size: int, device: str) -> list[float]:
    """Bytes a second that all cores, or the GPU, read from a buffer of `size` bytes; five times."""
    if device == "cpu":
        from art_export.bench.floors import read_bandwidth

        return read_bandwidth(size)
    import torch

    buffer = torch.ones(size // 4, device=device)
    buffer.sum().item()
    return [4e3 * buffer.numel() / each for each in _times(lambda: buffer.sum().item(), 5)]


def _times(call: Callable[[], object], count: int) -> list[float]:
    times = []
    for _ in range(count):
        started = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - started))
    return times


def _child(**task: Any) -> dict[str, Any]:
    """Run one task in a process of its own: its result, {"skipped": why} or {"error": what}."""
    command = [sys.executable, "-m", "benchmarks.decode", "--task", json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        result: dict[str, Any] = json.loads(lines[-1])
        return result
    tail = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
    return {"error": tail[0]}


def _task(kind: str, **task: Any) -> dict[str, Any]:
    paths: dict[str, Any] = {
        key: Path(task.pop(key)) for key in ("model", "out", "bundle") if key in task
    }
    try:
        if kind == "weights":
            return _weights(task["shape"], paths["model"])
        if kind == "prepare":
            prepare(task["name"], task["precision"], task["device"], paths["model"], paths["out"])
            return {}
        if kind == "bandwidth":
            return {"bytes_a_second": _bandwidth(task["size"], task["device"])}
        return _measure(**task, **paths)
    except Skip as reason:
        return {"skipped": str(reason)}


class _Run:
    """All of one shape: its folder, and what was found so far."""

    def __init__(self, shape: str, device: str, out: Path, quick: bool) -> None:
        self.folder, self.settings = out / f"decode-{shape}", QUICK if quick else FULL
        self.device, self.suffix = device, "" if device == "cpu" else f"-{device}"
        self.model = self.folder / "model"
        if not (self.model / "config.json").is_file():
            _say(f"{shape}: random weights")
            failed = _child(kind="weights", shape=shape, model=str(self.model))
            if failed:
                raise click.ClickException(failed["error"])

    def precision(self, precision: str, peers: Sequence[str]) -> dict[str, Any]:
        outcome = {name: self._prepare(name, precision) for name in peers}
        running = [name for name in peers if not outcome.get(name)]
        # ONNX Runtime has no bf16; the bytes are those of fp16.
        like = "fp16" if precision == "bf16" else precision
        self._prepare(ONNXRUNTIME, like)
        weights, state = main_bytes(self._place(ONNXRUNTIME, like))
        speeds, times, busy = self._rounds(precision, running, weights, outcome)
        bandwidth = float(np.median(speeds))
        floors = {
            f"decode {context}": 1e3 * (weights + state(context)) / bandwidth
            for context in CONTEXTS
        }
        return {
            "weight_bytes": weights,
            "state_bytes": {str(context): state(context) for context in CONTEXTS},
            "read_gigabytes_a_second": bandwidth / 1e9,
            "read_range": [min(speeds) / 1e9, max(speeds) / 1e9],
            "floor_milliseconds": floors,
            "cores_busy_elsewhere": busy,
            "engines": {name: _summary(times[name], floors) for name in running if times[name]},
            "absent": {name: found for name, found in outcome.items() if found},
        }

    def _prepare(self, name: str, precision: str) -> dict[str, Any]:
        """Nothing if it is there now, else why not."""
        if (built := self._place(name, precision)).exists():
            return {}
        _say(f"{precision}: prepare {name}")
        return _child(
            kind="prepare", name=name, precision=precision, device=self.device,
            model=str(self.model), out=str(built),
        )  # fmt: skip

    def _rounds(
        self, precision: str, running: list[str], weights: int, outcome: dict[str, dict[str, Any]]
    ) -> tuple[list[float], dict[str, dict[str, list[float]]], float]:
        speeds: list[float] = []
        busy: list[float] = []
        times: dict[str, dict[str, list[float]]] = {name: {} for name in running}
        for turn in range(self.settings["rounds"]):
            for name in [each for each in running if not outcome.get(each)]:
                _say(f"{precision}: turn {turn + 1}, {name}")
                read = _child(kind="bandwidth", size=weights, device=self.device)
                speeds += read["bytes_a_second"]
                found = _child(
                    kind="measure", name=name, precision=precision, device=self.device,
                    model=str(self.model), out=str(self._place(name, precision)),
                    contexts=CONTEXTS, steps=self.settings["steps"],
                )  # fmt: skip
                if "milliseconds" not in found:
                    outcome[name] = found
                busy.append(found.get("cores_busy_elsewhere", 0.0))
                for what, each in found.get("milliseconds", {}).items():
                    times[name].setdefault(what, []).extend(each)
        return speeds, times, max(busy, default=0.0)

    def _place(self, name: str, precision: str) -> Path:
        return self.folder / f"{name}-{precision}{self.suffix}"


def _summary(times: Mapping[str, list[float]], floors: Mapping[str, float]) -> dict[str, Any]:
    medians = {what: float(np.median(each)) for what, each in times.items()}
    return {
        "median_milliseconds": medians,
        "best_milliseconds": {what: min(each) for what, each in times.items()},
        "share_of_the_limit": {what: floors[what] / medians[what] for what in floors},
    }


def _table(precision: str, found: Mapping[str, Any]) -> str:
    columns = [f"decode {context}" for context in CONTEXTS]
    floors = found["floor_milliseconds"]
    lines = [
        f"{precision}: {found['weight_bytes'] / 1e6:.0f} MB of weights, reads "
        f"{found['read_gigabytes_a_second']:.1f} GB/s, up to {found['cores_busy_elsewhere']:.2f} "
        "cores busy elsewhere; milliseconds (share of the limit)",
        f"  {'floor':20}" + "".join(f"{floors[each]:9.2f}       " for each in columns),
    ]
    for name, each in found["engines"].items():
        medians, share = each["median_milliseconds"], each["share_of_the_limit"]
        cells = "".join(f"{medians[what]:9.2f} ({share[what]:.2f})" for what in columns)
        lines.append(f"  {name:20}{cells}   prefill {PREFILL}: {medians[f'prefill {PREFILL}']:.0f}")
    lines += [f"  {name:20} {' '.join(why.values())}" for name, why in found["absent"].items()]
    return "\n".join(lines)


def _say(text: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')} {text}", err=True)


def _by_device(choices: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{device}: {','.join(each)}" for device, each in choices.items())


@click.command(help=__doc__)
@click.option("--shape", type=click.Choice(SHAPES), default=SHAPES[0], show_default=True)
@click.option("--device", type=click.Choice(list(PEERS)), default="cpu", show_default=True)
@click.option("--precisions", help="Default: " + _by_device(PRECISIONS))
@click.option("--engines", help="Default: " + _by_device(PEERS))
@click.option("--quick", is_flag=True, help="One turn and few steps.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder to use.")
@click.option("--task", hidden=True)
def main(
    shape: str,
    device: str,
    precisions: str | None,
    engines: str | None,
    quick: bool,
    out: Path | None,
    task: str | None,
) -> None:
    if task:
        click.echo(json.dumps(_task(**json.loads(task))))
        return
    if out is None:
        raise click.UsageError("give a folder with -o")
    if device == "cuda" and (reason := no_cuda()):
        raise click.UsageError(f"--device cuda: {reason}")
    run = _Run(shape, device, out, quick)
    result: dict[str, Any] = {"shape": shape, "device": device, "environment": environment()}
    result["precisions"] = {}
    peers = engines.split(",") if engines else PEERS[device]
    for precision in precisions.split(",") if precisions else PRECISIONS[device]:
        found = run.precision(precision, peers)
        result["precisions"][precision] = found
        click.echo(_table(precision, found))
    write_json(out / f"decode-{shape}{run.suffix}.json", result)
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
