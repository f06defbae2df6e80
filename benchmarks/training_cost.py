"""What a training step costs: a picture beside LoRA, at equal batch and data, and its limit.

    python -m benchmarks.training_cost -o runs/cost
    python -m benchmarks.training_cost --shapes tiny-qwen3_5 --quick -o runs/cost

Methods, each in processes of its own that take turns:

    art                a picture, by this project's loop
    lora               peft, rank 16, all linear layers, by the same loop, decoder and loss
    lora-transformers  the same adapter by transformers' own forward and loss, as in its Trainer

All see the same rows, with the text alone for LoRA; steps are whole ones, optimiser included, by
the clock and in CPU seconds: where the machine does other work too, only the latter, with
`--threads 1`, say something. Peak memory is the process's greatest resident set in these steps,
weights included.

The floor is the arithmetic that a step cannot do without: products of matrices, forward and
backward to the picture, of rows without padding and of the picture once, divided by the rate at
which this machine multiplies matrices of the model's shapes in the same dtype, measured at every
turn. Floors of LoRA are counted in the same way.

Prints a table; the last line is one JSON document, also written to OUT/training_cost.json.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click

from benchmarks.real_shapes import MARKERS
from engines.environment import OtherWork, environment
from engines.files import staged_folder, write_json

METHODS = ("art", "lora", "lora-transformers")
SHAPES = ("demo", "Qwen3.5-0.8B")
PRECISIONS = ("fp32", "bf16")
RANK = 16
WANTED = 0.6
"""The greatest share of LoRA's step that a step is to take."""


@dataclass(frozen=True)
class Task:
    """One process's work. model: `demo` or a folder. warm: steps before those that are timed."""

    method: str
    model: str
    precision: str
    size: int | None
    data: str
    batch: int
    steps: int
    warm: int
    kind: str = "time"
    device: str = "cpu"
    threads: int | None = None

    @property
    def bf16(self) -> bool:
        return self.precision == "bf16"


def prepare(shape: str, folder: Path) -> str:
    """The model of that shape: `demo`, or a folder of random weights that is made if need be."""
    if shape == "demo":
        return shape
    if not (folder / "config.json").is_file():
        _child({"prepare": shape, "folder": str(folder)})
    return str(folder)


def _make(shape: str, folder: Path) -> dict[str, Any]:
    from engines.model import DEMO_FOLDER, load_tokenizer
    from tests.models import TINY, random_weights, save_model, shaken, tiny_model
    from tests.real_configs import real_config

    if shape.startswith("tiny-"):
        with staged_folder(folder) as staged:
            tiny_model(shape.removeprefix("tiny-"), staged)
        return {}
    config, tokenizer = real_config(shape), load_tokenizer(DEMO_FOLDER)
    for key, token in MARKERS.items():
        setattr(config, key, tokenizer.convert_tokens_to_ids(token))
    for key in ("bos", "eos", "pad"):
        setattr(config.text_config, f"{key}_token_id", getattr(tokenizer, f"{key}_token_id"))
    model = shaken(random_weights(config, "bfloat16"))
    with staged_folder(folder) as staged:
        save_model(model, tokenizer, TINY[config.model_type].processor(), staged)
    return {}


def make_loop(task: Task, accumulate: int = 1) -> Any:
    """The loop of `art` or `lora` before its first step."""
    from training.loop import Loop, LoopOptions
    from training.store import OthersFolder

    nowhere = Path("nowhere")
    learner, objective = _art(task, nowhere) if task.method == "art" else _lora(task, nowhere)
    options = LoopOptions(sys.maxsize, "constant", 1, 1, accumulate)
    return Loop(learner, objective, options, OthersFolder(nowhere), {})


def _art(task: Task, out: Path) -> tuple[Any, Any]:
    from training.encoding import after_picture
    from training.objectives import Material, load_objective, make_objective
    from training.options import TrainOptions, settle
    from training.picture import grey_start
    from training.run import make_learner
    from training.setup import load_setup, picture_size

    options = settle(
        TrainOptions(
            task.model, task.data, out, batch_size=task.batch, precision=task.precision,
            size=task.size, device=task.device, examples=_examples(task), validation_examples=2,
        )
    )  # fmt: skip
    setup = load_setup(options, picture_size(task.model, task.size))
    start = grey_start(setup.parts.picture_size, 0)
    prefix = len(setup.chat.prefix_ids())
    material = Material(setup, task.batch, 0, after_picture, prefix)
    return make_learner(options, setup, start), make_objective(load_objective("sft"), material)


def _lora(task: Task, out: Path) -> tuple[Any, Any]:
    from training.baselines.lora import LoraLearner
    from training.encoding import text_alone
    from training.objectives import Material, load_objective, make_objective
    from training.options import LoraOptions
    from training.setup import load_setup

    options = LoraOptions(
        task.model, task.data, out, rank=RANK, batch_size=task.batch, precision=task.precision,
        device=task.device, examples=_examples(task), validation_examples=2,
    )  # fmt: skip
    setup = load_setup(options, None)
    material = Material(setup, task.batch, 0, text_alone)
    return LoraLearner(setup, options), make_objective(load_objective("sft"), material)


def _examples(task: Task) -> int:
    return 64 * task.batch


def one_step(task: Task) -> Callable[[], None]:
    """What to call once a step."""
    if task.method == "lora-transformers":
        return _transformers_step(task)
    loop = make_loop(task)

    def step() -> None:
        loop.step(1.0)
        loop.at.step += 1

    return step


def _transformers_step(task: Task) -> Callable[[], None]:
    import torch

    learner, objective = _lora(replace(task, precision="fp32"), Path("nowhere"))
    model, done = learner.model.train(), 0

    def step() -> None:
        nonlocal done
        ids, mask, labels = (x.to(task.device) for x in _padded(objective.batch(None, done)))
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=task.bf16):
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        learner.update(1.0)
        done += 1

    return step


def _padded(rows: Any) -> tuple[Any, Any, Any]:
    """Token ids, mask and labels, padded on the right, as a collator for causal models has them."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids = pad_sequence([torch.tensor(row.ids) for row in rows], True)
    mask = pad_sequence([torch.ones(len(row.ids), dtype=torch.long) for row in rows], True)
    labels = [torch.tensor((*[-100] * row.start, *row.ids[row.start :])) for row in rows]
    return ids, mask, pad_sequence(labels, True, -100)


def _time(task: Task) -> dict[str, Any]:
    """Seconds of every step, and memory in bytes before and at the height of them."""
    step = one_step(task)
    for _ in range(task.warm):
        step()
    gc.collect()
    before, others = _forget_peak(task.device), OtherWork()
    times = [_seconds(step, task.device) for _ in range(task.steps)]
    return {
        "seconds": [wall for wall, _ in times],
        "cpu_seconds": [cpu for _, cpu in times],
        "bytes_before": before,
        "peak_bytes": _peak(task.device),
        "cores_busy_elsewhere": others.cores(),
    }


def _seconds(call: Callable[[], None], device: str) -> tuple[float, float]:
    """Seconds by the clock, and those that this process's threads have worked."""
    import torch

    started, worked = time.perf_counter(), time.process_time()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started, time.process_time() - worked


def _forget_peak(device: str) -> int:
    """Bytes in use now, from which on the peak is taken."""
    import torch

    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak(device: str) -> int:
    import torch

    return _status("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated()


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def _count(task: Task) -> dict[str, Any]:
    """Operations (two for a multiplication and an addition) of a step: as it is run, and with every
    row by itself, which needs no padding; and its tokens."""
    found: dict[str, Any] = {}
    for name, accumulate in (("run", 1), ("needed", task.batch)):
        loop = make_loop(task, accumulate)
        counter = _counter()
        with counter:
            loop.step(1.0)
        found[f"{name}_operations"] = counter.get_total_flops()
    rows = loop.objective.batch(None, 0)
    text = loop.learner.parts.decoder.layers[0].mlp.gate_proj.weight
    return found | {
        "tokens": sum(len(row.ids) - 1 for row in rows),
        "answer_tokens": sum(len(row.ids) - row.start for row in rows),
        "hidden_size": text.shape[1],
        "intermediate_size": text.shape[0],
    }


def _counter() -> Any:
    from torch.utils.flop_counter import FlopCounterMode

    return FlopCounterMode(display=False)


def _rate(tokens: int, hidden: int, wide: int, precision: str, device: str) -> dict[str, Any]:
    """Operations a second of the MLP's products, there and back."""
    import torch

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    rates = []
    for inner, outer in ((hidden, wide), (wide, hidden)):
        weight = torch.randn(outer, inner, device=device).to(dtype)
        rows = torch.randn(tokens, inner, device=device).to(dtype)
        done, began, spent = 0, time.perf_counter(), 0.0
        while spent < 0.5 or done < 5:
            torch.nn.functional.linear(rows, weight)
            if device != "cpu":
                torch.cuda.synchronize()
            done, spent = done + 1, time.perf_counter() - began
        rates.append(2 * tokens * inner * outer * done / spent)
    return {"rate": statistics.harmonic_mean(rates)}


def _child(task: Mapping[str, Any]) -> dict[str, Any]:
    """One task in a process of its own: its result."""
    command = [sys.executable, "-m", "benchmarks.training_cost", "--task", json.dumps(task)]
    threads = {"OMP_NUM_THREADS": str(task["threads"])} if task.get("threads") else {}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | threads
    )
    if done.returncode:
        raise click.ClickException(f"{task}:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _work(task: dict[str, Any]) -> dict[str, Any]:
    if "prepare" in task:
        return _make(task["prepare"], Path(task["folder"]))
    if "rate" in task:
        return _rate(**task["rate"])
    asked = Task(**task)
    return _count(asked) if asked.kind == "count" else _time(asked)


def count(task: Task) -> dict[str, Any]:
    """The operations of this project's two steps; they do not depend on the precision."""
    return {
        method: _child(asdict(replace(task, method=method, kind="count")))
        for method in ("art", "lora")
    }


def measure(task: Task, rounds: int, counts: Mapping[str, Any]) -> dict[str, Any]:
    """One shape in one precision: all methods in turn, `rounds` times."""
    art = counts["art"]
    shape = {
        "tokens": art["tokens"],
        "hidden": art["hidden_size"],
        "wide": art["intermediate_size"],
        "precision": task.precision,
        "device": task.device,
    }
    rates: list[float] = []
    found: dict[str, list[dict[str, Any]]] = {method: [] for method in METHODS}
    for turn in range(rounds):
        rates.append(_child({"rate": shape, "threads": task.threads})["rate"])
        for method in METHODS:
            found[method].append(_child(asdict(replace(task, method=method))))
            seconds = statistics.median(found[method][-1]["seconds"])
            _say(f"turn {turn + 1}, {method}: {seconds:.3f} s a step")
    return _summary(task, counts, rates, found)


def _summary(
    task: Task,
    counts: Mapping[str, Any],
    rates: list[float],
    found: Mapping[str, list[dict[str, Any]]],
) -> dict[str, Any]:
    rate = statistics.median(rates)
    methods: dict[str, Any] = {}
    for method, turns in found.items():
        seconds = sorted(second for turn in turns for second in turn["seconds"])
        methods[method] = {
            "step_seconds": {
                "median": statistics.median(seconds), "low": seconds[0], "high": seconds[-1],
                "n": len(seconds),
            },
            "cpu_seconds": statistics.median(cpu for turn in turns for cpu in turn["cpu_seconds"]),
            "peak_bytes": max(turn["peak_bytes"] for turn in turns),
            "bytes_before": max(turn["bytes_before"] for turn in turns),
            "cores_busy_elsewhere": max(turn["cores_busy_elsewhere"] for turn in turns),
        }  # fmt: skip
        if method in counts:
            floor = counts[method]["needed_operations"] / rate
            methods[method] |= {
                **counts[method],
                "floor_seconds": floor,
                "times_the_floor": statistics.median(seconds) / floor,
            }
    return {
        "batch": task.batch,
        "threads": task.threads,
        "data": task.data,
        "operations_a_second": {"median": rate, "low": min(rates), "high": max(rates)},
        "methods": methods,
        "ratios": dict(_ratios(methods)),
    }


def _ratios(methods: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    art = methods["art"]
    for name in METHODS[1:]:
        other = methods[name]
        yield (
            f"step art / {name}",
            (art["step_seconds"]["median"] / other["step_seconds"]["median"]),
        )
        yield f"cpu art / {name}", art["cpu_seconds"] / other["cpu_seconds"]
        yield f"peak art / {name}", art["peak_bytes"] / other["peak_bytes"]
    yield "floor art / lora", art["floor_seconds"] / methods["lora"]["floor_seconds"]


def targets(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is wanted, and whether it is so."""
    wanted = {"step": WANTED, "peak": 1.0}
    return [
        {
            "name": f"{where}: {name}",
            "wanted": f"at most {wanted[name.split()[0]]}",
            "value": value,
            "met": value <= wanted[name.split()[0]],
        }
        for where, each in found.items()
        for name, value in each["ratios"].items()
        if name.split()[0] in wanted
    ]


def _table(where: str, found: Mapping[str, Any]) -> str:
    rate = found["operations_a_second"]["median"] / 1e9
    lines = [f"{where}, batch {found['batch']} of {found['data']}; {rate:.0f} GFLOP/s of products"]
    for name, each in found["methods"].items():
        floor = f"{each['times_the_floor']:8.2f}" if "times_the_floor" in each else 8 * " "
        seconds, peak = each["step_seconds"]["median"], each["peak_bytes"] / 2**30
        lines.append(f"  {name:18}{seconds:9.3f} s a step{floor} floors{peak:9.2f} GiB at most")
    lines += [f"  {name}: {value:.2f}" for name, value in found["ratios"].items()]
    return "\n".join(lines)


def _say(text: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')} {text}", err=True)


@click.command(help=__doc__)
@click.option("--shapes", default=",".join(SHAPES), show_default=True, help="With commas; tiny-*.")
@click.option("--precisions", default=",".join(PRECISIONS), show_default=True)
@click.option("--data", default="tools", show_default=True, help="As `art-export train --task`.")
@click.option("--batch", default=16, show_default=True)
@click.option("--rounds", default=2, show_default=True)
@click.option("--steps", default=4, show_default=True, help="Timed in every process.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", type=int, help="Of the CPU.  [default: as many as cores]")
@click.option("--quick", is_flag=True, help="One turn, one step, batches of 3.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder to use.")
@click.option("--task", hidden=True)
def main(
    shapes: str, precisions: str, data: str, batch: int, rounds: int, steps: int, device: str,
    threads: int | None, quick: bool, out: Path | None, task: str | None,
) -> None:  # fmt: skip
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if task:
        click.echo(json.dumps(_work(json.loads(task))))
        return
    if out is None:
        raise click.UsageError("give a folder with -o")
    if quick:
        rounds, steps, batch = 1, 1, 3
    path = out / "training_cost.json"
    # Shapes can be measured one at a time: what was found of others stays.
    found: dict[str, Any] = json.loads(path.read_text())["shapes"] if path.is_file() else {}
    for shape in shapes.split(","):
        model = prepare(shape, out / f"model-{shape}")
        size = 64 if shape.startswith("tiny-") else None
        # A large shape takes seconds a step: fewer of them say as much.
        few, warm = (steps, 2) if shape == "demo" else (max(1, steps // 4), 1)
        asked = Task(
            "art", model, "fp32", size, data, batch, few, warm, device=device, threads=threads
        )
        counts = count(asked)
        for precision in precisions.split(","):
            where = f"{shape} {precision}"
            _say(where)
            found[where] = measure(replace(asked, precision=precision), rounds, counts)
            found[where]["environment"] = environment()
            click.echo(_table(where, found[where]))
            result = {"shapes": found, "targets": targets(found)}
            write_json(path, result)
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
