"""The whole benchmark on a tiny model: every figure is there, measured, and of the schema."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from art_export.bench.assemble import SHIPPED
from art_export.bench.jobs import JOBS, settings_of
from art_export.bench.run import bench
from art_export.bench.settings import METHODS, QUICK, BenchOptions, Settings, Task
from art_export.bench.verdict import AT_MOST, MERGE
from engines.errors import OptionError
from engines.picture import save_picture
from tests.conftest import TINY_SIZE
from tests.engines.fake_server import FakeServer

LOCAL = ("art", "lora-runtime", "soft-prompt", "lora-merge")
WARM = {
    "art": ["read", "check", "vision", "prefill", "compare", "store", "activate", "first token"],
    "lora-runtime": ["read", "first token"],
    "soft-prompt": ["read", "prefill", "first token"],
}


class _Example:
    prompt, answer = "How many apples are 2 and 3?", ""


def _options(model: Path, out: Path, **changes: Any) -> BenchOptions:
    return BenchOptions(str(model), out, settings=QUICK, size=TINY_SIZE, tokens=4, **changes)


def _here(kind: str, **job: Any) -> dict[str, Any]:
    """The job in this process: fifteen processes would import the same for a minute."""
    told = json.loads(json.dumps(job, default=str))
    if "settings" in told:
        told["settings"] = settings_of(told["settings"])
    return JOBS[kind](began=time.monotonic(), **told)


@pytest.fixture(scope="module")
def in_this_process() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("art_export.bench.run.run_job", _here)
        patch.setattr("art_export.bench.accuracy.run_job", _here)
        yield


@pytest.fixture(scope="module")
def folder(
    tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory, in_this_process: None
) -> Path:
    out = tmp_path_factory.mktemp("bench") / "out"
    bench(_options(tiny_model_dir, out))
    given = {
        "art": out / "prepared/pictures/noise-000.png",
        "lora": out / "prepared/loras/random-000",
    }
    task = Task("count", 4, [_Example()] * 3, lambda text, answer: True, given)
    # A second run measures nothing again, and adds what it is asked for beside.
    before = {path: path.stat().st_mtime_ns for path in (out / "turns").glob("0-*.json")}
    bench(_options(tiny_model_dir, out, tasks=(task,), methods=("art", "lora-runtime")))
    assert before == {path: path.stat().st_mtime_ns for path in before}
    bench(_options(tiny_model_dir, out))
    return out


@pytest.fixture(scope="module")
def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "bench.json").read_text())
    return found


def _summaries(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict) and "median" in value:
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _summaries(each)
    elif isinstance(value, list):
        for each in value:
            yield from _summaries(each)


@pytest.mark.slow
def test_every_figure_is_there(record: dict[str, Any]) -> None:
    assert list(record["methods"]) == list(METHODS)
    for name in LOCAL:
        method = record["methods"][name]
        assert method["status"] == "measured"
        assert method["adapter_bytes"] > 0
        assert method["time_to_first_token"]["n"] == QUICK.requests
        assert method["decode_tokens_per_second"]["n"] == QUICK.steps
        assert list(method["throughput"]) == [str(n) for n in QUICK.batches]
        assert all(0 < s["low"] <= s["median"] <= s["high"] for s in _summaries(method))
    for name, steps in WARM.items():
        method = record["methods"][name]
        assert [step["name"] for step in method["steps"]] == steps
        assert list(method["mixed"]) == [str(n) for n in QUICK.mixes]
        assert set(method["to_first_token"]) >= {"cold process", "warm process"}
    assert all(record["methods"][n]["resident_bytes_per_adapter"] is not None for n in LOCAL)


@pytest.mark.slow
def test_merging_is_timed_apart(record: dict[str, Any]) -> None:
    method = record["methods"]["lora-merge"]
    names = [step["name"] for step in method["steps"]]
    assert names[0] == "merge"
    assert {"build: load", "build: export", "build: write"} < set(names)
    assert names[-2:] == ["load", "first token"]
    total = sum(step["seconds"]["median"] for step in method["steps"])
    assert method["to_first_token"]["cold process"]["median"] == pytest.approx(total)


@pytest.mark.slow
def test_what_cannot_run_here_says_why(record: dict[str, Any]) -> None:
    for name in ("vllm-art", "vllm-lora"):
        assert "--url" in record["methods"][name]["reason"]
    refit = record["methods"]["lora-refit"]
    assert refit["status"] == "measured" or refit["reason"]


@pytest.mark.slow
def test_targets_and_floors(record: dict[str, Any]) -> None:
    assert {target["name"] for target in record["targets"]} > {MERGE, *AT_MOST}
    assert all(math.isfinite(value) and value > 0 for value in record["floors"].values())


@pytest.mark.slow
def test_accuracy_is_scored_by_the_task(folder: Path) -> None:
    for name in ("art", "lora-runtime"):
        kept = json.loads((folder / f"turns/accuracy-count-{name}.json").read_text())
        assert (kept["score"]["correct"], kept["score"]["n"]) == (3, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"settings": Settings()}, {"precision": "int8"}, {"tokens": 5}]
)
def test_other_settings_need_another_folder(
    folder: Path, tiny_model_dir: Path, changes: dict[str, Any]
) -> None:
    options = replace(_options(tiny_model_dir, folder), **changes)
    with pytest.raises(OptionError, match="other settings"):
        bench(options)


@pytest.mark.slow
def test_a_picture_prepared_elsewhere(record: dict[str, Any]) -> None:
    """Only pictures have more to ship than their own file."""
    places = {name: set(record["methods"][name]["to_first_token"]) for name in LOCAL}
    assert [name for name in LOCAL if SHIPPED in places[name]] == ["art"]


@pytest.mark.slow
def test_methods_on_a_server_alone(
    tiny_model_dir: Path, tmp_path: Path, in_this_process: None
) -> None:
    def reply(body: dict[str, Any]) -> Any:
        if "lora_name" in body:
            return b"Success"
        return {"choices": [{"message": {"content": "5"}}], "usage": {"prompt_tokens": 1}}

    picture, lora = tmp_path / "art.png", tmp_path / "lora"
    save_picture(picture, np.zeros((TINY_SIZE, TINY_SIZE, 3), np.uint8), None)
    given = {"art": picture, "lora": lora}
    task = Task("count", 4, [_Example()] * 3, lambda text, answer: text == "5", given)
    methods = ("vllm-art", "vllm-lora")
    with FakeServer(reply) as server:
        options = _options(tiny_model_dir, tmp_path / "out", methods=methods, tasks=(task,))
        found = bench(replace(options, url=server.url)).methods
    for name in methods:
        assert found[name].measured
        assert found[name].accuracy["count"].correct == 3


def test_an_unknown_method(tmp_path: Path, tiny_model_dir: Path) -> None:
    with pytest.raises(OptionError, match="did you mean 'lora-merge'"):
        bench(_options(tiny_model_dir, tmp_path, methods=("lora-marge",)))
