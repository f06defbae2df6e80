"""Environment and hashes: on what everything was measured, and of which files."""

from __future__ import annotations

from collections.abc import Mapping

from art_export.report.blocks import Block, Facts, Section
from art_export.report.sources import Run, Sources


def section(sources: Sources) -> Section | None:
    """Machine, versions, options and hashes of every source, and the files' own hashes."""
    blocks: list[Block] = []
    for run in sources.runs:
        blocks.append(Facts(f"{run.name}: hashes", tuple(run.facts.items())))
        blocks.append(_folded(f"{run.name}: options", _given(run)))
        blocks.append(_folded(f"{run.name}: versions", run.versions))
    for bench in sources.benches:
        blocks.append(_folded(f"{bench.name}: machine and versions", bench.environment))
    blocks.append(Facts("Files that this page was made from (sha256)", sources.files))
    return Section("origins", "Environment and hashes", tuple(blocks))


def _given(run: Run) -> Mapping[str, str]:
    return {name: value for name, value in run.options.items() if value}


def _folded(caption: str, facts: Mapping[str, str]) -> Facts:
    return Facts(caption, tuple(facts.items()), folded=True)
