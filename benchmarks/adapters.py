"""Every way to bring the shipped model to a task, on both tasks and several seeds:

    python -m benchmarks.adapters -o runs/adapters
    python -m benchmarks.table benchmarks/results/adapters.json

Cells (one way, one task, one seed) are kept in RESULTS as they are done; what is there is not
measured again, so the table can be finished on another day, and an interrupted training goes on
from its checkpoint. All ways that train share data, batches, loop and the choice of the best step
on validation; the number of steps is each one's own and is in its cell. Everything is scored
greedily on the same held-out examples by the compiled engine: pictures as reloaded from disk, LoRA
merged and built anew, soft prompts as embeddings before the chat. Ends with one JSON line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from art_export.build import BuildOptions, build
from art_export.bundle import Bundle
from benchmarks.cells import MODEL, SIZE, Cells, Place, Prompted, Way, after
from engines.lora import save_merged
from engines.picture import save_picture
from engines.soft_prompt import load_soft_prompt
from training.artworks import ARTWORKS
from training.baselines.lora import LoraOptions, train_lora
from training.baselines.soft_prompt import SoftPromptOptions, train_soft_prompt
from training.controls import control_pictures
from training.options import PICTURE_STEPS, AdapterResult, TrainOptions, TrainResult
from training.run import train
from training.tasks import TASKS, Task
from training.teacher import TeacherPrompt

RESULTS = Path(__file__).parent / "results" / "adapters.json"
SHOTS = 4
"""Examples in the few-shot prompt."""
BALL_STEPS = 200
"""Sign steps with a hard clamp settle sooner than Adam on free pixels, which take 400."""


def shots(task: Task, seed: int) -> TeacherPrompt:
    """`SHOTS` training examples as turns of the chat before the question."""
    chosen = task.examples("train", SHOTS, seed)
    turns = [turn for e in chosen for turn in (("user", e.prompt), ("assistant", e.answer))]
    return TeacherPrompt(tuple(turns))


def bare(*, hint: bool) -> Way:
    """No picture; with `hint`, the task's own sentence for the form that it wants."""

    def measure(place: Place) -> dict[str, Any]:
        with Bundle.load(place.bundle) as bundle:
            complete = after(bundle.runtime, place.task, bundle.prefix(None))
            return place.score(complete, hint=hint)

    return measure


def few_shot(place: Place) -> dict[str, Any]:
    with Bundle.load(place.bundle) as bundle:
        asked = Prompted.of(bundle.runtime, shots(place.task, place.seed))
        score = place.score(asked.completer(place.task))
    return score | {"prompt_tokens": len(asked.shared)}


def untrained(name: str) -> Way:
    """A picture that nobody trained: "noise", or the task's "artwork"."""

    def measure(place: Place) -> dict[str, Any]:
        drawn = ARTWORKS[place.task.name](SIZE)
        pixels = drawn if name == "artwork" else control_pictures(SIZE, place.seed)[name]
        return _seen(place, _saved(place, pixels))

    return measure


def art(epsilon: str | None = None, steps: int = BALL_STEPS) -> Way:
    """A picture; with `epsilon`, one that starts from the task's artwork, stays so near, and takes
    `steps`."""

    def measure(place: Place) -> dict[str, Any]:
        free = epsilon is None
        init = None if free else _saved(place, ARTWORKS[place.task.name](SIZE))

        def run(out: Path, resume: bool) -> TrainResult:
            options = TrainOptions(
                MODEL, place.task.name, out, steps=PICTURE_STEPS if free else steps,
                seed=place.seed, size=SIZE, init=init, epsilon=epsilon, controls=False,
                resume=resume,
            )  # fmt: skip
            return train(options)

        trained = place.trained(run)
        return _seen(place, Path(trained.picture)) | {"train": place.cost(trained)}

    return measure


def _seen(place: Place, picture: Path) -> dict[str, Any]:
    """The score under a picture as it is on the disk."""
    with Bundle.load(place.bundle) as bundle:
        swapped = bundle.swap(picture, "cell")
        score = place.score(after(bundle.runtime, place.task, bundle.prefix(swapped.name)))
    return score | {"bytes": picture.stat().st_size, "context_tokens": swapped.prefix_tokens}


def _saved(place: Place, pixels: np.ndarray) -> Path:
    path = place.home / "start.png"
    save_picture(path, pixels, None)
    return path


def lora(rank: int) -> Way:
    """An adapter of that rank on all linear layers (alpha twice the rank), merged and built."""

    def measure(place: Place) -> dict[str, Any]:
        def run(out: Path, resume: bool) -> AdapterResult:
            options = LoraOptions(
                MODEL, place.task.name, out, rank=rank, alpha=2 * rank, seed=place.seed,
                resume=resume,
            )  # fmt: skip
            return train_lora(options)

        trained = place.trained(run)
        adapter = Path(trained.adapter)
        merged, built = place.home / "merged", place.home / "bundle"
        if not merged.exists():
            save_merged(MODEL, adapter, merged)
        if not built.exists():
            build(BuildOptions(str(merged), built))
        with Bundle.load(built) as bundle:
            score = place.score(after(bundle.runtime, place.task, bundle.prefix(None)))
        return score | {"train": place.cost(trained), "bytes": _bytes(adapter)}

    return measure


def soft_prompt(place: Place) -> dict[str, Any]:
    """Vectors before the chat, as many as a picture has visual tokens."""

    def run(out: Path, resume: bool) -> AdapterResult:
        options = SoftPromptOptions(MODEL, place.task.name, out, seed=place.seed, resume=resume)
        return train_soft_prompt(options)

    trained = place.trained(run)
    adapter = Path(trained.adapter)
    with Bundle.load(place.bundle) as bundle:
        runtime = bundle.runtime
        hidden = runtime.engine.embed(np.zeros((1, 1), np.int64)).shape[-1]
        vectors = load_soft_prompt(adapter, hidden)
        score = place.score(after(runtime, place.task, runtime.prefix_from_embeddings(vectors)))
    cost = {"train": place.cost(trained), "bytes": _bytes(adapter)}
    return score | cost | {"context_tokens": len(vectors)}


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


WAYS: dict[str, Way] = {
    "base": bare(hint=False),
    "text instruction": bare(hint=True),
    "few-shot prompt": few_shot,
    "untrained noise": untrained("noise"),
    "untrained artwork": untrained("artwork"),
    "ART": art(),
    "LoRA r=8": lora(8),
    "soft prompt": soft_prompt,
    "ART epsilon 32/255": art("32/255"),
    "ART epsilon 64/255": art("64/255"),
    "ART epsilon 16/255": art("16/255"),
    "ART epsilon 16/255, 400 steps": art("16/255", 2 * BALL_STEPS),
    "LoRA r=16": lora(16),
}
"""In the order in which cells are worth having."""
UNSEEDED = ("base", "text instruction", "untrained artwork")
"""Nothing is drawn for these: they have seed 0 alone."""


def names(
    ways: Sequence[str], tasks: Sequence[str], seeds: Sequence[int]
) -> Iterator[tuple[str, Task, int]]:
    """(way, task, seed), seed after seed."""
    for seed in seeds:
        for way in ways or WAYS:
            for task in tasks:
                if seed == 0 or way not in UNSEEDED:
                    yield way, TASKS[task], seed


@click.command()
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="For the runs.")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
@click.option("--seed", "seeds", multiple=True, type=int, default=(0, 1, 2), show_default=True)
@click.option("--way", "ways", multiple=True, type=click.Choice(list(WAYS)), help="Default: all.")
@click.option(
    "--task", "tasks", multiple=True, type=click.Choice(list(TASKS)), default=tuple(TASKS)
)
def main(
    out: Path,
    results: Path,
    seeds: tuple[int, ...],
    ways: tuple[str, ...],
    tasks: tuple[str, ...],
) -> None:
    """Measure the cells that RESULTS lacks."""
    about = {"model": MODEL, "batch_size": TrainOptions.batch_size}
    Cells(results, about).measure(names(ways, tasks, seeds), WAYS, out)


if __name__ == "__main__":
    main()
