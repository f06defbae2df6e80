"""The page: every section that has something to show, in one file that needs no other.

A policy inside the page lets a browser load nothing and run nothing, whatever a name or a note
from a stranger's run may hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from art_export.report import (
    accuracy,
    deployment,
    learning,
    origins,
    parity,
    pictures,
    throughput,
)
from art_export.report.blocks import Chart, Section, Tile
from art_export.report.numbers import seconds, share
from art_export.report.plots import find_browser, write_plots
from art_export.report.read_results import read_bench, read_eval, read_verify
from art_export.report.read_run import read_run
from art_export.report.render import render
from art_export.report.sources import Bench, Run, Sources, Verified
from engines.errors import OptionError, OutputExistsError
from engines.files import sha256_file, write_bytes

SECTIONS = (
    pictures.section,
    learning.section,
    parity.section,
    accuracy.section,
    deployment.section,
    throughput.section,
    origins.section,
)
RUN_FILES = ("run.json", "metrics.jsonl", "art.png", "strip.png")


@dataclass(frozen=True)
class ReportOptions:
    """out: the page. train: folders of runs. verify, bench, evals: JSON files. title: of the page.
    replace: whether what is there may be replaced. plots: folder for PNGs of the charts."""

    out: Path
    train: tuple[Path, ...] = ()
    verify: tuple[Path, ...] = ()
    bench: tuple[Path, ...] = ()
    evals: tuple[Path, ...] = ()
    title: str = "art-export report"
    replace: bool = False
    plots: Path | None = None


@dataclass(frozen=True)
class ReportResult:
    """The page, its bytes, and the titles of its sections; plots: PNGs, where asked for."""

    out: Path
    bytes: int
    sections: tuple[str, ...]
    plots: tuple[Path, ...] = ()


def write_report(options: ReportOptions) -> ReportResult:
    """Read everything, then write the page in one step.

    Raises:
        OptionError: nothing to report on was given.
        DataError, PictureError: an input is missing or malformed; nothing was written then.
        OutputExistsError: `out` exists and may not be replaced.
        OutputError: `out` cannot be written.
        MissingEngineError: plots were asked for, and there is no browser to draw them.
    """
    _check(options)
    browser = None if options.plots is None else find_browser()
    shown, found = sections(read_sources(options))
    # A lone surrogate is legal in JSON and has no bytes.
    data = render(options.title, shown, found).encode("utf-8", "replace")
    write_bytes(options.out, data)
    titles = tuple(section.title for section in found)
    if options.plots is None or browser is None:
        return ReportResult(options.out, len(data), titles)
    drawn = write_plots(_charts(found), options.plots, browser, replace=options.replace)
    return ReportResult(options.out, len(data), titles, drawn)


def read_sources(options: ReportOptions) -> Sources:
    """Every input, checked; errors as in `write_report`."""
    paths = [folder / name for folder in options.train for name in RUN_FILES]
    paths += [*options.verify, *options.bench, *options.evals]
    sources = Sources(
        runs=_apart([read_run(folder) for folder in options.train], options.train),
        verified=tuple(map(read_verify, options.verify)),
        benches=tuple(map(read_bench, options.bench)),
        accuracies=tuple(map(read_eval, options.evals)),
        files=tuple((_label(path), sha256_file(path)) for path in paths if path.is_file()),
    )
    return sources


def _apart(runs: Sequence[Run], folders: Sequence[Path]) -> tuple[Run, ...]:
    """Runs whose folders have one name are told apart by the folders that these are in, and by
    numbers where that is not enough."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        parents = [folder.resolve().parent.name for folder in folders]
        names = [f"{parent}/{name}" for parent, name in zip(parents, names, strict=True)]
    if len(set(names)) < len(names):
        names = [f"{name} {number}" for number, name in enumerate(names, 1)]
    return tuple(replace(run, name=name) for run, name in zip(runs, names, strict=True))


def sections(sources: Sources) -> tuple[tuple[Tile, ...], tuple[Section, ...]]:
    """The figures to be seen first, and every section that has something to show."""
    made = (make(sources) for make in SECTIONS)
    return tiles(sources), tuple(section for section in made if section is not None)


def tiles(sources: Sources) -> tuple[Tile, ...]:
    """One for each run, each verification, and each bench that swapped a picture."""
    return (
        *map(_run_tile, sources.runs),
        *map(_verified_tile, sources.verified),
        *(tile for bench in sources.benches for tile in _bench_tiles(bench)),
    )


def _run_tile(run: Run) -> Tile:
    return Tile(f"{run.name}: exact on validation", share(run.score), f"{run.task}, {run.model}")


def _verified_tile(verified: Verified) -> Tile:
    held = sum(check.passed for check in verified.checks)
    value = f"{held} of {len(verified.checks)}"
    return Tile("checks against PyTorch held", value, verified.subject, verified.passed)


def _bench_tiles(bench: Bench) -> list[Tile]:
    states = [method.to_first_token for method in bench.methods if method.name == "art"]
    return [
        Tile("picture's file to first token", seconds(spread.median), f"{state}, {bench.model}")
        for found in states
        for state, spread in found.items()
        if state == "warm process"
    ]


def _check(options: ReportOptions) -> None:
    if not (options.train or options.verify or options.bench or options.evals):
        raise OptionError(
            got="a report without anything to report on",
            expected="at least one of --train, --verify, --bench and --eval",
            fix="art-export report report.html --train run",
        )
    if options.out.exists() and not options.replace:
        raise OutputExistsError(
            got=f"{options.out}, which exists already",
            expected="a file name that is still free: nothing is overwritten unasked",
            fix="add --replace, or choose another name",
        )


def _charts(found: tuple[Section, ...]) -> list[Chart]:
    return [block for section in found for block in section.blocks if isinstance(block, Chart)]


def _label(path: Path) -> str:
    """A file's name with its folder's, never the whole path: a page travels."""
    return f"{path.resolve().parent.name}/{path.name}" if path.name in RUN_FILES else path.name
