"""From what the turns of a method found to its result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from art_export.bench import adapters
from art_export.bench.notes import notes_of
from art_export.bench.results import MEASURED, MethodResult, Step, Summary
from art_export.bench.settings import BenchOptions
from art_export.evaluate import Score

SHIPPED = "warm process, prepared elsewhere"
"""Where an adapter arrives with what another machine has already computed from it."""


@dataclass
class Found:
    """What the turns of one method found; `absent`: why it could not be measured."""

    method: str
    turns: list[dict[str, Any]] = field(default_factory=list)
    absent: str | None = None

    def pooled(self, kind: str) -> list[float]:
        """Samples of one kind, of all turns, measured in a loaded process."""
        return [each for turn in self.turns for each in turn.get("warm", {}).get(kind, ())]

    def pooled_by(self, kind: str) -> dict[str, list[float]]:
        """The same for kinds that have several, such as one a batch size."""
        found: dict[str, list[float]] = {}
        for turn in self.turns:
            for name, samples in turn.get("warm", {}).get(kind, {}).items():
                found.setdefault(name, []).extend(samples)
        return found

    def steps(self) -> list[Mapping[str, float]]:
        """From file to first token in a loaded process, or through all that the method needs:
        seconds by step, each time that it was done."""
        if self.method == "lora-merge":
            return list(self._merges())
        if self.method == "lora-refit":
            return [turn["steps"] for turn in self.turns]
        # The first time in a process touches weights that were never read: it is not a warm one.
        return [each for turn in self.turns for each in turn["warm"]["deploys"][1:]]

    def colds(self) -> list[float]:
        """Seconds from file to first token when nothing runs yet."""
        if self.method in ("lora-merge", "lora-refit"):
            return [sum(each.values()) for each in self.steps()]
        return [turn["cold"]["seconds"] for turn in self.turns if "cold" in turn]

    def busy(self) -> list[float]:
        """Cores that other processes kept busy, in each process of each turn."""
        jobs = [job for turn in self.turns for job in turn.values() if isinstance(job, dict)]
        return [job["busy"] for job in jobs if "busy" in job]

    def servers(self) -> list[float]:
        return [each for turn in self.turns for each in turn.get("server", ())[1:]]

    def merges_again(self, longest: float) -> bool:
        """Whether a way that may take minutes is to be taken once more."""
        taken = [sum(each.values()) for each in self._merges()]
        return not taken or taken[0] <= longest

    def _merges(self) -> Iterable[Mapping[str, float]]:
        for turn in self.turns:
            if "merge" in turn:
                yield {**turn["merge"]["steps"], **turn["cold"]["steps"]}


def assemble(options: BenchOptions, found: Found, scores: Mapping[str, Score]) -> MethodResult:
    """The method's result; not measured if it could not be."""
    if found.absent is not None or not found.turns:
        return MethodResult.not_measured(found.absent or "it was not asked for")
    rows = options.settings.rows
    decode = found.pooled("decode")
    memory = found.turns[0].get("memory", {}).get("rss")
    return MethodResult(
        status=MEASURED,
        steps=_steps(found.steps()),
        to_first_token=_where(found),
        adapter_bytes=_bytes(options, found.method),
        resident_bytes_per_adapter=memory,
        time_to_first_token=_summary(found.pooled("first")),
        decode_tokens_per_second=_summary([1 / each for each in decode]),
        throughput=_rates(found.pooled_by("throughput")),
        mixed=_rates(found.pooled_by("mixed"), rows),
        accuracy=dict(scores),
        notes=notes_of(options, found),
    )


def _steps(taken: list[Mapping[str, float]]) -> tuple[Step, ...]:
    names = list(dict.fromkeys(name for each in taken for name in each))
    return tuple(
        Step(name, Summary.of([each[name] for each in taken if name in each])) for name in names
    )


def _where(found: Found) -> dict[str, Summary]:
    # A merged LoRA is in use once a new process has loaded the new engine: no other place has it.
    whole = found.method in ("lora-merge", "lora-refit")
    warm = [] if whole else [sum(each.values()) for each in found.steps()]
    places = {
        "cold process": found.colds(),
        "running server" if found.method.startswith("vllm") else "warm process": warm,
    }
    places[SHIPPED] = found.pooled("shipped")
    if found.servers():
        places["running server"] = found.servers()
    return {name: Summary.of(samples) for name, samples in places.items() if samples}


def _rates(samples: Mapping[str, list[float]], rows: int | None = None) -> dict[str, Summary]:
    """Tokens a second from seconds a pass; the names are rows unless these are given."""
    return {
        name: Summary.of([(rows or int(name)) / each for each in times])
        for name, times in samples.items()
    }


def _summary(samples: list[float]) -> Summary | None:
    return Summary.of(samples) if samples else None


def _bytes(options: BenchOptions, method: str) -> int:
    """What is shipped for one adapter."""
    if method.endswith("art"):
        return adapters.bytes_of(adapters.pictures(options, 1)[0])
    if method == "soft-prompt":
        return adapters.bytes_of(adapters.soft_prompts(options, 1)[0])
    folder = adapters.loras(options, 1)
    if method == "lora-runtime":
        return adapters.bytes_of(adapters.onnx_adapters(options, folder)[0])
    if method == "lora-merge":
        return adapters.bytes_of(options.merged / "bundle")
    return adapters.bytes_of(folder[0])
