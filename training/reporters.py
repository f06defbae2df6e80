"""Where metrics go beside metrics.jsonl: TensorBoard's event files, MLflow, a display."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from engines.errors import OptionError
from engines.names import choose
from training.event_file import EventFile

KINDS = ("tensorboard", "mlflow")


class Reporter(Protocol):
    """Takes the lines of metrics.jsonl as they are written."""

    def log(self, values: Mapping[str, Any]) -> None:
        """One line; `step` is always in it."""

    def close(self) -> None:
        """Nothing more will come."""


class TensorBoard:
    """Scalars in RUN/tensorboard, for `tensorboard --logdir RUN`; needs no package to write."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "tensorboard"
        self._file: EventFile | None = None

    def log(self, values: Mapping[str, Any]) -> None:
        if self._file is None:
            self._file = EventFile(self._folder)
        self._file.write(int(values["step"]), scalars(values))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class MlFlow:
    """A run on the tracking server that MLflow is set up for."""

    def __init__(self, name: str, parameters: Mapping[str, Any]) -> None:
        self._mlflow: Any = import_module("mlflow")
        self._name, self._parameters = name, parameters
        self._started = False

    def log(self, values: Mapping[str, Any]) -> None:
        if not self._started:
            self._mlflow.start_run(run_name=self._name)
            self._mlflow.log_params({k: v for k, v in self._parameters.items() if v is not None})
            self._started = True
        self._mlflow.log_metrics(scalars(values), step=int(values["step"]))

    def close(self) -> None:
        if self._started:
            self._mlflow.end_run()


def scalars(values: Mapping[str, Any]) -> dict[str, float]:
    """Numbers by name, nested ones as "outer/inner"; the step and truth values are left out."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{inner}": number for inner, number in scalars(value).items()}
        elif name != "step" and isinstance(value, (int, float)) and not isinstance(value, bool):
            found[name] = float(value)
    return found


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise OptionError for a kind that is unknown or whose package is missing."""
    for kind in kinds:
        choose("place for metrics", kind, KINDS)
    if "mlflow" in kinds and not find_spec("mlflow"):
        raise OptionError(
            got="--log-to mlflow without the package mlflow",
            expected="an installed MLflow",
            fix="pip install mlflow, or use --log-to tensorboard",
        )


@contextmanager
def opened(
    kinds: Sequence[str], folder: Path, parameters: Mapping[str, Any]
) -> Iterator[list[Reporter]]:
    """The reporters `kinds` for the run in `folder`, closed at the end."""
    with ExitStack() as stack:
        made: list[Reporter] = []
        for kind in kinds:
            reporter: Reporter = (
                TensorBoard(folder) if kind == "tensorboard" else MlFlow(folder.name, parameters)
            )
            stack.callback(reporter.close)
            made.append(reporter)
        yield made
