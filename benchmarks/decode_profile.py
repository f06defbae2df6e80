"""Where the time of a decode step goes, by operator, as ONNX Runtime's own profiler tells it:

    python -m benchmarks.decode_profile runs/decode/decode-Qwen3.5-0.8B/onnxruntime-int8

The profiler costs about a microsecond a node, so the shares of small nodes are upper bounds. With
`--device cuda` an operator's time is that of its start, not of its work on the GPU. The last line
is one JSON document: medians in milliseconds, of whole steps and of operators in a step.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import onnxruntime as ort

from benchmarks.decode_peers import EnginePeer
from engines import onnxruntime_engine
from engines.contract import EngineOptions
from engines.environment import environment

WARM_UP = 3
STEP, KERNEL = "model_run", "_kernel_time"


def profile(
    bundle: Path, context: int, steps: int, threads: int | None, device: str | None = None
) -> dict[str, Any]:
    """Milliseconds of a step and of its operators, how many nodes each has, and how many each
    execution provider takes."""
    real = onnxruntime_engine.session_options
    with tempfile.TemporaryDirectory() as folder:

        def profiled(part: str, threads: int | None) -> ort.SessionOptions:
            options = real(part, threads)
            if part == "decoder":
                options.enable_profiling = True
                options.profile_file_prefix = str(Path(folder, part))
            return options

        with patch.object(onnxruntime_engine, "session_options", profiled):
            engine = onnxruntime_engine.OnnxRuntimeEngine.open(
                bundle, EngineOptions(device=device, threads=threads)
            )
        peer = EnginePeer(engine)
        peer.start(context, WARM_UP + steps)
        for _ in range(WARM_UP + steps):
            peer.step()
        events = json.loads(Path(engine.session("decoder").end_profiling()).read_text())
    return by_operator(events, steps)


def by_operator(events: Iterable[Mapping[str, Any]], steps: int) -> dict[str, Any]:
    """What a profile says of its last `steps` runs."""
    events = list(events)
    runs = [each for each in events if each["name"] == STEP][-steps:]
    nodes = [each for each in events if each["name"].endswith(KERNEL)]
    spent: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        inside: Counter[str] = Counter()
        for node in nodes:
            if run["ts"] <= node["ts"] < run["ts"] + run["dur"]:
                inside[node["args"]["op_name"]] += node["dur"]
        for name, microseconds in inside.items():
            spent[name].append(microseconds / 1e3)
    last = runs[-1]
    of_last = [node["args"] for node in nodes if node["ts"] >= last["ts"]]
    operators = {name: statistics.median(each) for name, each in spent.items()}
    return {
        "step": statistics.median(run["dur"] for run in runs) / 1e3,
        "operators": dict(sorted(operators.items(), key=lambda item: -item[1])),
        "nodes": dict(Counter(node["op_name"] for node in of_last)),
        "providers": dict(Counter(node.get("provider", "unknown") for node in of_last)),
    }


@click.command(help=__doc__)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--context", default=128, show_default=True, help="Tokens before the first step.")
@click.option("--steps", default=24, show_default=True)
@click.option("--threads", type=int, help="Default: all.")
@click.option("--device", help="Default: cpu.")
def main(bundle: Path, context: int, steps: int, threads: int | None, device: str | None) -> None:
    if not (bundle / onnxruntime_engine.GRAPHS["decoder"]).is_file():
        raise click.UsageError(f"{bundle} is no bundle for ONNX Runtime: build one first")
    found = profile(bundle, context, steps, threads, device)
    click.echo(f"a step: {found['step']:.2f} ms, with the profiler")
    for name, milliseconds in found["operators"].items():
        click.echo(f"  {name:24}{milliseconds:8.3f} ms in {found['nodes'][name]} nodes")
    click.echo(json.dumps({"bundle": bundle.name, "context": context, **found,
                           "environment": environment()}))  # fmt: skip


if __name__ == "__main__":
    main()
