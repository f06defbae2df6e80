"""What tables are made of: cells, each one way, one task and one seed, measured once and kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import torch

from art_export.build import BuildOptions, build
from art_export.evaluate import evaluate
from benchmarks.locking import locked
from engines.environment import cpu, environment
from engines.files import write_json
from engines.prefix import PrefixState
from engines.runtime import Runtime
from engines.sampling import SamplingOptions, sample
from training.rollouts import text_prefix
from training.tasks import Task
from training.teacher import TeacherPrompt, shared_start

MODEL, SIZE = "demo", 256
COUNT = 500
"""Held-out examples; the same for all cells."""
GREEDY = SamplingOptions(temperature=0.0)
Complete = Callable[[Sequence[str]], list[str]]


@dataclass(frozen=True)
class Place:
    """Where a cell is measured: its task and seed, a folder of its own, and the bundle of the
    untouched model."""

    task: Task
    seed: int
    home: Path
    bundle: Path

    def trained(self, train: Callable[[Path, bool], Any]) -> Any:
        """The result of `train(run folder, whether to resume)`; of one that has ended before, what
        its record says. CPU seconds are added up over resumed parts."""
        run, spent = self.home / "run", self.home / "cpu.json"
        if (run / "run.json").exists():
            return SimpleNamespace(**json.loads((run / "run.json").read_text())["result"])
        before = json.loads(spent.read_text()) if spent.exists() else 0.0
        began = time.process_time()
        try:
            return train(run, (run / "checkpoint.pt").exists())
        finally:
            write_json(spent, before + time.process_time() - began)

    def cost(self, result: Any) -> dict[str, Any]:
        """What a finished training took; wall seconds depend on what else the machine did."""
        return {
            "seconds": result.seconds,
            "cpu_seconds": round(json.loads((self.home / "cpu.json").read_text()), 1),
            "threads": torch.get_num_threads(),
            "steps": result.steps,
            "best_step": result.step,
            "validation": result.score,
        }

    def score(self, complete: Complete, *, hint: bool = False) -> dict[str, Any]:
        """Share right of the held-out examples; `marks` has 1 or 0 for each, in their order."""
        examples, said = self.task.examples("test", COUNT, hint=hint), dict[str, str]()

        def remember(prompts: Sequence[str]) -> list[str]:
            answers = complete(prompts)
            said.update(zip(prompts, answers, strict=True))
            return answers

        found = asdict(evaluate(remember, examples, self.task.is_correct))
        right = (self.task.is_correct(said[one.prompt], one.answer) for one in examples)
        kept = {name: found[name] for name in ("correct", "n", "accuracy", "low", "high")}
        return kept | {"marks": "".join("01"[mark] for mark in right)}


def after(runtime: Runtime, task: Task, prefix: PrefixState) -> Complete:
    """Answers that follow a prefix state."""

    def complete(prompts: Sequence[str]) -> list[str]:
        prefixes = [prefix] * len(prompts)
        return [one.text for one in runtime.generate(prompts, prefixes, task.max_new_tokens)]

    return complete


@dataclass(frozen=True)
class Prompted:
    """A prompt in words; `shared`: its first tokens, which do not depend on the question."""

    runtime: Runtime
    prompt: TeacherPrompt
    shared: tuple[int, ...]

    @classmethod
    def of(cls, runtime: Runtime, prompt: TeacherPrompt) -> Prompted:
        asked = [prompt.ids(runtime.chat, question) for question in ("One.", "Another one?")]
        return cls(runtime, prompt, tuple(asked[0][: shared_start(asked)]))

    def whole(self, question: str) -> list[int]:
        return self.prompt.ids(self.runtime.chat, question)

    def tail(self, question: str) -> list[int]:
        return self.whole(question)[len(self.shared) :]

    def prefix(self) -> PrefixState:
        return text_prefix(self.runtime, self.shared)

    def completer(self, task: Task) -> Complete:
        """Answers after the prompt, of which the shared part is read once."""
        prefix = self.prefix()

        def complete(prompts: Sequence[str]) -> list[str]:
            tails = [self.tail(question) for question in prompts]
            prefixes, seeds = [prefix] * len(tails), [[(0,)] for _ in tails]
            drawn = sample(self.runtime, tails, prefixes, task.max_new_tokens, GREEDY, seeds)
            return [one.text for (one,) in drawn]

        return complete


def folder_of(way: str, task: str, seed: int) -> str:
    """Name of a cell's own folder."""
    return f"{task}-{way}-{seed}".replace("/", "-").replace(" ", "-")


class Cells:
    """A results file. `about` must be the same for all cells in it; each says on which CPU it was
    measured, and `environment` is that of the last."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path, self.about = path, dict(about)
        self.cells = self._kept()

    def _kept(self) -> dict[str, Any]:
        """The file's cells; ClickException if they are about something else."""
        kept = json.loads(self.path.read_text()) if self.path.exists() else {}
        other = [name for name, value in self.about.items() if kept.get(name, value) != value]
        if other:
            raise click.ClickException(
                f"{self.path} was measured with another {other[0]}; give another --results"
            )
        found: dict[str, Any] = kept.get("cells", {})
        return found

    def measure(
        self,
        names: Iterable[tuple[str, Task, int]],
        ways: Mapping[str, Way],
        home: Path,
    ) -> None:
        """Measure the cells (way, task, seed) that are not there yet, one after the other."""
        torch.set_num_threads(1)  # so that CPU seconds are what an idle core would take
        bundle = home / "bundle"
        if not bundle.exists():
            build(BuildOptions(MODEL, bundle))
        for way, task, seed in names:
            name = f"{task.name}/{way}/{seed}"
            if name in self.cells:
                continue
            own = home / folder_of(way, task.name, seed)
            own.mkdir(parents=True, exist_ok=True)
            found = ways[way](Place(task, seed, own, bundle))
            self._add(name, {"task": task.name, "way": way, "seed": seed, **found})
        click.echo(json.dumps({"results": str(self.path), "cells": len(self.cells)}))

    def _add(self, name: str, cell: dict[str, Any]) -> None:
        # Another process may have added cells meanwhile, and may be about to add one.
        with locked(self.path):
            self.cells = {**self._kept(), name: {**cell, "cpu": cpu()}}
            about = {**self.about, "environment": environment()}
            write_json(self.path, {**about, "cells": self.cells})
        told = {key: value for key, value in cell.items() if key != "marks"}
        click.echo(json.dumps({name: told}))


Way = Callable[[Place], dict[str, Any]]
"""Measures one cell."""
