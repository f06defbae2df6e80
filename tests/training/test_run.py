"""Training a picture for a tiny random model, end to end."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import training.run as run_module
from engines.errors import (
    ArtExportError,
    CheckFailed,
    DataError,
    ModelError,
    OptionError,
    OutputExistsError,
    PictureError,
    PromptError,
    UserError,
)
from engines.model import load_model, resolve_model, weights_sha256
from engines.picture import check_base, load_picture, save_picture
from training.batches import Batch
from training.interruption import Interrupted
from training.objectives.sft import loss as sft
from training.options import TrainOptions
from training.policy import Policy
from training.run import train

SIZE = 64


@pytest.fixture
def options(tiny_model_dir: Path, tmp_path: Path) -> TrainOptions:
    return TrainOptions(
        model=str(tiny_model_dir),
        task="tools",
        out=tmp_path / "run",
        size=SIZE,
        steps=6,
        batch_size=3,
        examples=12,
        validation_examples=4,
        validate_every=2,
        checkpoint_every=2,
        controls=False,
    )


def pixels_of(folder: Path) -> np.ndarray:
    return load_picture(folder / "art.png", SIZE).pixels


def cat(path: Path) -> Path:
    """A picture with dark, bright and middle pixels, so that both ends of the range clamp."""
    pixels = np.random.default_rng(5).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    pixels[:8], pixels[8:16] = 0, 255
    save_picture(path, pixels, None)
    return path


def test_a_run_writes_the_picture_the_record_and_the_metrics(options: TrainOptions) -> None:
    seen: list[str] = []
    result = train(replace(options, controls=True), lambda stage, done, total: seen.append(stage))
    assert sorted(path.name for path in options.out.iterdir()) == [
        "art.png",
        "metrics.jsonl",
        "run.json",
        "strip.png",
    ]
    picture = load_picture(result.picture, SIZE)
    assert picture.sha256 == result.picture_sha256
    assert check_base(picture, result.weights_sha256) is None
    assert picture.provenance is not None
    assert (picture.provenance.step, picture.provenance.score) == (result.step, result.score)
    assert picture.provenance.data_hash == result.data_hash
    assert set(result.controls) == {"none", "start", "grey", "noise", "artwork"}
    assert set(seen) == {"train", "controls"}

    record = json.loads((options.out / "run.json").read_text())
    assert record["options"]["lr"] == 0.3
    assert record["model"]["weights_sha256"] == weights_sha256(Path(options.model))
    assert record["result"]["picture_sha256"] == picture.sha256
    assert record["data"]["splits"]["train"]["examples"] == 12
    assert record["versions"]["torch"] == torch.__version__


def test_training_lowers_the_loss(options: TrainOptions) -> None:
    result = train(replace(options, steps=20, lr=1.0))
    lines = [json.loads(line) for line in (options.out / "metrics.jsonl").read_text().splitlines()]
    start = lines[0]["validation"]["loss"]
    assert result.loss < start


def test_the_same_options_give_the_same_picture(options: TrainOptions, tmp_path: Path) -> None:
    first = train(options)
    again = train(replace(options, out=tmp_path / "again"))
    other = train(replace(options, out=tmp_path / "other", seed=1))
    assert first.picture_sha256 == again.picture_sha256
    assert first.picture_sha256 != other.picture_sha256


def test_the_weights_are_the_same_after_training_in_memory_and_on_disk(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Any] = []

    def load(source: Any) -> Any:
        loaded.append(load_model(source))
        return loaded[-1]

    monkeypatch.setattr("training.setup.load_model", load)
    before = weights_sha256(Path(options.model))
    untouched = load_model(resolve_model(options.model)).state_dict()
    result = train(options)
    after = loaded[0].state_dict()
    assert untouched.keys() == after.keys()
    assert all(torch.equal(untouched[name], after[name]) for name in untouched)
    assert all(weight.grad is None for weight in loaded[0].parameters())
    assert before == result.weights_sha256 == weights_sha256(Path(options.model))


@pytest.mark.parametrize("epsilon", ["8/255", "1/255", "0.05"])
def test_the_saved_picture_lies_in_the_ball_exactly(
    options: TrainOptions, tmp_path: Path, epsilon: str
) -> None:
    start = cat(tmp_path / "cat.png")
    radius = {"8/255": 8, "1/255": 1, "0.05": 12}[epsilon]
    train(replace(options, init=start, epsilon=epsilon, lr=radius / 2 / 255, steps=8))
    moved = np.abs(pixels_of(options.out).astype(int) - load_picture(start).pixels.astype(int))
    assert 0 < moved.max() <= radius


def test_init_without_epsilon_is_free_from_that_start(
    options: TrainOptions, tmp_path: Path
) -> None:
    start = cat(tmp_path / "cat.png")
    train(replace(options, init=start, lr=1e-9))
    assert np.array_equal(pixels_of(options.out), load_picture(start).pixels)
    train(replace(options, init=start, lr=3.0, out=tmp_path / "far"))
    moved = np.abs(pixels_of(tmp_path / "far").astype(int) - load_picture(start).pixels)
    assert moved.max() > 50


@pytest.mark.parametrize("epsilon", [None, "16/255"])
def test_a_run_that_was_interrupted_and_resumed_gives_the_same_picture(
    options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epsilon: str | None
) -> None:
    if epsilon is not None:
        options = replace(options, init=cat(tmp_path / "cat.png"), epsilon=epsilon)
    whole = train(replace(options, out=tmp_path / "whole"))

    calls = 0

    def interrupting(policy: Policy, batch: Batch) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return sft(policy, batch)

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "load_objective", lambda name: interrupting)
        with pytest.raises(Interrupted):
            train(options)
    assert not (options.out / "run.json").exists()
    (options.out / "art.png").unlink()  # the checkpoint has it too

    with pytest.raises(OutputExistsError, match="--resume"):
        train(options)
    resumed = train(replace(options, resume=True))
    assert resumed.picture_sha256 == whole.picture_sha256
    assert (resumed.step, resumed.score, resumed.loss) == (whole.step, whole.score, whole.loss)
    for name in ("art.png", "metrics.jsonl"):
        assert (options.out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (options.out / "checkpoint.pt").exists()


def test_divergence_is_told_and_leaves_the_best_picture(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def failing(policy: Policy, batch: Batch) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return sft(policy, batch) * (float("nan") if calls == 4 else 1.0)

    monkeypatch.setattr(run_module, "load_objective", lambda name: failing)
    with pytest.raises(CheckFailed, match="diverged at step 4"):
        train(options)
    assert load_picture(options.out / "art.png", SIZE).provenance is not None
    assert not (options.out / "run.json").exists()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"task": "tool"}, OptionError, "did you mean 'tools'"),
        ({"objective": "stf"}, OptionError, "did you mean 'sft'"),
        ({"model": "no-such-model"}, ModelError, "no-such-model"),
        ({"size": 50}, ModelError, "--size"),
        ({"epsilon": "8/255"}, OptionError, "without --init"),
        ({"init": Path("missing.png")}, PictureError, "missing.png"),
        ({"task": "missing.jsonl"}, DataError, "missing.jsonl"),
        ({"steps": 0}, OptionError, "steps = 0"),
        ({"resume": True}, OptionError, "no checkpoint"),
    ],
)
def test_bad_input_is_told_and_nothing_is_written(
    options: TrainOptions, changes: dict[str, Any], error: type[ArtExportError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        train(replace(options, **changes))
    assert isinstance(caught.value, UserError)
    assert not options.out.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"size": {"shortest_edge": 65536, "longest_edge": 16777216}},
        {"min_pixels": 65536, "max_pixels": 16777216},
        {"size": {"shortest_edge": 256, "longest_edge": 1024}},
    ],
)
def test_a_processor_that_would_resize_the_picture_is_told_at_start(
    options: TrainOptions, tmp_path: Path, changes: dict[str, Any]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(options.model, folder)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ModelError, match=r"a picture size of 64, 4096 pixels") as caught:
        train(replace(options, model=str(folder)))
    assert "preprocessor_config.json" in caught.value.fix
    assert not options.out.exists()


def test_a_model_without_its_processor_is_refused(options: TrainOptions, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(options.model, folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match="image processor"):
        train(replace(options, model=str(folder)))
    assert not options.out.exists()


def test_a_start_of_another_size_is_refused(options: TrainOptions, tmp_path: Path) -> None:
    save_picture(tmp_path / "small.png", np.zeros((32, 32, 3), np.uint8), None)
    with pytest.raises(PictureError, match="64x64"):
        train(replace(options, init=tmp_path / "small.png"))


def test_a_file_of_chats_is_trained_on(options: TrainOptions, tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    lines = [{"prompt": f"say {i}", "answer": f"number {i}"} for i in range(40)]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    result = train(replace(options, task=str(path), examples=None))
    picture = load_picture(result.picture)
    assert picture.provenance is not None
    assert picture.provenance.task == "own.jsonl"
    assert result.notes == ()

    long = {"prompt": "write", "answer": "word " * 600}
    path.write_text("\n".join(json.dumps(line) for line in (*lines, long)))
    with pytest.raises(PromptError, match="write"):
        train(replace(options, task=str(path), examples=None, out=tmp_path / "long"))
    assert not (tmp_path / "long").exists()


def test_every_treatment_together_is_resumed_bit_for_bit(
    options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(
        options,
        init=cat(tmp_path / "cat.png"),
        epsilon="16/255",
        variation=0.1,
        low=1.0,
        robust=("jpeg", "resize", "crop", "noise"),
        accumulate=2,
        precision="bf16",
        recompute=True,
        log_to=("tensorboard",),
    )
    whole = train(replace(options, out=tmp_path / "whole"))
    assert set(whole.measured["exact_after"]) == {"jpeg", "resize", "crop", "noise"}
    calls = 0

    def interrupting(policy: Policy, batch: Batch) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return sft(policy, batch)

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "load_objective", lambda name: interrupting)
        with pytest.raises(Interrupted):
            train(options)
    train(replace(options, resume=True))
    for name in ("art.png", "metrics.jsonl", "strip.png"):
        assert (options.out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len(list((options.out / "tensorboard").iterdir())) == 2


def test_a_weight_on_likeness_keeps_the_picture_nearer_to_its_start(
    options: TrainOptions, tmp_path: Path
) -> None:
    options = replace(options, init=cat(tmp_path / "cat.png"), epsilon="64/255", steps=10)
    start = load_picture(options.init).pixels.astype(float) if options.init else np.zeros(1)

    def grain(folder: Path) -> float:
        return float(np.abs(np.diff(pixels_of(folder).astype(float) - start, axis=0)).mean())

    train(options)
    train(replace(options, out=tmp_path / "smooth", variation=1000.0))
    if not np.array_equal(pixels_of(tmp_path / "smooth"), start):
        assert grain(tmp_path / "smooth") < 0.7 * grain(options.out)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"robust": ("jpg",)}, "did you mean 'jpeg'"),
        ({"precision": "bf61"}, "did you mean 'bf16'"),
        ({"variation": -1.0}, "variation"),
        ({"log_to": ("tensorbord",)}, "did you mean 'tensorboard'"),
        ({"accumulate": 0}, "accumulate"),
        ({"device": "cudda"}, "--device"),
        ({"settings": {"beta": 1}}, "beta"),
    ],
)
def test_senseless_treatments_are_told_and_nothing_is_written(
    options: TrainOptions, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        train(replace(options, **changes))
    assert not options.out.exists()


def test_weights_of_a_quantised_bundle_are_trained_against(
    options: TrainOptions, tmp_path: Path
) -> None:
    def first_loss(folder: Path, weights: str | None) -> float:
        train(replace(options, out=folder, steps=1, weights=weights))
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return next(float(row["loss"]) for row in map(json.loads, lines) if "loss" in row)

    before = weights_sha256(Path(options.model))
    own, rounded = first_loss(tmp_path / "own", None), first_loss(tmp_path / "int4", "int4")
    assert own != rounded and abs(own - rounded) < 1
    assert weights_sha256(Path(options.model)) == before
    with pytest.raises(OptionError, match="int3"):
        train(replace(options, out=tmp_path / "no", weights="int3"))
