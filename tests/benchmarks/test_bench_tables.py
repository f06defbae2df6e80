"""Figures of `art-export bench` in documents: how they are written, and that none is stale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.bench_tables import BLOCK, filled, main

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    path for path in sorted((ROOT / "docs").glob("*.md")) if BLOCK.search(path.read_text())
]


def times(median: float, n: int = 3) -> dict[str, Any]:
    return {"median": median, "low": median / 2, "high": median * 2, "n": n}


def measured() -> dict[str, Any]:
    return {
        "status": "measured",
        "to_first_token": {"warm process": times(0.06), "cold process": times(1.5, n=1)},
        "adapter_bytes": 182_000,
        "resident_bytes_per_adapter": 120_000,
        "time_to_first_token": times(0.01),
        "decode_tokens_per_second": times(100),
        "throughput": {"1": times(90), "32": times(900), "8": times(400)},
        "mixed": {"1": times(950), "16": times(930)},
        "steps": [{"name": "read", "seconds": times(0.002)}],
        "accuracy": {"tools": {"accuracy": 0.992, "low": 0.98, "high": 0.997, "n": 500}},
        "notes": ["a note"],
    }


def result() -> dict[str, Any]:
    return {
        "environment": {
            "cpu": "a CPU",
            "cores": 2,
            "memory_gib": 24,
            "onnxruntime": "1.32.0",
            "cores_busy_elsewhere": None,
        },
        "precision": "fp32",
        "threads": 2,
        "repeats": 3,
        "methods": {
            "art": measured(),
            "lora-refit": {"status": "not measured", "reason": "no GPU"},
        },
        "targets": [{"name": "swap", "wanted": "at least 100", "value": 71.04, "met": False}],
        "ratios": {"decode": 0.9876},
        "floors": {},
    }


@pytest.fixture
def lines(tmp_path: Path) -> list[str]:
    (tmp_path / "result.json").write_text(json.dumps(result()))
    document = tmp_path / "page.md"
    document.write_text("before\n\n<!-- bench result.json -->\nold\n<!-- end -->\n\nafter\n")
    done = CliRunner().invoke(main, [str(document)])
    assert done.exit_code == 0, done.output
    text = document.read_text()
    assert filled(text, tmp_path) == text
    return text.splitlines()


def test_what_is_between_the_markers_is_replaced(lines: list[str]) -> None:
    assert lines[:3] == ["before", "", "<!-- bench result.json -->"]
    assert lines[-3:] == ["<!-- end -->", "", "after"]
    assert "old" not in lines


def test_figures_have_their_spread_or_how_often(lines: list[str]) -> None:
    assert "| file to first token, warm process, s | 0.06 (0.03 to 0.12) |" in lines
    assert "| file to first token, cold process, s | 1.5 (once) |" in lines
    assert "| file to first token, running server, s | - |" in lines
    assert "| bytes on disk an adapter | 182,000 |" in lines
    assert "| resident memory a further adapter, MB | 0.12 |" in lines
    assert "| art | 0.992 (0.980 to 0.997), n = 500 |" in lines
    assert "| art | read 0.002 |" in lines


def test_batches_are_in_the_order_of_their_size(lines: list[str]) -> None:
    batches = [line for line in lines if line.startswith("| tokens/s at batch")]
    assert [line.split(" | ")[0] for line in batches] == [
        "| tokens/s at batch 1",
        "| tokens/s at batch 8",
        "| tokens/s at batch 32",
        "| tokens/s at batch 16, adapters in it: 1",
        "| tokens/s at batch 16, adapters in it: 16",
    ]


def test_what_was_missed_or_not_measured_is_said(lines: list[str]) -> None:
    assert "| swap | at least 100 | 71 | missed |" in lines
    assert "- lora-refit: not measured: no GPU" in lines
    assert "- art: a note" in lines
    assert any(line.endswith("cores busy with other processes: not recorded.") for line in lines)
    # Without a floor there is no table of floors.
    assert not [line for line in lines if line.startswith("| floor")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_document_says_what_its_results_say(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    stale = f"stale: run python -m benchmarks.bench_tables docs/{document.name}"
    assert filled(text, document.parent) == text, stale


def test_documents_with_figures_were_found() -> None:
    assert [path.name for path in DOCUMENTS] == ["bench.md"]
