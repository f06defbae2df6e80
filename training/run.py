"""Train a picture: `train(TrainOptions(...))` writes RUN/art.png, run.json and metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engines.environment import versions
from engines.picture import load_picture
from engines.provenance import Provenance
from training.controls import control_pictures
from training.encoding import after_picture, text_alone
from training.loop import Loop, LoopOptions, Outcome
from training.objectives import load_objective
from training.options import (
    Progress,
    TrainOptions,
    TrainResult,
    radius_of,
    rate_of,
    settle,
    steps_of,
)
from training.picture import grey_start, make_picture
from training.picture_learner import PictureLearner
from training.policy import picture_policy, text_policy
from training.scoring import score
from training.setup import (
    Setup,
    load_setup,
    make_rows,
    our_version,
    picture_size,
    validation_rows,
)
from training.store import RunFolder

__all__ = ["TrainOptions", "TrainResult", "train"]


def train(options: TrainOptions, progress: Progress | None = None) -> TrainResult:
    """Train one picture for a frozen model.

    The best picture on validation, as reloaded from disk, is kept (ties: the lower loss). It may
    be the start, if no step was better.

    Args:
        progress: called with ("train", step, steps) and ("controls", done, total).

    Raises:
        UserError: an option, the model, the data, the picture or the folder cannot be used;
            nothing has been written then.
        CheckFailed: training diverged.
        Interrupted: a signal came; the same options with `resume=True` go on.
    """
    options = settle(options)
    folder = RunFolder.check(options.out, options.resume)
    objective = load_objective(options.objective)
    size = picture_size(options.model, options.size)
    start, notes = _start(options, size)
    setup = load_setup(options, size)
    rows, more = make_rows(setup, after_picture, len(setup.chat.prefix_ids()))
    learner = _learner(options, setup, start)
    loop = Loop(learner, objective, rows, _loop_options(options), folder, _identity(options, setup))
    if options.resume:
        loop.resume()
    outcome = loop.run(progress)
    controls = _controls(options, setup, progress) if options.controls else {}
    result = _result(options, setup, outcome, controls, (*notes, *more))
    folder.finish(_record(options, setup, result))
    return result


def plain(options: Any) -> dict[str, Any]:
    """A dataclass of options as JSON has it."""
    return {
        key: str(value) if isinstance(value, Path) else value
        for key, value in asdict(options).items()
    }


def _start(options: TrainOptions, size: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """The first picture, uint8 (size, size, 3), and what was noted when it was read."""
    if options.init is None:
        return grey_start(size, options.seed), ()
    picture = load_picture(options.init, size)
    return picture.pixels, picture.notes


def _learner(options: TrainOptions, setup: Setup, start: np.ndarray) -> PictureLearner:
    provenance = Provenance(
        base_model=setup.source.name,
        base_hash=setup.weights_sha256,
        size=setup.parts.picture_size,
        objective=options.objective,
        task=setup.data.source.name,
        data_hash=setup.data.hash,
        seed=options.seed,
        step=0,
        score=None,
        version=our_version(),
    )
    picture = make_picture(start, rate_of(options), radius_of(options))
    return PictureLearner(setup.parts, setup.chat, picture, options.out, provenance)


def _loop_options(options: TrainOptions) -> LoopOptions:
    return LoopOptions(
        steps=steps_of(options),
        batch_size=options.batch_size,
        seed=options.seed,
        schedule=options.schedule,
        validate_every=options.validate_every,
        checkpoint_every=options.checkpoint_every,
    )


def _identity(options: TrainOptions, setup: Setup) -> dict[str, Any]:
    """What a resumed run must share with its first part."""
    return plain(options) | {"weights": setup.weights_sha256, "data": setup.data.hash}


@torch.no_grad()
def _controls(options: TrainOptions, setup: Setup, progress: Progress | None) -> dict[str, float]:
    """Validation scores without a picture and under pictures that nobody trained."""
    pictures = control_pictures(setup.parts.picture_size, options.seed)
    rows = validation_rows(setup, text_alone, 0)
    scores = {"none": score(text_policy(setup.parts), rows, options.batch_size)}
    rows = validation_rows(setup, after_picture, len(setup.chat.prefix_ids()))
    for done, (name, pixels) in enumerate(pictures.items(), 1):
        if progress is not None:
            progress("controls", done, len(pictures) + 1)
        policy = picture_policy(setup.parts, setup.chat, torch.tensor(pixels).float())
        scores[name] = score(policy, rows, options.batch_size)
    return {name: found.exact for name, found in scores.items()}


def _result(
    options: TrainOptions,
    setup: Setup,
    outcome: Outcome,
    controls: dict[str, float],
    notes: tuple[str, ...],
) -> TrainResult:
    art = options.out / "art.png"
    return TrainResult(
        out=options.out,
        picture=art,
        picture_sha256=load_picture(art, setup.parts.picture_size).sha256,
        step=outcome.best_step,
        score=outcome.best.exact,
        loss=outcome.best.loss,
        seconds=round(outcome.seconds, 3),
        step_seconds=round(outcome.step_seconds, 4),
        steps=outcome.steps,
        weights_sha256=setup.weights_sha256,
        data_hash=setup.data.hash,
        controls={"start": outcome.start.exact, **controls},
        notes=notes,
    )


def _record(options: TrainOptions, setup: Setup, result: TrainResult) -> Mapping[str, Any]:
    """run.json: enough to run it again and to know what it was run on."""
    return {
        "kind": "picture",
        "options": plain(options),
        "model": setup.model_record(),
        "data": setup.data.record(),
        "versions": dict(versions()),
        "result": plain(result),
    }
