"""Reading what verify, eval and bench wrote."""

from __future__ import annotations

from pathlib import Path

from art_export.report.fields import Fields, malformed, read_object
from art_export.report.sources import (
    Accuracy,
    Bench,
    Check,
    Method,
    Spread,
    Target,
    Verified,
)


def read_verify(path: Path) -> Verified:
    """Read what `art-export verify --json` printed.

    Raises:
        DataError: the file is malformed.
    """
    found = read_object(path)
    subject = found.text_or("bundle", None) or found.text("url")
    checks = tuple(_check(item) for item in found.objects("checks"))
    figures = found.object("figures")
    return Verified(
        name=path.name,
        subject=subject,
        art=found.text_or("art", None),
        base_model=found.text("base_model"),
        passed=found.flag("passed"),
        checks=checks,
        figures=figures.numbers(),
        precision=figures.text_or("precision", None) or found.text_or("dtype", None),
    )


def _check(item: Fields) -> Check:
    return Check(
        name=item.text("name"),
        passed=item.flag("passed"),
        detail=item.text("detail"),
        absolute=item.number_or_none("max_absolute"),
        relative=item.number_or_none("max_relative"),
        allowed=item.number_or_none("tolerance"),
    )


def read_eval(path: Path) -> Accuracy:
    """Read what `art-export eval --json` printed.

    Raises:
        DataError: the file is malformed.
    """
    found = read_object(path)
    return _accuracy(found, _way(found), found.text("task"))


def _way(found: Fields) -> str:
    """What was asked, in words: the adapter, and on what."""
    named = {
        "picture": found.text_or("art", None),
        "LoRA": found.text_or("lora", None),
        "soft prompt": found.text_or("soft_prompt", None),
        "prompt": found.text_or("prompt", None),
    }
    parts = [f"{kind} {name}" for kind, name in named.items() if name is not None]
    if found.values.get("hint") is True:
        parts.append("asked in words")
    return f"{' and '.join(parts) or 'no picture'}, on {found.text('target')}"


def _accuracy(found: Fields, way: str, task: str) -> Accuracy:
    accuracy = Accuracy(
        way=way,
        task=task,
        correct=found.integer("correct"),
        n=found.integer("n"),
        accuracy=found.number("accuracy"),
        low=found.number("low"),
        high=found.number("high"),
    )
    shares = (0, accuracy.low, accuracy.accuracy, accuracy.high, 1)
    if list(shares) != sorted(shares):
        raise malformed(found.where, "low, accuracy and high are not in this order within 0 to 1")
    return accuracy


# -- bench ----------------------------------------------------------------------------------------


def read_bench(path: Path) -> Bench:
    """Read the bench.json that `art-export bench` wrote.

    Raises:
        DataError: the file is malformed, or of another schema.
    """
    found = read_object(path)
    if found.values.get("kind") != "bench" or found.values.get("schema") != 1:
        raise malformed(str(path), "no bench.json of schema 1")
    methods = found.object("methods").children()
    return Bench(
        name=path.name,
        model=found.text("model"),
        engine=found.text("engine"),
        precision=found.text("precision"),
        threads=found.integer("threads"),
        repeats=found.integer("repeats"),
        environment=found.object("environment").plain(),
        methods=tuple(_method(name, fields) for name, fields in methods.items()),
        ratios=found.object("ratios").numbers(),
        floors=found.object("floors").numbers(),
        targets=tuple(_target(item) for item in found.objects("targets")),
    )


def _method(name: str, found: Fields) -> Method:
    status = found.text("status")
    if status not in ("measured", "not measured"):
        raise malformed(found.where, f"'status' is {status[:30]!r}")
    tasks = found.object("accuracy").children()
    steps = ((step.text("name"), step.object("seconds")) for step in found.objects("steps"))
    return Method(
        name=name,
        measured=status == "measured",
        reason=found.text_or("reason", None),
        steps=tuple((step, _spread(seconds)) for step, seconds in steps),
        to_first_token=_spreads(found.object("to_first_token")),
        adapter_bytes=found.number_or_none("adapter_bytes"),
        resident_bytes=found.number_or_none("resident_bytes_per_adapter"),
        time_to_first_token=_spread_or_none(found.object("time_to_first_token")),
        decode=_spread_or_none(found.object("decode_tokens_per_second")),
        throughput=_by_number(found.object("throughput")),
        mixed=_by_number(found.object("mixed")),
        accuracy=tuple(
            _accuracy(fields, name, task) for task, fields in tasks.items() if fields.values
        ),
        notes=found.texts("notes"),
    )


def _spread(found: Fields) -> Spread:
    spread = Spread(
        found.number("median"), found.number("low"), found.number("high"), found.integer("n")
    )
    if not 0 <= spread.low <= spread.median <= spread.high:
        raise malformed(found.where, "low, median and high are not in this order from 0 up")
    return spread


def _spread_or_none(found: Fields) -> Spread | None:
    return _spread(found) if found.values else None


def _spreads(found: Fields) -> dict[str, Spread]:
    items = found.children().items()
    return {name: _spread(fields) for name, fields in items if fields.values}


def _by_number(found: Fields) -> dict[int, Spread]:
    """Spreads by a whole number that JSON has as text, in rising order."""
    spreads = _spreads(found)
    for name in spreads:
        if not (name.isascii() and name.isdigit() and int(name[:10]) > 0 and len(name) < 10):
            raise malformed(found.where, f"{name[:30]!r} is no whole number above 0")
    return {int(name): spreads[name] for name in sorted(spreads, key=int)}


def _target(item: Fields) -> Target:
    return Target(
        item.text("name"), item.text("wanted"), item.number_or_none("value"), item.flag("met")
    )
