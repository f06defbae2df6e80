"""What every training run starts from: the frozen model, its chat format, and the data."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engines.chat import Chat
from engines.environment import versions
from engines.errors import DataError
from engines.families import load_parts, picture_layout
from engines.image_processor import ImageProcessor
from engines.model import (
    ModelSource,
    load_config,
    load_model,
    resolve_model,
    weights_sha256,
)
from engines.torch_engine import checked_device
from training import processes
from training.data import FileSource, Source, data_hash, find_source
from training.options import GENERATED_EXAMPLES, AdapterOptions, TrainOptions
from training.tasks import Example, Task

if TYPE_CHECKING:
    from engines.families.parts import Parts


@dataclass(frozen=True)
class Dataset:
    """Disjoint examples of one source, and the hashes that a record names them by."""

    source: Source
    train: tuple[Example, ...]
    validation: tuple[Example, ...]

    @property
    def hash(self) -> str:
        """Over all examples in use."""
        return data_hash((*self.train, *self.validation))

    def record(self) -> dict[str, Any]:
        """Counts and hashes by split, for run.json."""
        splits = {"train": self.train, "validation": self.validation}
        if isinstance(self.source, FileSource):
            splits["test"] = self.source.splits["test"]
        return {
            "task": self.source.name,
            "sha256": self.hash,
            "splits": {
                name: {"examples": len(examples), "sha256": data_hash(examples)}
                for name, examples in splits.items()
            },
        }


@dataclass(frozen=True)
class Setup:
    """A frozen model with its data; `model` is transformers' own, its weights untouched."""

    source: ModelSource
    weights_sha256: str
    model: Any
    parts: Parts
    chat: Chat
    data: Dataset

    def model_record(self) -> dict[str, Any]:
        """Which weights, for run.json."""
        return {
            "name": self.source.name,
            "revision": self.source.revision,
            "weights_sha256": self.weights_sha256,
        }


def load_dataset(options: TrainOptions | AdapterOptions) -> Dataset:
    """The examples that `options` ask for; the same for a picture and for LoRA.

    Raises:
        OptionError, DataError: see `training.data.find_source`.
    """
    source = find_source(options.task)
    count = options.examples
    if count is None:
        count = GENERATED_EXAMPLES if isinstance(source, Task) else sys.maxsize
    train = tuple(source.examples("train", count, options.seed))
    # One validation set for all seeds, so that their scores can be compared.
    validation = tuple(source.examples("validation", options.validation_examples))
    shared = {example.content for example in train} & {example.content for example in validation}
    if shared:
        raise DataError(
            got=f"{len(shared)} examples in both splits of {source.name}",
            expected="no example to train on among those to validate with",
            fix="report this as a bug in the task's splits",
        )
    return Dataset(source, train, validation)


def picture_size(model: str, size: int | None) -> int:
    """Pixels a side for the model `model`: `size` if its processor leaves that alone, by default
    its usual one.

    Raises:
        ModelError: no such model, or it would resize such pictures.
    """
    return picture_layout(load_config(resolve_model(model).path), size).size


def load_setup(
    options: TrainOptions | AdapterOptions, size: int | None, device: str | None = None
) -> Setup:
    """Load the data first, since it is cheap and more often wrong, then the model.

    `size` is the picture's, None where there is none: the vision tower then gets its smallest.
    `device` is where the model is put, None where the options say.

    Raises:
        ModelError: the model's processor would resize pictures of `size`.
    """
    data = load_dataset(options)
    source = resolve_model(options.model)
    if size is not None:
        # A picture is trained past the processor; whoever runs the model has it in between.
        ImageProcessor(source.path).check_size(size, load_config(source.path))
    hashed = weights_sha256(source.path)
    own = checked_device(processes.own_device(options.device))
    device = own if device is None else device
    model = load_model(source).to(device)
    if size is None:
        size = picture_layout(model.config).unit
    parts = load_parts(model, size)
    return Setup(source, hashed, model, parts, Chat.load(source.path, parts.picture_size), data)


def our_version() -> str:
    """The version of this project, for provenance."""
    return versions().get("art-export", "unknown")
