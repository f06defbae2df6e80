"""What a benchmark is asked to do, and where its files lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

METHODS = (
    "art",
    "lora-merge",
    "lora-runtime",
    "lora-refit",
    "soft-prompt",
    "vllm-art",
    "vllm-lora",
)
PROMPT = "Wake me up at 07:30 on Monday."


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    repeats: turns, in each of which every method has a process of its own. deploys, requests,
    steps: samples a turn of putting an adapter in use, of requests, and of decode steps. batches:
    rows. mixes: different adapters among the rows of a batch of the largest of them. held: adapters
    in memory when it is looked at. once_over: a way that takes longer than so many seconds from
    file to first token is taken once.
    """

    repeats: int = 3
    deploys: int = 4
    requests: int = 4
    steps: int = 12
    batches: tuple[int, ...] = (1, 8, 32)
    mixes: tuple[int, ...] = (1, 4, 16, 64)
    held: int = 8
    once_over: float = 60.0
    threads: int | None = None
    prompt: str = PROMPT

    @property
    def rows(self) -> int:
        """Of the batch in which adapters are mixed."""
        return max(self.mixes)

    @property
    def pair(self) -> int:
        """Rows of the batch whose adapters are all different, or all the same."""
        return min(16, self.rows)


QUICK = Settings(repeats=1, deploys=2, requests=2, steps=3, batches=(1, 2), mixes=(1, 2), held=3)


@dataclass(frozen=True)
class Task:
    """One task's held-out examples. is_correct(completion, answer). given: method's adapter ("art",
    "lora", "soft-prompt") -> the file or folder that was trained for this task."""

    name: str
    max_new_tokens: int
    examples: Sequence[Any]
    is_correct: Any
    given: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class BenchOptions:
    """model: `demo`, a folder or a hub id. out: folder for the result and what it is made from; a
    second run goes on where the first one stopped. url: of a vLLM server, served_model: the name of
    the model there. tasks: to score the methods on. rank: of random LoRA; tokens: of random soft
    prompts."""

    model: str
    out: Path
    methods: tuple[str, ...] = METHODS
    settings: Settings = Settings()
    tasks: tuple[Task, ...] = ()
    precision: str = "fp32"
    size: int | None = None
    url: str | None = None
    served_model: str | None = None
    rank: int = 8
    tokens: int = 64

    @property
    def prepared(self) -> Path:
        """Bundles and adapters."""
        return self.out / "prepared"

    @property
    def bundle(self) -> Path:
        return self.prepared / "bundle"

    @property
    def reserved(self) -> Path:
        """The bundle with room for LoRA."""
        return self.prepared / "reserved"

    @property
    def merged(self) -> Path:
        """What lora-merge leaves: model and bundle."""
        return self.prepared / "merged"

    @property
    def turns(self) -> Path:
        """What the turns have found so far."""
        return self.out / "turns"
