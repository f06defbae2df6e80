"""What the baselines share: peft's adapters on the same data, batches, seed and loop as a picture.

Text alone, without any picture. A baseline is an `AdapterLearner`: which adapter, and how the model
is run with it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import peft
import torch

from engines.adapter import CONFIG_NAME, WEIGHTS_NAME, adapter_to_bytes
from engines.errors import OptionError
from engines.families.parts import Parts
from engines.files import write_bytes
from engines.lora import without_noise
from training import processes
from training.encoding import text_alone
from training.loop import Loop, Outcome
from training.memory import lighten
from training.objectives import Material, Objective, load_objective, make_objective
from training.options import AdapterOptions, AdapterResult, Progress, check_adapter
from training.policy import Policy
from training.reporters import Reporter
from training.run import identity_of, loop_options, record
from training.setup import Setup, load_setup
from training.store import RunFolder


class AdapterLearner(ABC):
    """An adapter of peft's on the frozen model, trained by AdamW without weight decay.

    kind: its name in a run's record. parts: the model as validation runs it. light: the same, as
    training steps do.
    """

    kind: ClassVar[str]

    def __init__(self, setup: Setup, options: AdapterOptions, config: peft.PeftConfig) -> None:
        torch.manual_seed(options.seed)  # peft draws first values from the global generator
        self.config = config
        # peft writes this into the adapter; where the model lies on this machine says nothing.
        setup.model.name_or_path = setup.source.name
        with without_noise():
            self.model = peft.get_peft_model(setup.model, config)
        self.parts = self.parts_of(setup)
        self.light = lighten(self.parts, bf16=options.precision == "bf16")
        self.weights = [value for value in self.model.parameters() if value.requires_grad]
        self.adam = torch.optim.AdamW(self.weights, lr=options.lr, weight_decay=0.0)
        self.lr, self.adapter = options.lr, options.out / "adapter"
        self.base_hash = setup.weights_sha256
        self._kept: dict[str, torch.Tensor] | None = None

    def parts_of(self, setup: Setup) -> Parts:
        """The model's parts, once the adapter is in it."""
        return setup.parts

    def check(self) -> None:  # noqa: B027 - most have nothing to check
        """CheckFailed if what was trained does not reach the model."""

    @property
    def trained_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(value.numel() for value in self.weights)

    @abstractmethod
    def policy(self, step: int) -> Policy: ...

    @abstractmethod
    def candidate(self, step: int) -> Policy:
        """The model with the adapter as it is: fp32 comes back from safetensors unchanged."""

    def collect(self) -> dict[str, float]:
        found = [value.grad.norm() for value in self.weights if value.grad is not None]
        return {"gradient_norm": float(torch.stack(found).norm()) if found else 0.0}

    def update(self, rate: float) -> None:
        self.adam.param_groups[0]["lr"] = self.lr * rate
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)

    def keep(self, step: int, exact: float) -> None:
        self._kept = {
            name: value.detach().clone().contiguous()
            for name, value in peft.get_peft_model_state_dict(self.model).items()
        }
        self._write()

    def state(self) -> dict[str, Any]:
        weights = [value.detach() for value in self.weights]
        return {"weights": weights, "adam": self.adam.state_dict(), "kept": self._kept}

    def restore(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for value, saved in zip(self.weights, state["weights"], strict=True):
                value.copy_(saved)
        self.adam.load_state_dict(state["adam"])
        self._kept = state["kept"]
        self._write()

    def _write(self) -> None:
        if self._kept is None:
            return
        write_bytes(self.adapter / WEIGHTS_NAME, adapter_to_bytes(self._kept, self.base_hash))
        if not (self.adapter / CONFIG_NAME).exists():
            self.config.save_pretrained(str(self.adapter))


def train_adapter(
    options: AdapterOptions,
    learner_of: Callable[[Setup, Any], AdapterLearner],
    progress: Progress | None = None,
    reporters: Sequence[Reporter] = (),
) -> AdapterResult:
    """Train an adapter; writes RUN/adapter (as peft does), run.json and metrics.jsonl.

    Errors, resuming and the choice of the best are those of `training.run.train`.

    Raises:
        CheckFailed: besides divergence, when what was trained does not reach the model.
    """
    processes.join()  # to be refused: only a picture's gradients are brought together
    check_adapter(options)
    folder = RunFolder.check(options.out, options.resume)
    found = load_objective(options.objective)
    setup = load_setup(options, None)
    material = Material(setup, options.batch_size, options.seed, text_alone, options.prefix_tokens)
    objective = make_objective(found, material)
    check_adapts(options.objective, objective)
    learner = learner_of(setup, options)
    identity = identity_of(options, setup)
    loop = Loop(learner, objective, loop_options(options), folder, identity, reporters)
    if options.resume:
        loop.resume()
    outcome = loop.run(progress)
    if outcome.best_step > 0:
        learner.check()
    result = _result(options, setup, learner, outcome, objective.notes)
    folder.finish(record(learner.kind, options, setup, result))
    return result


def check_adapts(name: str, objective: Objective) -> None:
    """OptionError if the objective compares with the frozen model, which is then no longer there:
    an adapter changes the very modules that it would ask."""
    if objective.needs_picture:
        raise OptionError(
            got=f"the objective '{name}' for an adapter",
            expected="one on the answers in the data, such as sft",
            fix="use --objective sft",
        )


def _result(
    options: AdapterOptions,
    setup: Setup,
    learner: AdapterLearner,
    outcome: Outcome,
    notes: tuple[str, ...],
) -> AdapterResult:
    return AdapterResult(
        out=options.out,
        adapter=learner.adapter,
        step=outcome.best_step,
        score=outcome.best.exact,
        loss=outcome.best.loss,
        seconds=round(outcome.seconds, 3),
        step_seconds=round(outcome.step_seconds, 4),
        steps=outcome.steps,
        trained_parameters=learner.trained_parameters,
        weights_sha256=setup.weights_sha256,
        data_hash=setup.data.hash,
        notes=notes,
    )
