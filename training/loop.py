"""The training loop. It knows neither what is trained nor which objective is asked for.

A step is: batch -> policy -> loss -> backward -> update. Nothing in it draws from a shared random
generator (batches depend on the seed and the step alone), so a checkpoint needs no generator's
state, and a resumed run goes on bit for bit as if it had not stopped.

Several processes (`training.processes`) each run this loop on their own rows of every batch. What
decides how it goes on, the loss, the gradient, a signal, is first brought together, so that all
of them do the same. Files are the main process's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch

from engines.errors import CheckFailed, OptionError
from training import processes
from training.interruption import Interrupted, Interruption
from training.objectives import Objective
from training.options import Progress
from training.policy import Policy
from training.reporters import Reporter
from training.scoring import Score
from training.store import RunFolder

EXPLODED = 100.0
"""A loss this many times the first one (or 1 nat, if that is more) has nothing left to learn."""


class Learner(Protocol):
    """What is trained: a picture, or an adapter that it is compared with.

    One whose `collect` brings the gradients of several processes together says so by an attribute
    `joins_processes = True`; and its `keep` writes in the main process alone.
    """

    def policy(self, step: int) -> Policy:
        """The model with what is trained, differentiable in it, for `step` (from 0)."""

    def collect(self) -> dict[str, float]:
        """Bring the gradient of all losses since `policy`, and of whatever else pulls at it, to
        what is trained; its Euclidean norm as `gradient_norm`, and what else is to be logged."""

    def update(self, rate: float) -> None:
        """One optimiser step with the learning rate times `rate`; forgets the gradient."""

    def candidate(self, step: int) -> Policy:
        """What would be kept now, as reloaded from where it is saved."""

    def keep(self, step: int, exact: float) -> None:
        """Save the last candidate as the best, replacing any other in one step."""

    def state(self) -> dict[str, Any]:
        """Everything that later steps depend on, and the best; saved at once, so it may alias."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""


@dataclass(frozen=True)
class LoopOptions:
    """`schedule`: constant or cosine (to zero at the last step). `accumulate`: into how many parts
    a step's batch is cut, differentiated one after the other."""

    steps: int
    schedule: str
    validate_every: int
    checkpoint_every: int
    accumulate: int = 1


@dataclass
class Progression:
    """How far a run is. `seconds` is all time in the loop, `step_seconds` that of steps alone."""

    step: int = 0
    best_step: int = -1
    best: Score | None = None
    start: Score | None = None
    first_loss: float | None = None
    seconds: float = 0.0
    step_seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """`start` is the score before the first step; the rest as in `Progression`."""

    start: Score
    best: Score
    best_step: int
    steps: int
    seconds: float
    step_seconds: float


@dataclass
class Means:
    """Means of numbers over the parts of a step, weighted by the parts' shares of the whole.

    One that some parts lack, because nothing in them had it, is the mean over those that have it.
    """

    sums: dict[str, float] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)

    def add(self, numbers: Mapping[str, float], share: float) -> None:
        """Those of one part."""
        for name, number in numbers.items():
            self.sums[name] = self.sums.get(name, 0.0) + share * number
            self.shares[name] = self.shares.get(name, 0.0) + share

    def over_processes(self) -> dict[str, float]:
        """The means, over the parts of all processes."""
        sums = processes.summed_by_name(self.sums)
        shares = processes.summed_by_name(self.shares)
        # Parts that together are the whole have shares of 1 but for rounding, which stays out.
        whole = {name for name, share in shares.items() if abs(share - 1) < 1e-9}
        return {
            name: number if name in whole else number / shares[name]
            for name, number in sums.items()
        }


class Loop:
    """One run, from wherever its folder's checkpoint has left it.

    Args:
        identity: options and hashes that a resumed run must share with the first part.
        reporters: who is told all metrics, beside the folder.
    """

    def __init__(
        self,
        learner: Learner,
        objective: Objective,
        options: LoopOptions,
        folder: RunFolder,
        identity: Mapping[str, Any],
        reporters: Sequence[Reporter] = (),
    ) -> None:
        self.learner, self.objective = learner, objective
        self.options, self.folder, self.identity = options, folder, identity
        self.reporters, self.at = reporters, Progression()
        self._clock = time.perf_counter()
        processes.join()
        if processes.count() > 1 and not getattr(learner, "joins_processes", False):
            raise OptionError(
                got=f"{processes.count()} processes for something else than a picture",
                expected="a single process",
                fix="start the command without accelerate or torchrun",
            )

    def resume(self) -> None:
        """Take up the folder's checkpoint."""
        state = processes.from_main(lambda: self.folder.load(self.identity))
        self.learner.restore(state["learner"])
        self.objective.restore(state["objective"])
        at = dict(state["at"])
        for name in ("best", "start"):
            at[name] = Score(**at[name]) if at[name] is not None else None
        self.at = Progression(**at)

    def run(self, progress: Progress | None = None) -> Outcome:
        """Train to the last step.

        Raises:
            CheckFailed: the loss or its gradient is not finite, or the loss has exploded.
            Interrupted: SIGINT or SIGTERM came; the checkpoint is written.
        """
        steps = self.options.steps
        with Interruption() as interruption:
            self._clock = time.perf_counter()
            if self.at.best is None:
                self._validate()
            while self.at.step < steps:
                if progress is not None:
                    progress("train", self.at.step, steps)
                self._advance()
                if processes.anywhere(interruption.requested) and self.at.step < steps:
                    self._stop()
        if progress is not None:
            progress("train", steps, steps)
        return self._outcome()

    def _advance(self) -> None:
        started = time.perf_counter()
        rate = self._rate()
        measured = self.step(rate)
        self.at.step += 1
        self.at.step_seconds += time.perf_counter() - started
        self._log(step=self.at.step, **measured, rate=rate)
        last = self.at.step == self.options.steps
        if last or self.at.step % self.options.validate_every == 0:
            self._validate()
        if last or self.at.step % self.options.checkpoint_every == 0:
            self._save()
        self._tick()

    def step(self, rate: float) -> dict[str, float]:
        """One optimiser step; its loss, gradient norm and whatever else was measured."""
        policy = self.learner.policy(self.at.step)
        batch = self.objective.batch(policy, self.at.step)
        mean = Means()
        for part, share in self._parts(batch):
            loss, metrics = self.objective.loss(policy, part)
            # Without a gradient: nothing in this part tells better from worse.
            if loss.requires_grad:
                (loss * share).backward()
            mean.add({"loss": float(loss.detach()), **metrics}, share)
        measured = mean.over_processes()
        self._check(measured["loss"], "loss")
        measured |= self.learner.collect()
        self._check(measured["gradient_norm"], "gradient")
        self._check_level(measured["loss"])
        self.learner.update(rate)
        return measured

    def _parts(self, batch: Sequence[Any]) -> Iterator[tuple[Sequence[Any], float]]:
        """This process's rows of the batch in parts, each with its share of the whole."""
        size = -(-len(batch) // self.options.accumulate)
        parts = [batch[first : first + size] for first in range(0, len(batch), size)]
        whole = sum(self.objective.weight(part) for part in parts)
        for part in parts:
            own = part[processes.index() :: processes.count()]
            if own:
                yield own, self.objective.weight(own) / whole

    def _check_level(self, loss: float) -> None:
        if self.at.first_loss is None:
            self.at.first_loss = loss
        if loss > EXPLODED * max(1.0, self.at.first_loss):
            raise self._diverged(f"the loss went from {self.at.first_loss:.3g} to {loss:.3g}")

    def _rate(self) -> float:
        """What the learning rate is multiplied by at this step."""
        if self.options.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * self.at.step / self.options.steps))

    def _validate(self) -> None:
        with torch.no_grad():
            policy = self.learner.candidate(self.at.step)
            found = self.objective.score(policy)
        better = found.beats(self.at.best)
        self._log(step=self.at.step, validation=asdict(found), best=better)
        if self.at.start is None:
            self.at.start = found
        if better:
            self.at.best, self.at.best_step = found, self.at.step
            self.learner.keep(self.at.step, found.exact)

    def _log(self, **values: Any) -> None:
        self.folder.log(**values)
        for reporter in self.reporters:
            reporter.log(values)

    def _save(self) -> None:
        self._tick()
        state = {
            "learner": self.learner.state(),
            "objective": self.objective.state(),
            "at": asdict(self.at),
        }
        self.folder.save(state, self.identity)

    def _stop(self) -> None:
        self._save()
        raise Interrupted(
            f"stopped after step {self.at.step} of {self.options.steps}; nothing is lost.\n"
            "To go on, repeat the command with --resume added."
        )

    def _check(self, value: float, what: str) -> None:
        if not math.isfinite(value):
            raise self._diverged(f"the {what} is {value}")

    def _diverged(self, what: str) -> CheckFailed:
        return CheckFailed(
            f"training diverged at step {self.at.step + 1}: {what}.\n"
            f"The best so far, of step {self.at.best_step}, is in {self.folder.path}.\n"
            "Train again into another folder with a lower --lr."
        )

    def _outcome(self) -> Outcome:
        at = self.at
        if at.best is None or at.start is None:
            raise RuntimeError("a run ended before its first validation")
        mean = at.step_seconds / max(1, at.step)
        return Outcome(at.start, at.best, at.best_step, at.step, at.seconds, mean)

    def _tick(self) -> None:
        now = time.perf_counter()
        self.at.seconds += now - self._clock
        self._clock = now
