from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from art_export.report.read_run import read_run
from engines.errors import DataError, PictureError
from tests.art_export.report.samples import FRAMES, SIZE, pixels, record, write, write_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


def test_a_run_as_training_writes_it(folder: Path) -> None:
    run = read_run(folder)
    assert (run.name, run.kind, run.model, run.task) == ("run", "picture", "demo", "tools")
    assert (run.score, run.step, run.seconds) == (0.98, 50, 150.5)
    assert run.controls == {"start": 0.0, "none": 0.01, "grey": 0.0}
    assert len(run.steps) == 75
    assert run.steps[0] == (1, {"loss": 0.3, "gradient_norm": 0.1, "rate": 1.0})
    assert [v.step for v in run.validations] == [0, 25, 50, 75]
    assert [v.best for v in run.validations] == [True, True, True, False]
    assert run.options["objective"] == "sft"
    assert "init" not in run.options
    assert run.picture is not None
    assert run.facts["picture sha256"] == run.picture.sha256


def test_the_first_frame_of_the_strip_is_where_it_started(folder: Path) -> None:
    run = read_run(folder)
    assert run.start is not None
    assert run.strip is not None
    assert (run.start == pixels(0)).all()
    assert run.strip.shape[1] > FRAMES * SIZE


def test_without_metrics_and_pictures(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", record() | {"kind": "lora"}, pictures=False)
    (folder / "metrics.jsonl").unlink()
    run = read_run(folder)
    assert (run.kind, run.steps, run.validations) == ("lora", (), ())
    assert run.picture is None
    assert run.start is None


def test_an_unfinished_run_is_told_apart(folder: Path) -> None:
    (folder / "run.json").unlink()
    with pytest.raises(DataError, match=r"no run\.json") as caught:
        read_run(folder)
    assert "its run is unfinished" not in caught.value.got
    (folder / "checkpoint.pt").write_bytes(b"")
    with pytest.raises(DataError, match="its run is unfinished"):
        read_run(folder)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"step": 1, "loss": 0.', "line 2: not valid JSON"),
        ('{"loss": 1.0}', "'step' is nothing"),
        ('{"step": "1"}', "'step'"),
        ('{"step": 1, "validation": {"loss": 1}, "best": true}', "'exact' is nothing"),
        ('{"step": 1, "validation": {"exact": 1}, "best": 1}', "'best'"),
        ("[]", "no JSON object"),
    ],
)
def test_a_malformed_line_of_metrics_is_named(folder: Path, line: str, why: str) -> None:
    (folder / "metrics.jsonl").write_text('{"step": 0}\n' + line + "\n")
    with pytest.raises(DataError, match="line 2") as caught:
        read_run(folder)
    assert why in str(caught.value)


@pytest.mark.parametrize("name", ["kind", "options", "result"])
def test_a_record_without_what_is_needed(folder: Path, name: str) -> None:
    document = record()
    del document[name]
    write(folder / "run.json", document)
    with pytest.raises(DataError, match=r"run\.json"):
        read_run(folder)


@pytest.mark.parametrize("size", [(SIZE * 1000, SIZE), (SIZE, SIZE + 1), (SIZE // 2, SIZE)])
def test_a_strip_of_another_form_is_refused(folder: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size).save(folder / "strip.png")
    with pytest.raises(DataError, match=r"strip\.png"):
        read_run(folder)


def test_damaged_pictures_are_refused(folder: Path) -> None:
    whole = (folder / "strip.png").read_bytes()
    (folder / "strip.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PictureError, match=r"strip\.png"):
        read_run(folder)
    (folder / "art.png").write_bytes(b"<svg onload=alert(1)>")
    with pytest.raises(PictureError, match=r"art\.png"):
        read_run(folder)


def test_a_long_number_is_an_error_and_no_crash(folder: Path) -> None:
    text = json.dumps(record()).replace("150.5", "1" + "0" * 400)
    (folder / "run.json").write_text(text)
    with pytest.raises(DataError, match="seconds"):
        read_run(folder)
