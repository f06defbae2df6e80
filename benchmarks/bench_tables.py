"""Put the figures of `art-export bench` into a document, between its markers:

python -m benchmarks.bench_tables docs/bench.md

A marker `<!-- bench FILE -->` names a result; everything from there to `<!-- end -->` is replaced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from art_export.bench.assemble import SHIPPED

BLOCK = re.compile(r"<!-- bench (?P<file>\S+) -->\n.*?<!-- end -->", re.DOTALL)
NONE = "-"
PLACES = ("cold process", "warm process", SHIPPED, "running server")
Row = Sequence[str]


def tables(result: Mapping[str, Any]) -> str:
    """Everything that a result says, as Markdown."""
    methods = {n: m for n, m in result["methods"].items() if m["status"] == "measured"}
    absent = {n: m for n, m in result["methods"].items() if n not in methods}
    environment = result["environment"]
    # The package for GPUs stands in the place of the other one.
    runtime = environment.get("onnxruntime") or environment["onnxruntime-gpu"]
    parts = [
        f"{environment['cpu']}, {environment['cores']} cores, {environment['memory_gib']} GiB, "
        f"onnxruntime {runtime}, {result['precision']}, {result['threads']} "
        f"threads, turns: {result['repeats']}, cores busy with other processes: "
        f"{_busy(environment)}.",
        _table(("", *methods), _facts(methods)),
        _table(("from file to first token, seconds by step", ""), _steps(methods)),
        _accuracy(methods),
        _table(
            ("target", "wanted", "found", ""),
            [
                (t["name"], t["wanted"], f"{t['value']:.3g}", "met" if t["met"] else "missed")
                for t in result["targets"]
            ],
        ),
        _table(("ratio", ""), [(n, f"{value:.3g}") for n, value in result["ratios"].items()]),
        _table(("floor", ""), [(n, f"{value:.4g}") for n, value in result["floors"].items()]),
        "\n".join(f"- {n}: not measured: {m['reason']}" for n, m in absent.items()),
        "\n".join(f"- {name}: {note}" for name, m in methods.items() for note in m["notes"]),
    ]
    return "\n\n".join(part for part in parts if part)


def _busy(environment: Mapping[str, Any]) -> str:
    most = environment["cores_busy_elsewhere"]
    return "not recorded" if most is None else f"at most {most}"


def _facts(methods: Mapping[str, Any]) -> list[Row]:
    lines: list[tuple[str, Callable[[Any], str]]] = [
        *((f"file to first token, {place}, s", _of("to_first_token", place))
          for place in PLACES),
        ("bytes on disk an adapter", lambda m: f"{m['adapter_bytes']:,}"),
        ("resident memory a further adapter, MB", _megabytes),
        ("request to first token, s", _of("time_to_first_token")),
        ("decode, tokens/s", _of("decode_tokens_per_second")),
        *((f"tokens/s at batch {n}", _of("throughput", n)) for n in _keys(methods, "throughput")),
        *((f"tokens/s at batch {_keys(methods, 'mixed')[-1]}, adapters in it: {n}", _of("mixed", n))
          for n in _keys(methods, "mixed")),
    ]  # fmt: skip
    return [(name, *(read(method) for method in methods.values())) for name, read in lines]


def _keys(methods: Mapping[str, Any], kind: str) -> list[str]:
    return sorted({key for method in methods.values() for key in method[kind]}, key=int)


def _of(kind: str, key: str | None = None) -> Callable[[Any], str]:
    def read(method: Mapping[str, Any]) -> str:
        found = method[kind] if key is None else method[kind].get(key)
        if found is None:
            return NONE
        spread = f" ({found['low']:.3g} to {found['high']:.3g})" if found["n"] > 1 else " (once)"
        return f"{found['median']:.3g}{spread}"

    return read


def _megabytes(method: Mapping[str, Any]) -> str:
    amount = method["resident_bytes_per_adapter"]
    return NONE if amount is None else f"{amount / 1e6:.2f}"


def _steps(methods: Mapping[str, Any]) -> list[Row]:
    return [
        (name, ", ".join(f"{s['name']} {s['seconds']['median']:.3g}" for s in method["steps"]))
        for name, method in methods.items()
    ]


def _accuracy(methods: Mapping[str, Any]) -> str:
    tasks = list(dict.fromkeys(task for method in methods.values() for task in method["accuracy"]))
    rows = [
        (name, *(_score(method["accuracy"].get(task)) for task in tasks))
        for name, method in methods.items()
    ]
    return _table(("accuracy", *tasks), rows) if tasks else ""


def _score(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return NONE
    interval = f"{score['low']:.3f} to {score['high']:.3f}"
    return f"{score['accuracy']:.3f} ({interval}), n = {score['n']}"


def _table(header: Row, rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def filled(text: str, folder: Path) -> str:
    """A document with its figures as the files say, which lie relative to `folder`."""

    def block(match: re.Match[str]) -> str:
        found = tables(json.loads((folder / match["file"]).read_text(encoding="utf-8")))
        return f"<!-- bench {match['file']} -->\n\n{found}\n\n<!-- end -->"

    return BLOCK.sub(block, text)


@click.command(help=__doc__)
@click.argument("document", type=click.Path(path_type=Path, exists=True))
def main(document: Path) -> None:
    text = filled(document.read_text(encoding="utf-8"), document.parent)
    document.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
