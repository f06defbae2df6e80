"""What has to be said beside the figures, so that they are not read for more than they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from art_export.bench import adapters
from art_export.bench.settings import BenchOptions
from engines.files import size_text

if TYPE_CHECKING:
    from art_export.bench.assemble import Found


def notes_of(options: BenchOptions, found: Found) -> tuple[str, ...]:
    """Notes of one method that was measured."""
    own = NOTES.get(found.method)
    return tuple(own(options, found) if own else ())


def _art(options: BenchOptions, found: Found) -> list[str]:
    state = adapters.bytes_of(options.bundle / "arts" / "noise-000" / "prefix.safetensors")
    notes = [
        "Loses: its visual tokens are context in every request, and a new picture costs a pass of "
        "the vision tower and a prefill. Wins: no graph, weight or input is made for it.",
        f"The bundle keeps the model's state after each picture, {size_text(state)}, in a file "
        "that is mapped when it is used: it takes the disk's cache and hardly any memory of the "
        "process's own.",
        _again(found, "A picture that was swapped in before"),
        _cold(found),
    ]
    notes += [f"Running server not measured: {why}" for why in _reasons(found, "no server")]
    return [*notes, *_memory(found)]


def _lora_merge(options: BenchOptions, found: Found) -> list[str]:
    adapter = adapters.bytes_of(adapters.loras(options, 1)[0])
    return [
        "Every adapter is an engine of its own, so nothing can be mixed in a batch, and each takes "
        "the memory of a whole model.",
        f"bytes on disk are that engine's; the adapter's own files are {size_text(adapter)}.",
        "The build includes this project's own comparison with PyTorch (build: parity, and half of "
        "build: load), which a hurried user could leave out.",
        *_memory(found),
    ]


def _lora_runtime(options: BenchOptions, found: Found) -> list[str]:
    notes = [
        "Wins: it needs no recompilation either, spends no context, and may be more accurate. "
        "Loses: the engine has to be built with room for it, its decode steps do more work, and "
        "rows with different adapters need A and B stacked in memory, a copy for every row.",
        "The file is ONNX Runtime's own, read and bound as inputs; converting peft's folder to "
        "it is done once, where the adapter is made, and is not timed. LoraAdapter in RunOptions "
        "gives the same logits, but is passed over, with a warning alone, in runs with bound "
        "inputs and outputs, which decoding without copies needs.",
        _again(found, "An adapter that was used before"),
        _cold(found),
    ]
    grouped = found.pooled_by("grouped")
    mixed = found.pooled_by("mixed")
    for count, times in grouped.items():
        if count in mixed:
            ratio = np.median(times) / np.median(mixed[count])
            notes.append(
                f"{count} adapters decoded one after another, as engines without stacking must: "
                f"{ratio:.2f} times as long as in one pass."
            )
    return [*notes, *_memory(found)]


def _soft_prompt(options: BenchOptions, found: Found) -> list[str]:
    return [
        "What must change for it: the engine has to take embeddings from outside (inputs_embeds, "
        "as these graphs do), and an API for requests has to carry them; OpenAI's carries text "
        "and pictures only. Its vectors are context in every request, as a picture's tokens are.",
        "The state after the vectors is computed when the adapter is loaded, and held in memory.",
        _cold(found),
        *_memory(found),
    ]


def _vllm(options: BenchOptions, found: Found) -> list[str]:
    return [
        "Timed over HTTP; prompts repeat, so a prefix cache of the server's may help all but "
        "the first."
    ]


def _refit(options: BenchOptions, found: Found) -> list[str]:
    return ["The time is from the adapter's files through merge, export and refit to a token."]


def _again(found: Found, what: str) -> str:
    times = found.pooled("again")
    return f"{what}: {np.median(times) * 1000:.0f} ms from its file to the first token."


def _cold(found: Found) -> str:
    taken = [turn["cold"]["steps"] for turn in found.turns if "cold" in turn]
    steps = ", ".join(
        f"{name} {np.median([each[name] for each in taken]):.2f}" for name in taken[0]
    )
    return f"Cold process, seconds (its files are in the disk's cache): {steps}."


def _memory(found: Found) -> Sequence[str]:
    known: dict[str, Any] = found.turns[0].get("memory", {})
    if known.get("anonymous") is None:
        return ["Memory was not measured: the system does not tell it."]
    return [
        f"Growth with each further adapter: {known['rss'] / 1e6:.2f} MB resident, "
        f"{known['anonymous'] / 1e6:.2f} MB of it anonymous, with no file behind it."
    ]


def _reasons(found: Found, kind: str) -> list[str]:
    return list(dict.fromkeys(turn[kind] for turn in found.turns if turn.get(kind)))


NOTES: dict[str, Callable[[BenchOptions, Found], list[str]]] = {
    "art": _art,
    "lora-merge": _lora_merge,
    "lora-runtime": _lora_runtime,
    "lora-refit": _refit,
    "soft-prompt": _soft_prompt,
    "vllm-art": _vllm,
    "vllm-lora": _vllm,
}
