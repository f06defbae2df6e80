"""Parity with PyTorch, stage by stage."""

from __future__ import annotations

from art_export.report.blocks import Block, Chart, Facts, Heading, Section, Table, Text
from art_export.report.charts import Bar, BarChart
from art_export.report.numbers import quantity, size
from art_export.report.sources import Check, Sources, Verified

_PASSED, _FAILED = 2, 4
"""Colours of the style sheet."""


def section(sources: Sources) -> Section | None:
    """Every verification that was given."""
    blocks: list[Block] = []
    for number, verified in enumerate(sources.verified, 1):
        blocks += [Heading(_title(verified)), Text(verdict(verified), _tone(verified))]
        blocks += [_checks(verified, number), *_figures(verified)]
    return Section("parity", "Parity with PyTorch, by stage", tuple(blocks)) if blocks else None


def verdict(verified: Verified) -> str:
    """One line: how many checks held, and which did not."""
    failed = [check.name for check in verified.checks if not check.passed]
    total = len(verified.checks)
    if failed or not verified.passed:
        return f"{len(failed)} of {total} checks failed: {', '.join(failed) or 'see below'}"
    return f"All {total} checks passed."


def _tone(verified: Verified) -> str:
    return "" if verified.passed else "bad"


def _title(verified: Verified) -> str:
    precision = "" if verified.precision is None else f", {verified.precision}"
    return f"{verified.subject}{precision}, picture {verified.art or 'none'}"


def _checks(verified: Verified, number: int) -> Block:
    checks = [check for check in verified.checks if check.absolute is not None]
    if not checks:
        return _table(verified)
    told = "; ".join(f"{check.name} {_difference(check)}" for check in checks)
    chart = BarChart(
        title="Largest absolute difference; the line is what is allowed",
        alt=f"Largest absolute difference from PyTorch by stage: {told}.",
        axis="absolute difference",
        bars=tuple(_bar(check) for check in checks),
        log=True,
    )
    return Chart(f"parity-{number}", chart, _table(verified))


def _bar(check: Check) -> Bar:
    return Bar(
        label=check.name,
        value=check.absolute or 0.0,
        text=_difference(check),
        mark=check.allowed,
        colour=_PASSED if check.passed else _FAILED,
    )


def _difference(check: Check) -> str:
    found = quantity(check.absolute or 0.0)
    return found if check.allowed is None else f"{found}, allowed {quantity(check.allowed)}"


def _table(verified: Verified) -> Table:
    rows = tuple(
        (
            check.name,
            "ok" if check.passed else "FAILED",
            _number(check.absolute),
            _number(check.relative),
            _number(check.allowed),
            check.detail,
        )
        for check in verified.checks
    )
    header = ("check", "result", "max abs", "max rel", "allowed", "what was compared")
    return Table(f"Against {verified.base_model}, by stage", header, rows)


def _number(value: float | None) -> str:
    return "" if value is None else quantity(value)


def _figures(verified: Verified) -> list[Block]:
    figures = verified.figures
    known = {
        "bytes": ("bundle", size),
        "weight_bytes": ("weights", size),
        "tokens_per_second": ("greedy decode, batch 1", lambda v: f"{quantity(v)} tokens/s"),
    }
    rows = [(label, write(figures[name])) for name, (label, write) in known.items()
            if name in figures]  # fmt: skip
    return [Facts("What the bundle costs", tuple(rows))] if rows else []
