"""What `art-export demo` does: every step through the libraries' own functions, and timed.

The PNG and the bundle are the only hand-overs, as between people: the picture that is swapped in
is the one on disk, and every accuracy is measured on held-out examples through the compiled engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from art_export.cli.output import jsonable
from art_export.cli.verify import report_facts, task_sample
from art_export.evaluate import Score, evaluate

if TYPE_CHECKING:
    from art_export.bundle import Bundle
    from art_export.subject import Subject
    from art_export.swap import SwapResult
    from art_export.verify import VerifyReport

Progress = Callable[[str, int, int], None]
TRAINED = "trained"
CONTROLS = ("noise", "grey")
"""Pictures that nobody trained, from training.controls; the first is what is swapped to."""
PROBE = "What is 12 + 30?"
"""The prompt whose first logits have to come back with the picture."""


@dataclass(frozen=True)
class DemoOptions:
    """out: a folder that does not exist yet. steps: None for the trainer's own default.
    count: held-out examples an accuracy is measured on. prompts: answers that verify compares."""

    out: Path
    model: str = "demo"
    task: str = "tools"
    steps: int | None = None
    count: int = 200
    prompts: int = 40
    seed: int = 0
    size: int | None = None


@dataclass(frozen=True)
class Way:
    """One way to adapt the model: what it costs to train, to put in use, and to ship.

    train, deploy: seconds by stage; empty where there is nothing to do. ships: bytes that a
    server needs to take over the adapter. score: on the same held-out examples for all.
    """

    name: str
    train: Mapping[str, float]
    deploy: Mapping[str, float]
    ships: int
    score: Score


@dataclass(frozen=True)
class DemoReport:
    """Everything measured. aba_equal: swapping back gave the first logits bit for bit."""

    out: Path
    model: str
    task: str
    build_seconds: Mapping[str, float]
    bundle_bytes: int
    ways: tuple[Way, ...]
    swaps: tuple[SwapResult, ...]
    aba_equal: bool
    verified: VerifyReport
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """One task's held-out examples, scored the same way for everybody."""

    options: DemoOptions
    progress: Progress

    def score(self, subject: Subject, label: str) -> Score:
        from training.data import find_source

        source = find_source(self.options.task)
        examples = source.examples("test", self.options.count)

        def tell(stage: str, done: int, total: int) -> None:
            self.progress(f"score: {label}", done, total)

        complete = subject.completer(source.max_new_tokens)
        return evaluate(complete, examples, source.is_correct, progress=tell)


def run_demo(options: DemoOptions, progress: Progress) -> DemoReport:
    """Train, build once, swap between pictures, verify, and compare with LoRA.

    Writes OUT/run, OUT/bundle, OUT/lora, the pictures, and OUT/report.json last.

    Raises:
        OutputExistsError: `out` exists.
        ArtExportError: whatever a step raises; what the steps before it wrote stays.
    """
    from engines.errors import OutputExistsError
    from engines.files import write_json

    if options.out.exists():
        raise OutputExistsError(
            got=f"the output folder {options.out}, which exists",
            expected="a folder that does not exist yet",
            fix="choose another with -o, or leave -o out",
        )
    began = time.perf_counter()
    comparison = Comparison(options, progress)
    picture, train_seconds = _train(options, progress)
    build_seconds, bundle_bytes = _build(options.model, options.out / "bundle", options, progress)
    ways, swaps, equal = _swaps(comparison, picture, train_seconds)
    verified = _verify(options, progress)
    ways.append(_lora(comparison))
    report = DemoReport(
        out=options.out,
        model=options.model,
        task=options.task,
        build_seconds=build_seconds,
        bundle_bytes=bundle_bytes,
        ways=tuple(ways),
        swaps=tuple(swaps),
        aba_equal=equal,
        verified=verified,
        seconds=time.perf_counter() - began,
    )
    write_json(options.out / "report.json", report_of(report))
    return report


def report_of(report: DemoReport) -> object:
    """The report as JSON has it."""
    return jsonable(vars(report) | {"verified": report_facts(report.verified)})


def _train(options: DemoOptions, progress: Progress) -> tuple[Path, float]:
    """The trained picture, copied to OUT/art.png, and the seconds it took."""
    from engines.picture import load_picture, save_picture
    from training.run import TrainOptions, train

    asked = TrainOptions(
        model=options.model,
        task=options.task,
        out=options.out / "run",
        steps=options.steps,
        size=options.size,
        seed=options.seed,
        controls=False,
    )
    began = time.perf_counter()
    result = train(asked, _named(progress, "train the picture"))
    spent = time.perf_counter() - began
    picture = load_picture(result.picture)
    copy = options.out / "art.png"
    save_picture(copy, picture.pixels, picture.provenance)
    return copy, spent


def _build(
    model: str, out: Path, options: DemoOptions, progress: Progress
) -> tuple[dict[str, float], int]:
    """Seconds by stage and the bundle's bytes."""
    from art_export.build import BuildOptions, build

    told = _named(progress, "build the engine" if model == options.model else "rebuild for LoRA")
    result = build(BuildOptions(model, out, size=options.size), told)
    return result.seconds, result.bytes


def _swaps(
    comparison: Comparison, picture: Path, train_seconds: float
) -> tuple[list[Way], list[SwapResult], bool]:
    """Score no picture, the trained one and the controls; end with the trained one in use again,
    which has to give its first logits bit for bit."""
    from art_export.bundle import Bundle
    from engines.picture import load_picture

    options = comparison.options
    files = {TRAINED: picture} | _controls(options, load_picture(picture).size)
    with Bundle.load(options.out / "bundle") as bundle:
        ways = [Way("no picture", {}, {}, 0, _score_art(comparison, bundle, None))]
        swaps = [bundle.swap(picture, TRAINED)]
        first = _first_logits(bundle)
        for name, path in files.items():
            if name != TRAINED:
                swaps.append(bundle.swap(path, name))
            label = "ART" if name == TRAINED else f"untrained picture: {name}"
            train = {"train": train_seconds} if name == TRAINED else {}
            score = _score_art(comparison, bundle, name)
            ways.append(Way(label, train, swaps[-1].seconds, path.stat().st_size, score))
        swaps.append(bundle.swap(picture, TRAINED))
        return ways, swaps, first == _first_logits(bundle)


def _controls(options: DemoOptions, size: int) -> dict[str, Path]:
    from engines.picture import save_picture
    from training.controls import control_pictures

    drawn = control_pictures(size, options.seed)
    paths = {name: options.out / f"{name}.png" for name in CONTROLS}
    for name, path in paths.items():
        save_picture(path, drawn[name], None)
    return paths


def _first_logits(bundle: Bundle) -> bytes:
    """The first answer token's logits under the picture in use, as bytes."""
    prefix = bundle.prefix(bundle.folder.active())
    return bundle.runtime.prefill([bundle.runtime.tail(PROBE, prefix)], [prefix]).logits.tobytes()


def _score_art(comparison: Comparison, bundle: Bundle, name: str | None) -> Score:
    from art_export.subject import Subject

    subject = Subject(bundle.runtime, bundle.prefix(name), name, ())
    return comparison.score(subject, name or "no picture")


def _verify(options: DemoOptions, progress: Progress) -> VerifyReport:
    from art_export.verify import VerifyOptions, verify

    sample = task_sample(options.task, options.prompts)
    asked = VerifyOptions(
        bundle=options.out / "bundle", art=TRAINED, prompts=options.prompts, tasks=(sample,)
    )
    return verify(asked, _named(progress, "verify"))


def _lora(comparison: Comparison) -> Way:
    """LoRA merged into the weights, exported and built again: what a compiled engine without
    reserved LoRA inputs asks for."""
    from art_export.subject import open_subject
    from training.baselines.lora import LoraOptions, save_merged, train_lora

    options, progress = comparison.options, comparison.progress
    home = options.out / "lora"
    asked = LoraOptions(model=options.model, task=options.task, out=home / "run", seed=options.seed)
    if options.steps is not None:
        asked = LoraOptions(**(vars(asked) | {"steps": options.steps}))
    began = time.perf_counter()
    adapter = train_lora(asked, _named(progress, "train LoRA")).adapter
    trained = time.perf_counter()
    merged = save_merged(options.model, adapter, home / "merged")
    merged_after = time.perf_counter() - trained
    seconds, size = _build(str(merged), home / "bundle", options, progress)
    stages = {"merge": merged_after} | {k: v for k, v in seconds.items() if k != "total"}
    stages["total"] = merged_after + seconds["total"]
    with open_subject(str(home / "bundle"), "none") as subject:
        score = comparison.score(subject, "LoRA")
    return Way("LoRA r=8, merged", {"train": trained - began}, stages, size, score)


def _named(progress: Progress, name: str) -> Progress:
    """`progress` under one name for all the stages of a step."""

    def tell(stage: str, done: int, total: int) -> None:
        progress(name, done, total)

    return tell
