"""LoRA on the same data, batches, seed, steps and loop as a picture: what it is compared with.

Low-rank adapters (Hu et al., arXiv 2106.09685) by peft on every linear layer of the language
model; text alone, without any picture. The fair field: the adapter is merged into the weights,
and the result is exported and built like any other model.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import save
from torch import nn

from engines.environment import versions
from engines.errors import CheckFailed, DataError, OptionError
from engines.families import load_parts
from engines.files import staged_folder, write_bytes
from engines.model import load_model, resolve_model
from training.encoding import text_alone
from training.loop import Loop, LoopOptions, Outcome
from training.objectives import Material, Objective, load_objective, make_objective
from training.options import LoraOptions, LoraResult, Progress, check_lora
from training.policy import Policy, text_policy
from training.run import plain
from training.setup import Setup, load_setup
from training.store import RunFolder

__all__ = ["LoraOptions", "LoraResult", "merge", "save_merged", "train_lora"]


def train_lora(options: LoraOptions, progress: Progress | None = None) -> LoraResult:
    """Train an adapter; writes RUN/adapter (as peft does), run.json and metrics.jsonl.

    Errors, resuming and the choice of the best are those of `training.run.train`.

    Raises:
        CheckFailed: besides divergence, when some layer's adapter was left without effect.
    """
    check_lora(options)
    folder = RunFolder.check(options.out, options.resume)
    found = load_objective(options.objective)
    setup = load_setup(options, None)
    objective = make_objective(found, Material(setup, options.batch_size, options.seed, text_alone))
    check_adapts(options.objective, objective)
    learner = LoraLearner(setup, options)
    loop = Loop(learner, objective, _loop_options(options), folder, _identity(options, setup))
    if options.resume:
        loop.resume()
    outcome = loop.run(progress)
    if outcome.best_step > 0:
        check_effect(learner.model)
    result = _result(options, setup, learner, outcome, objective.notes)
    folder.finish(_record(options, setup, result))
    return result


def merge(model: Any, adapter: Path) -> Any:
    """Add the adapter in folder `adapter` to the weights of a transformers model, in place.

    Returns:
        the model, without any trace of peft.

    Raises:
        DataError: the folder holds no adapter.
        CheckFailed: the adapter matches no layer, or leaves some layer as it was.
    """
    if not (adapter / "adapter_config.json").is_file():
        raise DataError(
            got=f"{adapter} without adapter_config.json",
            expected="a folder that peft wrote, as RUN/adapter",
            fix="give the adapter's folder",
        )
    with _without_noise():
        wrapped = peft.PeftModel.from_pretrained(model, str(adapter))
    check_effect(wrapped)
    return wrapped.merge_and_unload()


def save_merged(model: str, adapter: Path, out: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write base model plus adapter as a Hugging Face folder that `build` takes.

    fp32 by default, so that what is compared is LoRA and not the rounding of the merged weights.

    Raises:
        OutputExistsError: `out` exists; and what `merge` and `resolve_model` raise.
    """
    source = resolve_model(model)
    with staged_folder(out) as folder:
        merged = merge(load_model(source), adapter).to(dtype)
        merged.save_pretrained(folder)
        for path in sorted(source.path.iterdir()):
            written = folder / path.name
            weights = ".safetensors" in path.name
            if path.is_file() and not weights and not written.exists():
                shutil.copyfile(path, written)
    return out


def linear_layers(model: Any) -> list[str]:
    """Full names of the language model's linear layers, without the head over the vocabulary."""
    text = model.get_decoder()
    inside = {id(module) for module in text.modules() if isinstance(module, nn.Linear)}
    return [name for name, module in model.named_modules() if id(module) in inside]


def check_effect(model: Any) -> None:
    """CheckFailed if there is no adapter in `model`, or one that changes nothing.

    Serving the base model unnoticed is a known failure of adapters whose names do not match.
    """
    ups = {name: value for name, value in model.named_parameters() if "lora_B" in name}
    idle = [name for name, value in ups.items() if not bool(value.detach().any())]
    if not ups or idle:
        what = f"it leaves {len(idle)} of {len(ups)} layers as they were" if ups else "none matches"
        raise CheckFailed(f"the adapter has no effect on the model's layers: {what}")


def check_adapts(name: str, objective: Objective) -> None:
    """OptionError if the objective compares with the frozen model, which is then no longer there:
    an adapter changes the very modules that it would ask."""
    if objective.needs_picture:
        raise OptionError(
            got=f"the objective '{name}' for an adapter",
            expected="one on the answers in the data, such as sft",
            fix="use --objective sft",
        )


class LoraLearner:
    """An adapter on the frozen language model."""

    def __init__(self, setup: Setup, options: LoraOptions) -> None:
        torch.manual_seed(options.seed)  # peft draws its first matrices from the global generator
        self.config = peft.LoraConfig(
            r=options.rank,
            lora_alpha=options.alpha,
            lora_dropout=0.0,
            target_modules=linear_layers(setup.model),
            base_model_name_or_path=setup.source.name,
        )
        with _without_noise():
            self.model = peft.get_peft_model(setup.model, self.config)
        self.parts = load_parts(setup.model, setup.parts.picture_size)
        self.parts.decoder.to(options.device)
        self.weights = [value for value in self.model.parameters() if value.requires_grad]
        self.adam = torch.optim.AdamW(self.weights, lr=options.lr, weight_decay=0.0)
        self.lr, self.adapter = options.lr, options.out / "adapter"
        self._kept: dict[str, torch.Tensor] | None = None

    @property
    def trained_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(value.numel() for value in self.weights)

    def policy(self, step: int) -> Policy:
        return text_policy(self.parts)

    def collect(self) -> dict[str, float]:
        found = [value.grad.norm() for value in self.weights if value.grad is not None]
        return {"gradient_norm": float(torch.stack(found).norm())}

    def update(self, rate: float) -> None:
        self.adam.param_groups[0]["lr"] = self.lr * rate
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)

    def candidate(self, step: int) -> Policy:
        """The adapter as it is: its fp32 weights come back from safetensors unchanged."""
        return text_policy(self.parts)

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
        if self._kept is not None:
            write_bytes(self.adapter / "adapter_model.safetensors", save(self._kept))
            if not (self.adapter / "adapter_config.json").exists():
                self.config.save_pretrained(str(self.adapter))


@contextmanager
def _without_noise() -> Iterator[None]:
    """Hide one warning: peft asks transformers for an attribute that has been renamed since."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


def _loop_options(options: LoraOptions) -> LoopOptions:
    return LoopOptions(
        steps=options.steps,
        schedule=options.schedule,
        validate_every=options.validate_every,
        checkpoint_every=options.checkpoint_every,
    )


def _identity(options: LoraOptions, setup: Setup) -> dict[str, Any]:
    return plain(options) | {"weights": setup.weights_sha256, "data": setup.data.hash}


def _result(
    options: LoraOptions,
    setup: Setup,
    learner: LoraLearner,
    outcome: Outcome,
    notes: tuple[str, ...],
) -> LoraResult:
    return LoraResult(
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


def _record(options: LoraOptions, setup: Setup, result: LoraResult) -> dict[str, Any]:
    return {
        "kind": "lora",
        "options": plain(options),
        "model": setup.model_record(),
        "data": setup.data.record(),
        "versions": dict(versions()),
        "result": plain(result),
    }
