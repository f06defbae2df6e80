"""Building: the model untouched, weights stored once, compact nodes, all or nothing."""

from __future__ import annotations

import importlib.metadata
import json
from collections import Counter
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import onnx
import pytest

import art_export.build
from art_export.build import BuildOptions, build
from art_export.bundle import Bundle
from art_export.compilers.onnxruntime import WEIGHTS
from art_export.tolerances import BY_PRECISION, EXACT
from engines.bundle import BundleFolder
from engines.errors import CheckFailed, ModelError, OptionError, OutputExistsError
from engines.model import ModelSource, weights_sha256
from engines.onnxruntime_engine import GRAPHS
from engines.reference import Reference
from engines.registry import ENGINES

SIZE = 64


def _nodes(folder: Path, part: str) -> Counter[str]:
    model = onnx.load(folder / GRAPHS[part], load_external_data=False)
    return Counter(node.op_type for node in model.graph.node)


def test_the_manifest_says_what_was_built(tiny_model_dir: Path, tiny_bundle_dir: Path) -> None:
    folder = BundleFolder.open(tiny_bundle_dir)
    manifest = folder.manifest
    assert manifest.weights_sha256 == weights_sha256(tiny_model_dir)
    assert (manifest.engine, manifest.precision, manifest.picture_size) == (
        "onnxruntime",
        "fp32",
        SIZE,
    )
    assert manifest.model_type == "qwen3_5"
    assert manifest.max_length == 1024
    assert {"torch", "onnxruntime", "art-export"} <= set(manifest.toolchain)
    listed = {record.path for record in manifest.files}
    assert {*GRAPHS.values(), WEIGHTS, "config.json", "tokenizer.json"} <= listed
    folder.check_files()


def test_recurrent_layers_are_single_nodes(tiny_bundle_dir: Path) -> None:
    nodes = _nodes(tiny_bundle_dir, "decoder")
    assert nodes["LinearAttention"] == 1
    assert nodes["CausalConvWithState"] == 1
    assert nodes["Loop"] == nodes["Scan"] == nodes["If"] == 0
    assert sum(nodes.values()) < 250


def test_weights_are_stored_once(tiny_model_dir: Path, tiny_bundle_dir: Path) -> None:
    """The table of tied embeddings is one span of one file, read by two graphs."""
    spans = []
    for part in ("embed", "decoder"):
        model = onnx.load(tiny_bundle_dir / GRAPHS[part], load_external_data=False)
        vocabulary = json.loads((tiny_model_dir / "config.json").read_text())["text_config"][
            "vocab_size"
        ]
        spans.append(
            {
                tuple((e.key, e.value) for e in tensor.external_data)
                for tensor in model.graph.initializer
                if list(tensor.dims) == [vocabulary, 64]
            }
        )
    assert spans[0] == spans[1]
    assert len(spans[0]) == 1
    from engines.model import ModelSource, load_model

    model = load_model(ModelSource("tiny", tiny_model_dir))
    tensors = [p.numel() * 4 for p in model.parameters()]
    size = (tiny_bundle_dir / WEIGHTS).stat().st_size
    # Every tensor may be padded up to a page.
    assert size <= sum(tensors) + 4096 * len(tensors)


def test_axes_are_named(tiny_bundle_dir: Path) -> None:
    model = onnx.load(tiny_bundle_dir / GRAPHS["decoder"], load_external_data=False)
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes["inputs_embeds"] == ["batch_size", "sequence_length", 64]
    assert shapes["attention_mask"] == ["batch_size", "total_sequence_length"]
    assert shapes["past_conv.0"] == ["batch_size", 192, 3]
    assert shapes["past_recurrent.0"] == ["batch_size", 2, 32, 32]
    assert shapes["past_key_values.1.key"] == ["batch_size", 2, "past_sequence_length", 32]
    assert shapes["present.1.value"] == ["batch_size", 2, "total_sequence_length", 32]
    assert shapes["present_recurrent.0"] == shapes["past_recurrent.0"]


def test_build_reports_itself(tiny_model_dir: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    result = build(
        BuildOptions(str(tiny_model_dir), tmp_path / "b", size=32),
        lambda stage, *_: seen.append(stage),
    )
    assert seen == ["hash", "load", "export", "write", "check", "parity", "record", "done"]
    assert set(result.seconds) == {*seen[:-1], "total"}
    assert result.parity is not None and result.tolerance is not None
    assert 0 <= result.parity <= result.tolerance
    with pytest.raises(OutputExistsError):
        build(BuildOptions(str(tiny_model_dir), tmp_path / "b", size=32))


def test_onnxruntime_may_have_been_replaced_by_the_one_for_gpus(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package onnxruntime-gpu gives the same module, under another name of a package."""

    def version(name: str) -> str:
        if name == "onnxruntime":
            raise PackageNotFoundError(name)
        return "1.31.1" if name == "onnxruntime-gpu" else importlib.metadata.version(name)

    monkeypatch.setattr("engines.environment.version", version)
    build(BuildOptions(str(tiny_model_dir), tmp_path / "b", size=32))
    toolchain = BundleFolder.open(tmp_path / "b").manifest.toolchain
    assert toolchain["onnxruntime-gpu"] == "1.31.1"
    assert "torch" in toolchain and "onnxruntime" not in toolchain


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"engine": "onnxruntme"}, OptionError, "did you mean 'onnxruntime'"),
        ({"precision": "fp8"}, OptionError, "fp32"),
        ({"size": 100}, ModelError, "multiple of 32|leaves alone"),
        ({"model": "nowhere"}, ModelError, "hub id"),
    ],
)
def test_bad_options_leave_nothing(
    tiny_model_dir: Path,
    tmp_path: Path,
    change: dict[str, object],
    error: type[Exception],
    words: str,
) -> None:
    options = {"model": str(tiny_model_dir), "out": tmp_path / "b", **change}
    with pytest.raises(error, match=words):
        build(BuildOptions(**options))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_graphs_that_are_not_pytorchs_are_not_published(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BY_PRECISION, "fp32", replace(EXACT, logits=0.0))
    with pytest.raises(CheckFailed, match="do not reproduce PyTorch"):
        build(BuildOptions(str(tiny_model_dir), tmp_path / "b", size=SIZE))
    assert list(tmp_path.iterdir()) == []


def test_weights_that_change_meanwhile(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["0" * 64, "1" * 64])
    monkeypatch.setattr(art_export.build, "weights_sha256", lambda _: next(answers))
    with pytest.raises(CheckFailed, match="changed while"):
        build(BuildOptions(str(tiny_model_dir), tmp_path / "b", size=SIZE))
    assert list(tmp_path.iterdir()) == []


def test_for_gpus_the_graphs_are_of_standard_operators(
    tiny_model_dir: Path, tiny_bundle_dir: Path, tmp_path: Path
) -> None:
    """Kernels of ONNX Runtime's own run on a CPU alone; the answers are the same."""
    bundle = tmp_path / "bundle"
    result = build(BuildOptions(str(tiny_model_dir), bundle, size=SIZE, provider="cuda"))
    assert result.parity is not None
    assert BundleFolder.open(bundle).manifest.target == {"provider": "cuda"}
    assert not (bundle / "genai_config.json").exists()
    for graph in GRAPHS.values():
        model = onnx.load(bundle / graph, load_external_data=False)
        own = {function.name for function in model.functions}
        assert {node.op_type for node in model.graph.node if node.domain} <= own
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    found = []
    for folder in (bundle, tiny_bundle_dir):
        with Bundle.load(folder) as loaded:
            runtime = loaded.runtime
            prefixes = [runtime.prefix(noise), runtime.prefix(None), runtime.prefix(noise)]
            prompts = ["Wake me up at 07:30.", "How many apples?", "Wake me up at 09:45."]
            found.append(runtime.generate(prompts, prefixes, max_new_tokens=12))
    assert found[0] == found[1]


@pytest.mark.parametrize(("precision", "largest"), [("int8", 0.05), ("int4", 0.6)])
def test_for_gpus_the_weights_are_quantised(
    tiny_model_dir: Path, tmp_path: Path, precision: str, largest: float
) -> None:
    """As far from PyTorch as the CPU's kernels are, and run here on a CPU."""
    bundle = tmp_path / "bundle"
    build(
        BuildOptions(str(tiny_model_dir), bundle, size=SIZE, provider="cuda", precision=precision)
    )
    nodes = _nodes(bundle, "decoder")
    assert nodes["MatMulNBits"] and not nodes["MatMul"] and not nodes["Gemm"]
    assert _nodes(bundle, "embed")["GatherBlockQuantized"] == 1
    prompt = "Wake me up at 07:30."
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    with Bundle.load(bundle) as loaded:
        prefix = loaded.runtime.prefix(noise)
        tail = loaded.runtime.tail(prompt, prefix)
        found = loaded.runtime.tail_logits(tail, prefix)
    reference = Reference(ModelSource("tiny", tiny_model_dir))
    expected = reference.prefill_logits(prompt, noise)[-len(tail) :]
    assert np.abs(found - expected).mean() < largest * np.abs(expected).mean()


@pytest.mark.parametrize("engine", ["openvino", "tensorrt-rtx"])
def test_a_provider_is_onnx_runtimes(tiny_model_dir: Path, tmp_path: Path, engine: str) -> None:
    pytest.importorskip(ENGINES[engine].package)
    options = BuildOptions(str(tiny_model_dir), tmp_path / "b", engine=engine, provider="cuda")
    with pytest.raises(OptionError, match="onnxruntime alone"):
        build(options)
