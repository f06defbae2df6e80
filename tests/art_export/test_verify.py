"""Verify passes on a sound bundle, and names every fault that is planted."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from art_export.build import BuildOptions, build
from art_export.bundle import Bundle
from art_export.compilers.onnxruntime import WEIGHTS
from art_export.probes import probe_prompts, prompt_of_length
from art_export.verify import BATCH, TaskSample, VerifyOptions, VerifyReport, verify
from engines.onnxruntime_engine import GRAPHS
from engines.picture import Picture
from engines.reference import Reference, ReferenceAnswer
from engines.registry import COMPILED, engine_class, installed

SIZE = 64
TASK = TaskSample("echo", ("Call", "Wake me up"), ("x", ""), lambda a, b: len(a) > len(b), 6)


@pytest.fixture
def path(tiny_bundle_dir: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(tiny_bundle_dir, tmp_path / "bundle"))
    rng = np.random.default_rng(4)
    with Bundle.load(folder) as bundle:
        for name in ("one", "two"):
            bundle.swap(Picture(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)), name)
    return folder


def _verify(path: Path, **changes: object) -> VerifyReport:
    options = {"art": "one", "prompts": 6, "tasks": (TASK,), **changes}
    return verify(VerifyOptions(path, **options))  # type: ignore[arg-type]


def _failed(report: VerifyReport) -> list[str]:
    assert not report.passed
    return [check.name for check in report.checks if not check.passed]


def _rehash(path: Path, name: str) -> None:
    """Make the manifest and the arts agree with an edited file, as a careful forger would."""
    manifest = json.loads((path / "manifest.json").read_text())
    for record in manifest["files"]:
        if record["path"] == name:
            record["sha256"] = hashlib.sha256((path / name).read_bytes()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))
    from engines.bundle import BundleFolder

    graph = BundleFolder.open(path).manifest.graph_sha256
    for art in (path / "arts").iterdir():
        facts = json.loads((art / "art.json").read_text())
        (art / "art.json").write_text(json.dumps({**facts, "graph_sha256": graph}))


COMPILED_HERE = [
    name for name in COMPILED if name in installed() and not engine_class(name).unavailable()
]


@pytest.mark.parametrize("engine", COMPILED_HERE)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_engine_from_build_to_verify(
    tiny_model_dir: Path, tmp_path: Path, engine: str, precision: str
) -> None:
    folder = tmp_path / "bundle"
    build(BuildOptions(str(tiny_model_dir), folder, engine=engine, precision=precision, size=SIZE))
    noise = np.random.default_rng(4).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    with Bundle.load(folder) as bundle:
        bundle.swap(Picture(noise), "one")
    report = _verify(folder, tasks=())
    # Chance decides between tokens of a random model, and rounding changes chance.
    judged = [c for c in report.checks if precision == "fp32" or c.name != "top-1 agreement"]
    assert all(check.passed for check in judged), report.checks
    assert report.figures is not None
    assert report.figures.precision == precision and report.figures.tokens_per_second > 0


@pytest.mark.parametrize("art", ["one", None])
def test_a_sound_bundle(path: Path, art: str | None) -> None:
    report = _verify(path, art=art)
    assert report.passed, [check for check in report.checks if not check.passed]
    names = [check.name for check in report.checks]
    stages = ["pixels", "vision features", "prefix state"] if art else []
    for name in (*stages, "files", "base model", "prefill logits", "accuracy, echo"):
        assert name in names
    logits = next(check for check in report.checks if check.name == "prefill logits")
    assert logits.tolerance == 1e-3
    assert logits.max_absolute is not None
    assert 0 < logits.max_absolute <= 1e-3


def test_answers_of_few_prompts_at_a_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a model with a large vocabulary has them: the report says the same."""
    asked: list[int] = []
    generate = Reference.generate

    def counted(self: Reference, prompts: Sequence[str], *rest: Any) -> list[ReferenceAnswer]:
        asked.append(len(prompts))
        return generate(self, prompts, *rest)

    monkeypatch.setattr(Reference, "generate", counted)
    together = _verify(path, prompts=19, tasks=())
    monkeypatch.setattr("art_export.verify.KEPT", 0)
    apart = _verify(path, prompts=19, tasks=())
    assert asked == [19, BATCH, BATCH, BATCH, 3, BATCH]
    assert together.passed and apart.passed
    told = [[(check.name, check.detail) for check in each.checks] for each in (together, apart)]
    assert told[0] == told[1]


def _failing_task() -> TaskSample:
    """The engine, which is asked first, is wrong and PyTorch is right."""
    verdicts = iter([False, False, True, True])
    return TaskSample("echo", ("Call", "Wake me up"), ("x", "y"), lambda *_: next(verdicts), 2)


@pytest.mark.parametrize(
    ("precision", "art", "told"),
    [("int4", "one", True), ("int8", "one", True), ("int4", None, False), ("fp32", "one", False)],
)
def test_lost_accuracy_says_how_to_go_on(
    path: Path, tiny_model_dir: Path, precision: str, art: str | None, told: bool
) -> None:
    """Where weights are rounded and there is a picture to be trained against them."""
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "precision": precision}))
    report = _verify(path, art=art, prompts=1, tasks=(_failing_task(),))
    assert _failed(report) == ["accuracy, echo"]
    command = (
        f"art-export train {tiny_model_dir} --task echo --init {path / 'arts/one/art.png'} "
        f"--weights {precision}"
    )
    detail = report.checks[-1].detail
    assert detail.startswith("engine 0/2, PyTorch 2/2")
    assert (command in detail) is told and ("train" in detail) is told


def test_a_wrong_base_model(path: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = Path(shutil.copytree(tiny_model_dir, tmp_path / "other"))
    tensors = load_file(other / "model.safetensors")
    name = next(name for name in tensors if name.endswith("q_proj.weight"))
    tensors[name] *= 1.01
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    report = _verify(path, model=str(other))
    assert _failed(report) == ["base model"]
    assert "another base model" in report.checks[-1].detail


def _perturb_one_layer(path: Path) -> None:
    """Scale one matrix of the decoder's second layer by 1 %."""
    model = onnx.load(path / GRAPHS["decoder"], load_external_data=False)
    tensor = next(t for t in model.graph.initializer if list(t.dims) == [64, 128])
    place = {entry.key: entry.value for entry in tensor.external_data}
    offset, length = int(place["offset"]), int(place["length"])
    data = bytearray((path / WEIGHTS).read_bytes())
    weights = np.frombuffer(data[offset : offset + length], np.float32) * np.float32(1.01)
    data[offset : offset + length] = weights.tobytes()
    (path / WEIGHTS).write_bytes(data)


def test_a_graph_with_one_layers_weights_perturbed(path: Path) -> None:
    _perturb_one_layer(path)
    report = _verify(path)
    assert "files" in _failed(report)
    assert WEIGHTS in report.checks[0].detail


def test_a_perturbed_graph_whose_hashes_were_forged(path: Path) -> None:
    _perturb_one_layer(path)
    _rehash(path, WEIGHTS)
    failed = _failed(_verify(path))
    assert "files" not in failed
    assert "prefill logits" in failed
    assert "prefix state" in failed


def test_a_picture_resized(path: Path) -> None:
    where = path / "arts/one/art.png"
    picture = Image.open(where).resize((SIZE // 2, SIZE // 2)).resize((SIZE, SIZE))
    picture.save(where)
    report = _verify(path)
    assert _failed(report) == ["art"]
    assert "art.png is not the picture" in report.checks[-1].detail


def test_a_stale_prefix_state(path: Path) -> None:
    shutil.copy(path / "arts/two/prefix.safetensors", path / "arts/one/prefix.safetensors")
    report = _verify(path)
    assert _failed(report) == ["art"]
    assert "prefix.safetensors" in report.checks[-1].detail


def test_a_stale_prefix_state_whose_hash_was_forged(path: Path) -> None:
    stale = (path / "arts/two/prefix.safetensors").read_bytes()
    (path / "arts/one/prefix.safetensors").write_bytes(stale)
    facts = json.loads((path / "arts/one/art.json").read_text())
    facts["prefix_sha256"] = hashlib.sha256(stale).hexdigest()
    (path / "arts/one/art.json").write_text(json.dumps(facts))
    report = _verify(path)
    failed = _failed(report)
    assert "prefix state" in failed
    assert "prefill logits" in failed
    assert "vision features" not in failed
    detail = next(check.detail for check in report.checks if check.name == "prefix state")
    assert "stale" in detail


def test_probe_prompts_have_their_length(tiny_bundle_dir: Path) -> None:
    with Bundle.load(tiny_bundle_dir) as bundle:
        chat = bundle.runtime.chat
        frame = len(chat.tail_ids("7")) - 1
        for length in (1, 5, 63, 64, 65, 200):
            for seed in range(5):
                prompt = prompt_of_length(chat, length, random.Random(seed))
                assert len(chat.tail_ids(prompt)) - frame == length
        assert probe_prompts(chat, 12, 100) == probe_prompts(chat, 12, 100)
        assert len(set(probe_prompts(chat, 12, 100))) == 12
