"""What the objectives beyond supervised training reach on the shipped model:

    python -m benchmarks.objectives -o runs/objectives
    python -m benchmarks.table benchmarks/results/objectives.json

- `GRPO`: from the base model (a grey picture), rewarded for answers of its own that the compiled
  engine draws. What counts is its share of the gain that supervised training has on the base model.
- `distilled`: a picture that stands for a long prompt; `long prompt` is the prompt itself.
- `first token`: seconds from a question to the logits of its answer's first token, on the compiled
  engine: after the whole prompt, after the prompt with the part that all questions share cached,
  and after the distilled picture. Taken in turn, question by question.

Cells are kept as in `benchmarks.adapters`.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from art_export.bundle import Bundle
from benchmarks.cells import MODEL, SIZE, Cells, Place, Prompted, Way, after, folder_of
from engines.errors import DataError
from engines.files import write_json
from engines.runtime import Runtime
from training.artworks import MARK
from training.options import TrainOptions, TrainResult
from training.run import train
from training.tasks import TASKS, Task
from training.tasks.tools import TOOLS
from training.teacher import PLACE, load_teacher

RESULTS = Path(__file__).parent / "results" / "objectives.json"
TIMED = 60
"""Questions whose time to the first token is measured."""
GRPO = {"steps": 75, "lr": 0.1, "batch_size": 12}
DISTILL_STEPS = 100


def long_prompt(task: Task) -> list[dict[str, str]]:
    """A system prompt with the signatures of all tools and the instructions, and the question.

    The shipped model has never read more than a few lines before a request, so prompts of this
    length distract it. Of forty forms tried on validation examples this one does best: the
    instructions are repeated, and so is the question.
    """
    signatures = [_signature(name, arguments) for name, (arguments, _) in TOOLS.items()]
    said = " ".join(task.hints[task.target])
    asked = f"{PLACE} {task.hints[task.target][0]}"
    return [
        {"role": "system", "content": "\n".join([*signatures, " ".join([said] * 6)])},
        {"role": "user", "content": "\n".join([asked] * 3)},
    ]


def _signature(name: str, arguments: Iterable[str]) -> str:
    return f"{name}({', '.join(f'{argument}=...' for argument in arguments)})"


def grpo(place: Place, **changes: Any) -> dict[str, Any]:
    """A picture by reward alone, from grey unless `changes` to the options say otherwise."""
    settings = {"bundle": str(place.bundle), **changes.pop("settings", {})}
    if changes.get("epsilon"):
        changes["init"] = Path(f"{MARK}{place.task.name}")

    def run(out: Path, resume: bool) -> TrainResult:
        return train(
            TrainOptions(
                MODEL, place.task.name, out, objective="grpo", seed=place.seed, size=SIZE,
                controls=False, resume=resume, settings=settings, **(GRPO | changes),
            )
        )  # fmt: skip

    trained = place.trained(run)
    log = place.home / "run" / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [line for line in lines if "mismatch" in line]
    mean = {name: statistics.fmean(line[name] for line in steps) for name in ("mismatch", "reward")}
    return _seen(place, Path(trained.picture)) | {
        "train": {**place.cost(trained), **mean, **trained.measured}
    }


def prompted(place: Place) -> dict[str, Any]:
    """The long prompt itself."""
    with Bundle.load(place.bundle) as bundle:
        asked = Prompted.of(bundle.runtime, load_teacher(place.task, str(_prompt(place))))
        score = place.score(asked.completer(place.task))
    return score | {"shared_tokens": len(asked.shared)}


def distilled(place: Place) -> dict[str, Any]:
    """A picture for the long prompt, near the task's artwork; no reference answer is read.

    From grey, by Adam, none of the teacher's answers was met after 75 steps; sign steps from an
    artwork are several times faster here, as they are in supervised training.
    """
    settings = {"teacher_prompt": str(_prompt(place)), "bundle": str(place.bundle)}

    def run(out: Path, resume: bool) -> TrainResult:
        options = TrainOptions(
            MODEL, place.task.name, out, objective="distill", seed=place.seed, size=SIZE,
            init=Path(f"{MARK}{place.task.name}"), epsilon="32/255", steps=DISTILL_STEPS,
            controls=False, resume=resume, settings=settings,
        )  # fmt: skip
        return train(options)

    trained = place.trained(run)
    return _seen(place, Path(trained.picture)) | {"train": place.cost(trained)}


def first_token(place: Place) -> dict[str, Any]:
    """Tokens read for a question, and seconds to its answer's first token, in three ways."""
    picture = (
        place.home.parent / folder_of("distilled", place.task.name, place.seed) / "run" / "art.png"
    )
    if not picture.is_file():
        raise DataError(str(picture), "the picture of the cell 'distilled'", "measure that first")
    questions = [example.prompt for example in place.task.examples("test", TIMED)]
    with Bundle.load(place.bundle) as bundle:
        runtime = bundle.runtime
        asked = Prompted.of(runtime, load_teacher(place.task, str(_prompt(place))))
        seen = bundle.prefix(bundle.swap(picture, "cell").name)
        nothing, cached = runtime.prefix(None), asked.prefix()
        ways: dict[str, tuple[Callable[[str], Sequence[int]], Any]] = {
            "long prompt": (asked.whole, nothing),
            "long prompt, shared part cached": (asked.tail, cached),
            "picture": (runtime.chat.tail_ids, seen),
        }
        return {"ways": _timed(runtime, ways, questions), "questions": len(questions)}


def _timed(
    runtime: Runtime,
    ways: dict[str, tuple[Callable[[str], Sequence[int]], Any]],
    questions: Sequence[str],
) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    tokens: dict[str, list[int]] = {name: [] for name in ways}
    for question in questions:
        for name, (ids_of, prefix) in ways.items():
            ids = ids_of(question)
            began, used = time.perf_counter(), time.process_time()
            runtime.prefill([ids], [prefix])
            seconds[name].append(time.perf_counter() - began)
            spent[name].append(time.process_time() - used)
            tokens[name].append(len(ids))
    return {
        name: {
            "read_tokens": statistics.fmean(tokens[name]),
            "context_tokens": prefix.length + statistics.fmean(tokens[name]),
            "seconds": _spread(seconds[name]),
            "cpu_seconds": _spread(spent[name]),
        }
        for name, (_, prefix) in ways.items()
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles, and how many."""
    low, median, high = statistics.quantiles(values, n=4)
    return {"median": median, "low": low, "high": high, "n": len(values)}


def _seen(place: Place, picture: Path) -> dict[str, Any]:
    with Bundle.load(place.bundle) as bundle:
        swapped = bundle.swap(picture, "cell")
        score = place.score(after(bundle.runtime, place.task, bundle.prefix(swapped.name)))
    return score | {"bytes": picture.stat().st_size, "context_tokens": swapped.prefix_tokens}


def _prompt(place: Place) -> Path:
    path = place.home / "prompt.json"
    write_json(path, long_prompt(place.task))
    return path


WAYS: dict[str, tuple[Way, tuple[str, ...]]] = {
    "long prompt": (prompted, ("tools",)),
    "distilled": (distilled, ("tools",)),
    "first token": (first_token, ("tools",)),
    "GRPO": (grpo, ("tools", "math")),
    "GRPO epsilon 32/255": (partial(grpo, lr=None, epsilon="32/255"), ("math", "tools")),
    "GRPO epsilon 32/255, 150 steps": (
        partial(grpo, lr=None, epsilon="32/255", steps=150),
        ("math",),
    ),
    "GRPO epsilon 32/255, groups of 16": (
        partial(grpo, lr=None, epsilon="32/255", settings={"group": 16}),
        ("math",),
    ),
    "GRPO at rate 0.3, 225 steps": (partial(grpo, lr=0.3, steps=225), ("math",)),
}
"""Name -> what measures it, and on which tasks: the model follows no long prompt on the other."""


@click.command()
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="For the runs.")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
@click.option("--seed", "seeds", multiple=True, type=int, default=(0,), show_default=True)
@click.option("--way", "ways", multiple=True, type=click.Choice(list(WAYS)), help="Default: all.")
@click.option("--task", "tasks", multiple=True, type=click.Choice(list(TASKS)), help="Default: all")
def main(
    out: Path, results: Path, seeds: tuple[int, ...], ways: tuple[str, ...], tasks: tuple[str, ...]
) -> None:
    """Measure the cells that RESULTS lacks."""
    wanted = [
        (way, TASKS[task], seed)
        for seed in seeds
        for way in ways or WAYS
        for task in WAYS[way][1]
        if not tasks or task in tasks
    ]
    measures = {way: measure for way, (measure, _) in WAYS.items()}
    Cells(results, {"model": MODEL}).measure(wanted, measures, out)


if __name__ == "__main__":
    main()
