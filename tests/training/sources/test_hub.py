"""Data sets of the hub from a cache of files, as the hub's client lays them out; no network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engines.errors import DataError, OptionError
from training.data import find_source
from training.sources import FORMATS, Format
from training.tasks import SPLITS


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a client that never asks the network."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def put(cache: Path, form: Format, file: str, rows: list[dict[str, object]]) -> None:
    """A file of a data set, as if it had been downloaded."""
    assert form.hub is not None
    repository = cache / f"datasets--{form.hub.repository.replace('/', '--')}"
    path = repository / "snapshots" / form.hub.revision / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        arrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize("name", ["gsm8k", "svamp", "bfcl", "toolmind"])
def test_a_data_set_that_cannot_be_had_is_told(cache: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"the data set '{name}'") as caught:
        find_source(name)
    assert f"{name}:PATH" in caught.value.fix
    assert caught.value.exit_code == 2


def test_every_data_set_is_pinned() -> None:
    for form in FORMATS.values():
        assert form.hub is None or len(form.hub.revision) == 40


def test_bfcl_comes_with_its_answers(cache: Path) -> None:
    form = FORMATS["bfcl"]
    assert form.hub is not None
    schema = {"type": "dict", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    asked: list[dict[str, object]] = []
    answers: list[dict[str, object]] = []
    for number in range(9):
        question = [[{"role": "user", "content": f"Call f with {number}."}]]
        function = [{"name": "f", "parameters": schema}]
        asked.append({"id": f"s{number}", "question": question, "function": function})
        answers.append({"id": f"s{number}", "ground_truth": [{"f": {"x": [number]}}]})
    put(cache, form, form.hub.train[0], asked)
    put(cache, form, form.hub.answers[0], answers)
    source = find_source("bfcl")
    assert source.name == "bfcl"
    assert sum(len(source.examples(split, 99)) for split in SPLITS) == 9


def test_gsm8k_keeps_its_official_test_split(cache: Path) -> None:
    form = FORMATS["gsm8k"]
    assert form.hub is not None
    rows: list[dict[str, object]] = [{"question": f"q{i}", "answer": "#### 1"} for i in range(60)]
    put(cache, form, form.hub.train[0], rows[:50])
    put(cache, form, form.hub.test[0], rows[45:])
    source = find_source("gsm8k")
    questions = {
        split: {example.prompt.split("\n")[0] for example in source.examples(split, 99)}
        for split in SPLITS
    }
    assert questions["test"] == {f"q{i}" for i in range(45, 60)}
    assert questions["train"] | questions["validation"] == {f"q{i}" for i in range(45)}
    assert not questions["train"] & questions["validation"]


def test_names_are_suggested() -> None:
    with pytest.raises(OptionError, match="did you mean 'gsm8k'"):
        find_source("gsm8")
