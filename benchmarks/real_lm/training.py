"""Train one row of the table: the project's own loop, learners and objectives."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.real_lm.place import Place, shown
from benchmarks.real_lm.recipes import ROWS, Recipe
from engines.errors import DataError
from engines.files import sha256_file, write_json
from engines.picture import load_picture
from engines.provenance import Provenance
from training.artworks import tool_calls, word_problems
from training.baselines.lora import LoraLearner, LoraOptions
from training.baselines.soft_prompt import SoftPromptLearner, SoftPromptOptions
from training.encoding import after_picture, text_alone
from training.loop import Learner, Loop, LoopOptions, Outcome
from training.objectives import Material, load_objective, make_objective
from training.options import Progress, parse_epsilon
from training.picture import grey_start, make_picture
from training.picture_learner import PictureLearner
from training.setup import Setup, our_version
from training.store import RunFolder

VALIDATE, CHECKPOINT = 40, 10
"""Steps between validations, and between checkpoints."""
ARTWORKS = {"bfcl": tool_calls, "svamp": word_problems}


@dataclass(frozen=True)
class Training:
    """One training: a row of the table, at one learning rate, from one seed. start: the picture
    that it goes on from, None for the recipe's own start."""

    place: Place
    task: str
    row: str
    rate: float
    seed: int
    start: Path | None = None

    @property
    def recipe(self) -> Recipe:
        """How it is done."""
        return ROWS[self.row]

    @property
    def out(self) -> Path:
        """The run's folder."""
        name = f"{self.row}-{self.rate:.4g}-seed{self.seed}"
        return self.place.runs / self.task / name

    @property
    def adapter(self) -> Path:
        """What it makes: a PNG, or a folder of peft's."""
        return self.out / ("art.png" if self.recipe.kind == "art" else "adapter")

    def run(self, progress: Progress | None = None) -> dict[str, Any]:
        """Train, or go on, or find it done.

        Returns:
            its record: recipe, validation score (`exact`, `loss`), best step, seconds.

        Raises:
            DataError: what is done was trained otherwise.
        """
        record = self.out / "run.json"
        if not record.is_file():
            self._train(progress)
        found: dict[str, Any] = json.loads(record.read_text("utf-8"))
        self.check(found, str(record))
        return found

    def check(self, record: dict[str, Any], where: str) -> None:
        """DataError if the training that `record` is of, found in `where`, is another than this."""
        found = _told(record["recipe"]) | {"precision": record.get("precision", "bf16")}
        now = _told(asdict(self.recipe)) | {"precision": self.place.precision}
        other = sorted(name for name in found | now if found.get(name) != now.get(name))
        if other:
            name = other[0]
            raise DataError(
                got=f"{where}, where {self.task}/{self.row} was trained with {name} = "
                f"{found.get(name)}",
                expected=f"{name} = {now.get(name)}, as the recipe is now",
                fix="train again into other folders: give another --runs and --results",
            )

    def _train(self, progress: Progress | None) -> None:
        recipe, seed = self.recipe, self.seed
        setup = self.place.under(recipe.tower).setup(self.task, seed, recipe.size)
        resume = (self.out / "checkpoint.pt").is_file()
        if not resume:
            # Killed before its first checkpoint: nothing to go on from.
            shutil.rmtree(self.out, ignore_errors=True)
        folder = RunFolder.check(self.out, resume)
        objective = make_objective(load_objective(recipe.objective), self._material(setup))
        identity = {"recipe": asdict(recipe), "rate": self.rate, "seed": seed}
        identity["precision"] = self.place.precision
        identity |= {"weights": setup.weights_sha256, "data": setup.data.hash}
        identity["start"] = None if self.start is None else sha256_file(self.start)
        with closing(objective):
            options = LoopOptions(recipe.steps, "cosine", VALIDATE, CHECKPOINT)
            loop = Loop(self._learner(setup), objective, options, folder, identity)
            if resume:
                loop.resume()
            with self._cpu():
                outcome = loop.run(progress)
        folder.finish(identity | self._measured(outcome))

    @contextmanager
    def _cpu(self) -> Iterator[None]:
        """Adds the CPU seconds of what is done inside to those of earlier parts of the run."""
        before, began = self._cpu_seconds(), time.process_time()
        try:
            yield
        finally:
            write_json(self._cpu_file, before + time.process_time() - began)

    def _cpu_seconds(self) -> float:
        spent = self._cpu_file
        return float(json.loads(spent.read_text())) if spent.is_file() else 0.0

    @property
    def _cpu_file(self) -> Path:
        return self.out / "cpu.json"

    def _measured(self, outcome: Outcome) -> dict[str, Any]:
        made = self.adapter
        files = sorted(made.iterdir()) if made.is_dir() else [made]
        return {
            "validation": asdict(outcome.best),
            "start": asdict(outcome.start),
            "best_step": outcome.best_step,
            "seconds": round(outcome.seconds, 1),
            "step_seconds": round(outcome.step_seconds, 2),
            "cpu_seconds": round(self._cpu_seconds(), 1),
            "threads": torch.get_num_threads(),
            "device": self.place.device_name,
            "bytes": sum(file.stat().st_size for file in files),
        }

    def _material(self, setup: Setup) -> Material:
        recipe, settings = self.recipe, dict(self.recipe.settings)
        if recipe.teacher:
            path = self.place.runs / self.task / f"two-shot-seed{self.seed}.json"
            shots = ROWS["two-shot"].shots
            write_json(path, shown(setup.data.source.examples("train", shots, self.seed)))
            settings["teacher_prompt"] = str(path)
        form, prefix = text_alone, recipe.tokens if recipe.kind == "soft-prompt" else 0
        if recipe.kind == "art":
            form, prefix = after_picture, len(setup.chat.prefix_ids())
        return Material(setup, recipe.batch_size, self.seed, form, prefix, settings)

    def _learner(self, setup: Setup) -> Learner:
        recipe, model = self.recipe, str(self.place.model)
        common: dict[str, Any] = {"lr": self.rate, "seed": self.seed}
        if recipe.kind == "lora":
            lora = LoraOptions(model, self.task, self.out, rank=recipe.rank, **common)
            return LoraLearner(setup, lora)
        if recipe.kind == "soft-prompt":
            soft = SoftPromptOptions(model, self.task, self.out, tokens=recipe.tokens, **common)
            return SoftPromptLearner(setup, soft)
        radius = None if recipe.epsilon is None else parse_epsilon(recipe.epsilon)
        picture = make_picture(self._first(setup), self.rate, radius)
        return PictureLearner(setup.parts, setup.chat, picture, self.out, self._provenance(setup))

    def _first(self, setup: Setup) -> np.ndarray:
        """The first picture, uint8 (size, size, 3)."""
        size = setup.chat.layout.size
        if self.start is not None:
            return load_picture(self.start, size).pixels
        free = self.recipe.epsilon is None
        return grey_start(size, self.seed) if free else ARTWORKS[self.task](size)

    def _provenance(self, setup: Setup) -> Provenance:
        return Provenance(
            base_model=setup.source.name,
            base_hash=setup.weights_sha256,
            size=setup.chat.layout.size,
            objective=self.recipe.objective,
            task=self.task,
            data_hash=setup.data.hash,
            seed=self.seed,
            step=0,
            score=None,
            version=our_version(),
        )


def _told(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe as JSON has it, less the rates that it is compared at: a training has one."""
    found: dict[str, Any] = json.loads(json.dumps(recipe))
    return {name: value for name, value in found.items() if name != "rates"}
