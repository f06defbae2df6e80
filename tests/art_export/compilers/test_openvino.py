"""Tiny models as OpenVINO's IR: what is in it, and what its smaller weights cost."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest

from art_export.compilers import CompileOptions, find_compiler
from engines.contract import DecoderInput
from engines.errors import MissingEngineError, OptionError
from engines.positions import text_positions
from engines.torch_engine import TorchEngine
from tests.models import TINY
from tests.portable import load_graphs, tiny_source

pytest.importorskip("openvino", reason="needs openvino")

import openvino as ov

from art_export.compilers import openvino as compiler
from engines.openvino_engine import FOLDER, GRAPHS, WEIGHTS, OpenVinoEngine

FAMILIES = ("qwen3_5", "qwen3_vl")
LARGEST = {"fp32": 1e-3, "fp16": 0.02, "bf16": 0.3, "int8": 0.3, "int4": 3.0}
"""Of a logit's difference from PyTorch; the tiny models' logits spread over some 8 units."""


@cache
def bundle(family: str, precision: str) -> Path:
    """A folder with what the compiler writes for a family's tiny model."""
    if precision in compiler.QUANTIZED:
        pytest.importorskip("nncf", reason="needs nncf")
    folder = Path(mkdtemp(prefix="art-export-"))
    options = CompileOptions("openvino", precision, TINY[family].size, 1024)
    stages: list[str] = []
    facts = compiler.compile_graphs(load_graphs(family), folder, options, stages.append)
    assert tuple(stages) == compiler.STAGES
    assert facts == {"openvino": ov.get_version()}
    return folder


@pytest.mark.parametrize("precision", compiler.PRECISIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits(family: str, precision: str) -> None:
    reference = TorchEngine.from_source(tiny_source(family), TINY[family].size)
    ids = np.random.default_rng(0).integers(10, 300, (2, 70))
    inputs = DecoderInput(
        reference.embed(ids), np.ones_like(ids), text_positions(np.zeros(2, np.int64), 70), 0
    )
    expected, _ = reference.decode(inputs, reference.empty_state(2))
    with OpenVinoEngine.open(bundle(family, precision)) as engine:
        found, _ = engine.decode(inputs, engine.empty_state(2))
    assert np.abs(found - expected).max() <= LARGEST[precision]


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_irs_and_their_weights_are_left(family: str) -> None:
    files = {path.name for path in (bundle(family, "fp32") / FOLDER).iterdir()}
    assert files == {*GRAPHS.values(), WEIGHTS}


def test_weights_lie_once() -> None:
    """Tied embeddings too: the file is hardly larger than the model's own parameters."""
    source = tiny_source("qwen3_5")
    own = sum(path.stat().st_size for path in source.path.glob("*.safetensors"))
    assert (bundle("qwen3_5", "fp32") / FOLDER / WEIGHTS).stat().st_size < 1.15 * own


def test_smaller_precisions_are_smaller() -> None:
    sizes = [
        (bundle("qwen3_5", precision) / FOLDER / WEIGHTS).stat().st_size
        for precision in ("fp32", "fp16", "int8", "int4")
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] < 0.65 * sizes[0]


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("qwen3_5", {"GatedDeltaNet": 1, "ScaledDotProductAttention": 1, "RoPE": 2}),
        ("qwen3_vl", {"ScaledDotProductAttention": 2, "RoPE": 4}),
    ],
)
def test_the_plugin_takes_operations_whole(family: str, expected: dict[str, int]) -> None:
    engine = OpenVinoEngine.open(bundle(family, "fp32"))
    runtime = engine._compiled["decoder"].get_runtime_model()
    kinds = Counter(node.get_rt_info()["layerType"].astype(str) for node in runtime.get_ops())
    assert {kind: kinds[kind] for kind in expected} == expected
    assert kinds["MemoryInput"] == len(engine.state)


def test_missing_nncf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compiler, "find_spec", lambda name: None)
    options = CompileOptions("openvino", "int8", 64, 1024)
    with pytest.raises(MissingEngineError, match="nncf"):
        compiler.compile_graphs({}, tmp_path, options, lambda stage: None)


def test_unknown_precision() -> None:
    with pytest.raises(OptionError, match="bf16, fp16, fp32, int4, int8"):
        find_compiler("openvino", "int2")
