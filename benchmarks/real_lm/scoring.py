"""Greedy answers of an adapted model on held-out examples, counted by the task's own scorer."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft

from art_export.evaluate import wilson_interval
from benchmarks.real_lm.place import Place, after_turns, shown
from benchmarks.real_lm.recipes import ROWS
from engines.lora import without_noise
from engines.picture import load_picture
from engines.prefix import PrefixState
from engines.runtime import Runtime
from engines.soft_prompt import load_soft_prompt
from engines.torch_engine import TorchEngine
from training.controls import control_pictures
from training.data import FileSource
from training.tasks import Example

BATCH = {"cpu": 16, "cuda": 128}
"""Answers decoded at once, by device."""
Ask = Callable[[Example], str]
"""example -> the prompt that asks for its answer"""


def score_row(place: Place, task: str, row: str, seed: int, adapter: Path | None) -> dict[str, Any]:
    """The test score of a row of the table in PyTorch, see `score`. `adapter`: what was trained."""
    recipe, source = ROWS[row], place.task(task)
    place = place.under(recipe.tower)
    chat, ask = place.chat(recipe.size), _plain
    model = place.load()
    if recipe.kind == "lora":
        with without_noise():
            peft.PeftModel.from_pretrained(model, str(adapter))
    runtime = Runtime(TorchEngine(model, chat.layout.size, place.device), chat)
    prefix = runtime.prefix(None)
    if recipe.kind == "prompt":
        turns = shown(source.examples("train", recipe.shots, seed))
        ask = lambda example: after_turns(turns, example.prompt)  # noqa: E731
    elif recipe.kind == "noise":
        prefix = runtime.prefix(control_pictures(chat.layout.size, seed)["noise"])
    elif recipe.kind == "art" and adapter is not None:
        prefix = runtime.prefix(load_picture(adapter, chat.layout.size).pixels)
    elif recipe.kind == "soft-prompt" and adapter is not None:
        width = model.config.text_config.hidden_size
        prefix = runtime.prefix_from_embeddings(load_soft_prompt(adapter, width))
    return score(runtime, prefix, source, ask, BATCH[place.device])


def score(
    runtime: Runtime,
    prefix: PrefixState,
    source: FileSource,
    ask: Ask | None = None,
    batch_size: int = BATCH["cpu"],
) -> dict[str, Any]:
    """Greedy answers on the whole test split, `batch_size` at once.

    Returns:
        correct, n, accuracy with its 95 % Wilson interval `low`..`high`, seconds, `cut_off` (how
        many answers met the limit on tokens), and `right`: example's id -> whether it counts.
    """
    began = time.perf_counter()
    asked = {_id(example): (ask or _plain)(example) for example in source.splits["test"]}
    # Like lengths together.
    examples = sorted(source.splits["test"], key=lambda example: len(asked[_id(example)]))
    right, cut_off = {}, 0
    for first in range(0, len(examples), batch_size):
        batch = examples[first : first + batch_size]
        prompts = [asked[_id(example)] for example in batch]
        answers = runtime.generate(prompts, [prefix] * len(batch), source.max_new_tokens)
        for example, answer in zip(batch, answers, strict=True):
            right[_id(example)] = bool(source.is_correct(answer.text, example.answer))
            cut_off += not answer.finished
    correct, n = sum(right.values()), len(right)
    low, high = wilson_interval(correct, n)
    found = {"correct": correct, "n": n, "accuracy": correct / n, "low": low, "high": high}
    return found | {
        "seconds": round(time.perf_counter() - began, 1),
        "cut_off": cut_off,
        "right": dict(sorted(right.items())),
    }


def _plain(example: Example) -> str:
    return example.prompt


def _id(example: Example) -> str:
    return hashlib.sha256(example.content.encode()).hexdigest()[:12]
