"""Train a picture: `train(TrainOptions(...))` writes RUN/art.png, run.json and metrics.jsonl."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engines.environment import versions
from engines.errors import OptionError
from engines.picture import load_picture
from engines.provenance import Provenance
from engines.quantization import round_weights
from training import processes
from training.artworks import artwork_of
from training.controls import control_pictures
from training.distortions import DISTORTIONS, check_distortions
from training.encoding import after_picture, text_alone
from training.likeness import Likeness
from training.loop import Loop, LoopOptions, Outcome
from training.objectives import Material, Objective, Supervised, load_objective, make_objective
from training.options import (
    AdapterOptions,
    Progress,
    TrainOptions,
    TrainResult,
    radius_of,
    rate_of,
    settle,
    steps_of,
)
from training.picture import grey_start, make_picture
from training.picture_learner import PictureLearner, Treatment
from training.placement import placed
from training.plugins import source_hash
from training.policy import picture_policy, text_policy
from training.reporters import Reporter, check_kinds, opened
from training.setup import Setup, load_setup, our_version, picture_size
from training.store import RunFolder, open_folder

__all__ = ["TrainOptions", "TrainResult", "train"]


def train(
    options: TrainOptions,
    progress: Progress | None = None,
    reporters: Sequence[Reporter] = (),
) -> TrainResult:
    """Train one picture for a frozen model.

    The best picture on validation, as reloaded from disk, is kept (ties: the lower loss). It may
    be the start, if no step was better.

    Args:
        progress: called with ("train", step, steps) and ("controls", done, total).
        reporters: who is told all metrics, beside metrics.jsonl and `options.log_to`.

    Raises:
        UserError: an option, the model, the data, the picture or the folder cannot be used;
            nothing has been written then.
        CheckFailed: training diverged.
        Interrupted: a signal came; the same options with `resume=True` go on.
    """
    processes.join()
    options = settle(options)
    check_distortions(options.robust)
    check_kinds(options.log_to)
    folder = open_folder(options.out, options.resume)
    found = load_objective(options.objective)
    size = picture_size(options.model, options.size)
    start, notes = _start(options, size)
    # Spread over devices from main memory, if it is to be.
    setup = load_setup(options, size, "cpu" if options.device_map else None)
    if options.weights is not None:
        round_weights(setup.parts, options.weights)
    with _placed(options, setup) as loaded_at_use:
        if loaded_at_use:
            options = replace(options, recompute=True)
        objective = make_objective(found, _material(options, setup))
        learner = make_learner(options, setup, start, objective.same_view)
        run = _Run(options, setup, objective, learner, folder, notes)
        return run.train(progress, reporters)


def _placed(options: TrainOptions, setup: Setup) -> AbstractContextManager[bool]:
    if options.device_map is None:
        return nullcontext(False)
    if processes.count() > 1:
        raise OptionError(
            got=f"--device-map in {processes.count()} processes",
            expected="one process for a model that is spread over devices",
            fix="leave --device-map out, or start the command by itself",
        )
    return placed(setup.parts, options.device, options.device_map)


@dataclass(frozen=True)
class _Run:
    """A run with all that it needs."""

    options: TrainOptions
    setup: Setup
    objective: Objective
    learner: PictureLearner
    folder: RunFolder
    notes: tuple[str, ...]

    def train(self, progress: Progress | None, reporters: Sequence[Reporter]) -> TrainResult:
        """All steps, and what is measured after the last."""
        options, setup, objective, learner = (
            self.options, self.setup, self.objective, self.learner,
        )  # fmt: skip
        facts = source_hash(options.objective) | objective.facts()
        main = processes.is_main()
        progress, kinds = (progress, options.log_to) if main else (None, ())
        with closing(objective), opened(kinds, options.out, plain(options)) as more:
            told = (*reporters, *more) if main else ()
            identity = identity_of(options, setup) | facts
            loop = Loop(learner, objective, loop_options(options), self.folder, identity, told)
            if options.resume:
                loop.resume()
            outcome = loop.run(progress)
            learner.write_strip()
            measured = objective.report(learner.best()) | _distorted(options, learner, objective)
            controls = _controls(options, setup, objective, progress) if options.controls else {}
        notes = (*self.notes, *objective.notes)
        controls = {"start": outcome.start.exact, **controls}
        result = processes.from_main(
            lambda: _result(options, setup, outcome, controls, measured, notes)
        )
        self.folder.finish({**record("picture", options, setup, result), "facts": facts})
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
    drawn = artwork_of(str(options.init), size)
    if drawn is not None:
        return drawn, ()
    picture = load_picture(options.init, size)
    return picture.pixels, picture.notes


def make_learner(
    options: TrainOptions, setup: Setup, start: np.ndarray, same_view: int = 1
) -> PictureLearner:
    """What trains the picture `start`, uint8 (size, size, 3), as `options` ask for; `same_view` is
    the objective's."""
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
    treatment = Treatment(
        Likeness(options.variation, options.low),
        tuple(options.robust),
        options.seed,
        same_view,
        bf16=options.precision == "bf16",
        recompute=options.recompute,
    )
    return PictureLearner(setup.parts, setup.chat, picture, options.out, provenance, treatment)


def loop_options(options: TrainOptions | AdapterOptions) -> LoopOptions:
    """What the loop is told of a run's options."""
    return LoopOptions(
        steps=steps_of(options),
        schedule=options.schedule,
        validate_every=options.validate_every,
        checkpoint_every=options.checkpoint_every,
        accumulate=options.accumulate,
    )


def identity_of(options: TrainOptions | AdapterOptions, setup: Setup) -> dict[str, Any]:
    """What a resumed run must share with its first part."""
    return plain(options) | {"weights": setup.weights_sha256, "data": setup.data.hash}


def _material(options: TrainOptions, setup: Setup) -> Material:
    return Material(
        setup,
        options.batch_size,
        options.seed,
        after_picture,
        len(setup.chat.prefix_ids()),
        options.settings,
    )


@torch.no_grad()
def _controls(
    options: TrainOptions, setup: Setup, objective: Objective, progress: Progress | None
) -> dict[str, float]:
    """Validation scores under pictures that nobody trained and, where the objective can be asked
    so, without any."""
    pictures, scores = control_pictures(setup.parts.picture_size, options.seed), {}
    if isinstance(objective, Supervised):
        material = replace(_material(options, setup), form=text_alone, prefix=0)
        bare = Supervised.of(objective.function, material)
        scores["none"] = bare.score(text_policy(setup.parts)).exact
    for done, (name, pixels) in enumerate(pictures.items(), 1):
        if progress is not None:
            progress("controls", done, len(pictures) + 1)
        policy = picture_policy(setup.parts, setup.chat, torch.tensor(pixels).float())
        scores[name] = objective.score(policy).exact
    return scores


@torch.no_grad()
def _distorted(
    options: TrainOptions, learner: PictureLearner, objective: Objective
) -> dict[str, Any]:
    """The best picture's validation score after each distortion that it was to survive."""
    if not options.robust:
        return {}
    best = torch.tensor(learner.best_pixels()).float()
    scores = {}
    for name in options.robust:
        seen = DISTORTIONS[name](best, random.Random(options.seed))
        policy = picture_policy(learner.parts, learner.chat, seen)
        scores[name] = objective.score(policy).exact
    return {"exact_after": scores}


def _result(
    options: TrainOptions,
    setup: Setup,
    outcome: Outcome,
    controls: dict[str, float],
    measured: dict[str, Any],
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
        controls=controls,
        measured=measured,
        notes=notes,
    )


def record(
    kind: str, options: TrainOptions | AdapterOptions, setup: Setup, result: Any
) -> Mapping[str, Any]:
    """run.json: enough to run it again and to know what it was run on."""
    return {
        "kind": kind,
        "options": plain(options),
        "model": setup.model_record(),
        "data": setup.data.record(),
        "versions": dict(versions()),
        "processes": processes.count(),
        "result": plain(result),
    }
