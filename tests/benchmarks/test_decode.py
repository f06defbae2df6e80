"""benchmarks/decode.py on a tiny model, with its child processes' work done in this one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import decode
from engines.tensorrt_library import no_cuda

SHAPE = "tiny-qwen3_vl"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks run in this process, over contexts that a tiny model gets through at once."""
    monkeypatch.setattr(decode, "_child", lambda **task: decode._task(**task))
    monkeypatch.setattr(decode, "CONTEXTS", (16, 40))
    monkeypatch.setattr(decode, "PREFILL", 8)


def measured(out: Path, *more: str, device: str = "cpu") -> dict[str, Any]:
    """What was written, which is what was printed last."""
    arguments = ["--shape", SHAPE, "--device", device, "--quick", "-o", str(out), *more]
    done = CliRunner().invoke(decode.main, arguments, catch_exceptions=False)
    where = "" if device == "cpu" else f"-{device}"
    written: dict[str, Any] = json.loads((out / f"decode-{SHAPE}{where}.json").read_text())
    assert json.loads(done.stdout.splitlines()[-1]) == written
    return written


def test_engines_are_measured_against_one_floor(tmp_path: Path, here: None) -> None:
    written = measured(tmp_path, "--precisions", "fp32,int8", "--engines", "torch,onnxruntime")
    fp32, int8 = (written["precisions"][each] for each in ("fp32", "int8"))
    assert set(fp32["engines"]) == {"onnxruntime", "torch"}
    # Keys and values in fp32 of two layers; a step reads those of all tokens before it.
    assert fp32["state_bytes"]["40"] == 2.5 * fp32["state_bytes"]["16"] > 0
    assert fp32["weight_bytes"] > int8["weight_bytes"] > 0
    for found in fp32["engines"].values():
        assert set(found["median_milliseconds"]) == {"prefill 8", "decode 16", "decode 40"}
        for what, share in found["share_of_the_limit"].items():
            floor = fp32["floor_milliseconds"][what]
            assert share == pytest.approx(floor / found["median_milliseconds"][what])
    assert set(int8["engines"]) == {"onnxruntime"}
    assert int8["absent"]["torch"] == {"skipped": "PyTorch eager is not measured in int8 on cpu"}


def test_a_gpu_is_measured(tmp_path: Path, here: None) -> None:
    if reason := no_cuda():
        pytest.skip(reason)
    written = measured(
        tmp_path, "--precisions", "fp16", "--engines", "torch,onnxruntime", device="cuda"
    )
    assert set(written["precisions"]["fp16"]["engines"]) >= {"torch"}


@pytest.mark.skipif(no_cuda() is None, reason="there is a CUDA device")
def test_without_a_gpu_there_is_one_error(tmp_path: Path) -> None:
    done = CliRunner().invoke(decode.main, ["--device", "cuda", "-o", str(tmp_path)])
    assert done.exit_code == 2
    assert "--device cuda: there is no CUDA device" in done.output
    assert not list(tmp_path.iterdir())
