"""Does a bundle do what Hugging Face's own forward and generate do on the untouched model?

Stage by stage, so that a failure names the place: files, base model, picture, vision features,
prefix state, prefill logits, logits of every decode step, greedy tokens, task accuracy.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from art_export.bundle import Bundle
from art_export.comparison import Answers, Difference
from art_export.probes import LENGTHS, probe_prompts, prompt_of_length
from art_export.tolerances import EXACT, STATE, tolerances_of
from engines.bundle import ARTS, PICTURE_NAME, ArtRecord
from engines.contract import EngineOptions
from engines.errors import BundleError
from engines.families import load_parts
from engines.model import resolve_model, weights_sha256
from engines.picture import check_base
from engines.prefix import PrefixState
from engines.quantization import BITS
from engines.reference import Reference
from engines.runtime import Prefilled

PIXELS = 1e-5
"""Largest absolute difference allowed in any precision: pixels are computed in fp32."""
NEW_TOKENS = 32
SPEED_LENGTH, SPEED_RUNS = 128, 6
BATCH = 8
KEPT = 2**30
"""Bytes of PyTorch's logits of greedy answers that are kept at a time."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TaskSample:
    """Examples of a task, to compare accuracies on: `is_correct(completion, reference)`."""

    name: str
    prompts: tuple[str, ...]
    references: tuple[str, ...]
    is_correct: Callable[[str, str], bool]
    max_new_tokens: int


@dataclass(frozen=True)
class VerifyOptions:
    """bundle: its folder. art: a name, or None for no picture. model: where the base model lies,
    by default what the manifest says. prompts: how many greedy answers to compare. engine: where
    and how the bundle runs."""

    bundle: Path
    art: str | None = None
    model: str | None = None
    prompts: int = 200
    tasks: tuple[TaskSample, ...] = ()
    engine: EngineOptions = field(default_factory=EngineOptions)


@dataclass(frozen=True)
class Check:
    """One line of the table; errors are None where a check has no numbers."""

    name: str
    passed: bool
    detail: str
    max_absolute: float | None = None
    max_relative: float | None = None
    tolerance: float | None = None


@dataclass(frozen=True)
class Figures:
    """What the bundle costs: bytes of its graph files, the largest file's (the weights), and the
    median of greedy decode steps a second at batch 1 after a picture and 128 tokens."""

    precision: str
    bytes: int
    weight_bytes: int
    tokens_per_second: float


@dataclass(frozen=True)
class VerifyReport:
    """All checks, in the order of the data's way through the model; figures are None where the
    checks ended early."""

    bundle: Path
    art: str | None
    base_model: str
    checks: tuple[Check, ...]
    figures: Figures | None = None

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


def verify(options: VerifyOptions, progress: Progress | None = None) -> VerifyReport:
    """Run every check. A failed one does not stop the others, unless nothing after it would
    mean anything: other weights than the bundle's, or an art that cannot be read.

    Raises:
        BundleError: the bundle cannot be opened at all.
        ModelError: the base model is not there.
        OptionError: there is no such art.
    """
    with Bundle.load(options.bundle, options.engine) as bundle:
        base = options.model or bundle.folder.manifest.base_model
        checks: list[Check] = []
        figures = None
        stages = 12 + len(options.tasks)
        for found in _checks(bundle, options, base):
            if isinstance(found, Figures):
                figures = found
                continue
            checks.append(found)
            if progress:
                progress(found.name, min(len(checks), stages), stages)
        return VerifyReport(options.bundle, options.art, base, tuple(checks), figures)


def _checks(bundle: Bundle, options: VerifyOptions, base: str) -> Iterator[Check | Figures]:
    yield _files(bundle)
    source = resolve_model(base)
    same = _same_weights(bundle, source.path, base)
    yield same
    if not same.passed:
        return
    art = None
    if options.art is not None:
        art, check = _art(bundle, options.art)
        yield check
        if art is None:
            return
    run = _Run(bundle, Reference(source), art)
    if art is not None:
        yield run.pixels(art)
        yield run.features(art)
        yield run.prefix_state(art)
    yield from run.prefill()
    yield from run.decode(options.prompts)
    for task in options.tasks:
        yield run.task(task)
    yield run.figures()


def _files(bundle: Bundle) -> Check:
    try:
        found = bundle.folder.check_files()
    except BundleError as error:
        return Check("files", False, error.got)
    return Check("files", True, f"{len(found)} files as built (sha256)")


def _same_weights(bundle: Bundle, folder: Path, name: str) -> Check:
    built, found = bundle.folder.manifest.weights_sha256, weights_sha256(folder)
    detail = f"{name}: weights {found[:12]}"
    if found != built:
        detail += f", and the bundle was built from {built[:12]}: another base model"
    return Check("base model", found == built, detail)


def _art(bundle: Bundle, name: str) -> tuple[ArtRecord | None, Check]:
    """The art with its stored hashes checked: a stale prefix or another picture is named."""
    try:
        art = bundle.folder.read_art(name)
        warning = check_base(art.picture, bundle.folder.manifest.weights_sha256)
    except BundleError as error:
        return None, Check("art", False, error.got)
    return art, Check("art", True, warning or f"'{name}' belongs to these graphs and weights")


class _Run:
    """The checks that need both models, on one picture or none."""

    def __init__(self, bundle: Bundle, reference: Reference, art: ArtRecord | None) -> None:
        self.runtime, self.reference = bundle.runtime, reference
        self.chat = bundle.runtime.chat
        self.picture = None if art is None else art.picture.pixels
        self.prefix = bundle.prefix(None if art is None else art.name)
        self.mixture = _mixture(bundle, art)
        self.manifest = bundle.folder.manifest
        # As typed after --init; only a picture can be trained further.
        self.png = None if art is None else bundle.folder.path / ARTS / art.name / PICTURE_NAME
        self.allowed = tolerances_of(self.manifest.precision)

    def pixels(self, art: ArtRecord) -> Check:
        expected = self.reference.processed(art.picture.pixels)["pixel_values"].numpy()
        parts = load_parts(self.reference.model, art.picture.size)
        found = parts.vision.patches(torch.from_numpy(art.picture.pixels.copy())[None])[0].numpy()
        return _compare("pixels", found, expected, PIXELS, "patches of the model's own processor")

    def features(self, art: ArtRecord) -> Check:
        expected = self.reference.vision(art.picture.pixels)
        found = self.runtime.engine.vision(art.picture.pixels[None])[0]
        detail = f"{len(found)} tokens of {found.shape[-1]}"
        return _compare("vision features", found, expected, self.allowed.features, detail)

    def prefix_state(self, art: ArtRecord) -> Check:
        """The stored state against one computed now: a stale one shows here."""
        fresh = self.runtime.prefix(art.picture.pixels)
        stored, now = (
            np.concatenate([array.ravel() for array in (*prefix.arrays, prefix.logits)])
            for prefix in (self.prefix, fresh)
        )
        same = (self.prefix.length, self.prefix.next_position) == (
            fresh.length,
            fresh.next_position,
        )
        check = _compare(
            "prefix state", stored, now, STATE, "stored state against one computed now"
        )
        if same and check.passed:
            return check
        detail = (
            "stale: not this picture's, or stored on another device or provider, which rounds "
            "otherwise; swap it in again with the --device of this run"
        )
        return replace(check, passed=False, detail=detail)

    def prefill(self) -> Iterator[Check]:
        """Logits at every position after the picture, batch 1, one prompt a length."""
        prompts = self._prompts(len(LENGTHS))
        difference = Difference()
        for prompt in prompts:
            tail = self.runtime.tail(prompt, self.prefix)
            expected = self.reference.prefill_logits(prompt, self.picture)[-len(tail) :]
            difference.add(self.runtime.tail_logits(tail, self.prefix), expected)
        detail = f"{len(prompts)} prompts of {LENGTHS[0]} to {self._longest()} tokens, batch 1"
        yield _judge("prefill logits", difference, self.allowed.logits, detail)
        same = difference.same_top / max(1, difference.rows)
        yield Check(
            "top-1 agreement",
            same >= self.allowed.top1,
            f"{same:.2%} of {difference.rows:,} positions, {self.allowed.top1:.0%} needed",
        )

    def decode(self, count: int) -> Iterator[Check]:
        """Greedy answers in batches of 1 and of 8, rows of unequal length, pictures mixed."""
        prompts = self._prompts(count)
        single = min(count, len(LENGTHS))
        alone, together = Answers(), Answers()
        at_once = self._answers_at_once()
        for start in range(0, count, at_once):
            part = prompts[start : start + at_once]
            answers = self.reference.generate(part, [self.picture] * len(part), NEW_TOKENS)
            for compared, rows, batch in (
                (alone, part[: max(0, single - start)], 1),
                (together, part, BATCH),
            ):
                found = self._greedy(rows, [self.prefix] * len(rows), batch)
                for logits, answer in zip(found, answers[: len(rows)], strict=True):
                    compared.add(logits, answer)
        logits_allowed, equal = self.allowed.logits, self.allowed.answers
        for name, compared in (("batch 1", alone), (f"batch {BATCH}", together)):
            detail = f"{compared.difference.rows} steps of {compared.count} answers"
            yield _judge(f"decode logits, {name}", compared.difference, logits_allowed, detail)
            yield _token_check(f"greedy tokens, {name}", compared, equal)
        pictures, prefixes = self.mixture
        rows = [prompts[row % count] for row in range(len(pictures))]
        expected = self.reference.generate(rows, pictures, NEW_TOKENS)
        mixed = Answers()
        for logits, answer in zip(self._greedy(rows, prefixes, BATCH), expected, strict=True):
            mixed.add(logits, answer)
        yield _token_check("greedy tokens, mixed pictures", mixed, equal)

    def _answers_at_once(self) -> int:
        """How many of PyTorch's answers are kept at a time: whole batches of ours."""
        vocabulary = len(self.reference.model.get_output_embeddings().weight)
        each = NEW_TOKENS * vocabulary * np.float32().itemsize
        return max(BATCH, KEPT // each // BATCH * BATCH)

    def task(self, task: TaskSample) -> Check:
        prefixes = [self.prefix] * len(task.prompts)
        ours = self.runtime.generate(task.prompts, prefixes, task.max_new_tokens)
        theirs = self.reference.generate(
            task.prompts, [self.picture] * len(task.prompts), task.max_new_tokens
        )
        scores = [
            sum(map(task.is_correct, (answer.text for answer in answers), task.references))
            for answers in (ours, theirs)
        ]
        total = len(task.prompts)
        detail = f"engine {scores[0]}/{total}, PyTorch {scores[1]}/{total}"
        # What no rounding explains must not pass either way where nothing is rounded.
        lost = abs(scores[1] - scores[0]) if self.allowed == EXACT else scores[1] - scores[0]
        passed = lost <= self.allowed.accuracy * total
        if not passed and self.png is not None and self.manifest.precision in BITS:
            detail += f"; {self._retraining(self.png, task.name)}"
        return Check(f"accuracy, {task.name}", passed, detail)

    def _retraining(self, png: Path, task: str) -> str:
        """What to do about accuracy that was lost to the rounding of weights."""
        base, weights = self.manifest.base_model, self.manifest.precision
        command = f"art-export train {base} --task {task} --init {png} --weights {weights} -o run"
        return f"go on training the picture against {weights} weights: {command}"

    def figures(self) -> Figures:
        """Bytes, and speed of decode after a picture and a prompt of 128 tokens."""
        sizes = [record.bytes for record in self.manifest.files]
        rng = random.Random(0)
        prompt = prompt_of_length(self.chat, min(SPEED_LENGTH, self._longest()), rng)
        prefilled = self.runtime.prefill([self.runtime.tail(prompt, self.prefix)], [self.prefix])
        # The first runs pay for memory that later ones find allocated.
        rates = [self._rate(prefilled) for _ in range(SPEED_RUNS)][1:]
        return Figures(self.manifest.precision, sum(sizes), max(sizes), statistics.median(rates))

    def _rate(self, prefilled: Prefilled) -> float:
        """Decode steps a second; the first logits come from the prefill and are not counted."""
        steps = self.runtime.steps(prefilled, NEW_TOKENS + 1)
        next(steps)
        started = time.perf_counter()
        for _ in steps:
            pass
        return NEW_TOKENS / (time.perf_counter() - started)

    def _prompts(self, count: int) -> list[str]:
        return probe_prompts(self.chat, count, self._longest())

    def _longest(self) -> int:
        frame = len(self.runtime.tail("x", self.prefix))
        return min(LENGTHS[-1], self.chat.max_length - self.prefix.length - frame - NEW_TOKENS)

    def _greedy(
        self, prompts: Sequence[str], prefixes: Sequence[PrefixState], batch: int
    ) -> Iterator[NDArray[np.float32]]:
        """Logits (steps, vocabulary) of one answer after the other, a batch's at a time."""
        for start in range(0, len(prompts), batch):
            part = slice(start, start + batch)
            tails = [
                self.runtime.tail(prompt, prefix)
                for prompt, prefix in zip(prompts[part], prefixes[part], strict=True)
            ]
            steps = self.runtime.steps(self.runtime.prefill(tails, prefixes[part]), NEW_TOKENS)
            logits = np.stack([step.copy() for step in steps])
            yield from (logits[:, row] for row in range(len(tails)))


def _mixture(
    bundle: Bundle, art: ArtRecord | None
) -> tuple[list[NDArray[np.uint8] | None], list[PrefixState]]:
    """A batch of 8 rows with the art, another picture, and none, in turn."""
    rng = np.random.default_rng(8)
    size = bundle.folder.manifest.picture_size
    noise = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    own = noise[::-1].copy() if art is None else art.picture.pixels
    pictures: list[NDArray[np.uint8] | None] = [own, noise, None]
    prefixes = [bundle.runtime.prefix(pixels) for pixels in pictures]
    rows = [row % len(pictures) for row in range(BATCH)]
    return [pictures[row] for row in rows], [prefixes[row] for row in rows]


def _compare(
    name: str, found: NDArray[Any], expected: NDArray[Any], tolerance: float | None, detail: str
) -> Check:
    difference = Difference()
    difference.add(found, expected)
    return _judge(name, difference, tolerance, detail)


def _judge(name: str, difference: Difference, tolerance: float | None, detail: str) -> Check:
    """Largest differences; without a tolerance, numbers only have to be finite."""
    if difference.misfit is not None:
        found, expected = difference.misfit
        return Check(name, False, f"shape {found}, and PyTorch has {expected}")
    absolute, scale = difference.absolute, difference.scale
    # `not <=` and not `>`: a NaN must fail.
    passed = absolute <= tolerance if tolerance is not None else bool(np.isfinite(absolute))
    return Check(name, passed, detail, absolute, absolute / scale if scale else None, tolerance)


def _token_check(name: str, answers: Answers, needed: float) -> Check:
    """Greedy answers equal to the last token; `needed` is the least share of them."""
    detail = f"{answers.equal}/{answers.count} answers equal, {answers.tokens} tokens"
    if (parting := answers.parting) is not None:
        detail += (
            f"; answer {parting.answer} parts at token {parting.step} "
            f"(PyTorch's margin there: {parting.margin:.2g})"
        )
    return Check(name, answers.equal >= needed * answers.count, detail)
