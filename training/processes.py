"""Several processes that train one picture together, started by `accelerate launch` or torchrun.

Every process holds the whole frozen model and takes every n-th row of a batch. What they tell each
other is small, the picture's gradient and a few numbers, and lies on the CPU, so it goes over gloo
wherever the models are. Sums are taken in the order of the processes, each by itself: the result
is the same to the last bit everywhere. Without a launcher there is one process, the main one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import distributed

from engines.errors import ArtExportError

T = TypeVar("T")


class StoppedElsewhere(ArtExportError):  # noqa: N818 - no fault of this process
    """The main process could not go on, and has said why."""


def join() -> None:
    """Meet the other processes that the launcher has started, if it has started any."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        from accelerate import PartialState

        PartialState(cpu=True)


def count() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def index() -> int:
    """Which of them this one is, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_main() -> bool:
    """Whether this one writes files and speaks to the user."""
    return index() == 0


def own_device(device: str) -> str:
    """`device` for this process: of several GPUs on one machine, its own."""
    if device != "cuda" or count() == 1:
        return device
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % max(1, torch.cuda.device_count())}"


def gathered(value: T) -> list[T]:
    """What every process gives, in their order."""
    if count() == 1:
        return [value]
    found: list[T | None] = [None] * count()
    distributed.all_gather_object(found, value)
    return found  # type: ignore[return-value]


def summed(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor of one shape and dtype, on the CPU, over all processes."""
    if count() == 1:
        return tensor
    found = [torch.empty_like(tensor) for _ in range(count())]
    distributed.all_gather(found, tensor.contiguous())
    return torch.stack(found).sum(0)


def summed_by_name(numbers: Mapping[str, float]) -> dict[str, float]:
    """Numbers added up over all processes by name; one that a process lacks counts as 0."""
    everywhere = gathered(dict(numbers))
    names = dict.fromkeys(name for each in everywhere for name in each)
    return {name: sum(each.get(name, 0.0) for each in everywhere) for name in names}


def anywhere(flag: bool) -> bool:
    """Whether `flag` is set in any process."""
    return any(gathered(flag))


def from_main(call: Callable[[], T]) -> T:
    """What `call` returns in the main process, which alone calls it.

    Raises:
        ArtExportError: what `call` raises, in the main process; StoppedElsewhere in the others.
    """
    if count() == 1:
        return call()
    answer: list[tuple[bool, T | None]] = [(False, None)]
    try:
        if is_main():
            answer = [(True, call())]
    finally:
        # Whatever happened there: the others are waiting.
        distributed.broadcast_object_list(answer, src=0)
    done, value = answer[0]
    if not done:
        raise StoppedElsewhere("the main process could not go on")
    return value  # type: ignore[return-value]


@contextmanager
def main_speaks() -> Iterator[None]:
    """In all processes but the main one an expected error ends the process without a word."""
    try:
        yield
    except ArtExportError as error:
        if is_main():
            raise
        raise SystemExit(error.exit_code) from error
