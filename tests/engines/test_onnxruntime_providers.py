"""Options of execution providers, without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.onnxruntime_providers import provider_list, split_device

CACHE, GRAPHS = Path("/cache"), "a" * 64


def test_a_cpu_needs_no_options() -> None:
    assert provider_list("cpu", 0, CACHE, GRAPHS, half=False) == [("CPUExecutionProvider", {})]


def test_cuda_keeps_fp32_exact_on_the_gpu_that_is_named() -> None:
    assert provider_list("cuda", 3, CACHE, GRAPHS, half=False) == [
        ("CUDAExecutionProvider", {"device_id": "3", "use_tf32": "0"}),
        ("CPUExecutionProvider", {}),
    ]


def test_what_tensorrt_cannot_run_is_left_to_cuda_and_then_the_cpu() -> None:
    found = dict(provider_list("tensorrt", 1, CACHE, GRAPHS, half=False))
    assert list(found) == [
        "TensorrtExecutionProvider",
        "CUDAExecutionProvider",
        "CPUExecutionProvider",
    ]
    assert found["TensorrtExecutionProvider"] == {
        "device_id": "1",
        "trt_fp16_enable": "False",
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": "/cache",
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": f"/cache/{GRAPHS}",
    }
    assert found["CUDAExecutionProvider"]["device_id"] == "1"


def test_tensorrt_rounds_to_fp16_only_what_is_fp16() -> None:
    (_, options), *_ = provider_list("tensorrt", 0, CACHE, GRAPHS, half=True)
    assert options["trt_fp16_enable"] == "True"


def test_without_the_weights_hash_no_built_engine_is_kept() -> None:
    """It could be taken for that of a model with the same graph and other weights."""
    (_, options), *_ = provider_list("tensorrt", 0, CACHE, None, half=False)
    assert "trt_engine_cache_enable" not in options
    assert options["trt_timing_cache_path"] == "/cache"


@pytest.mark.parametrize(
    ("device", "found"),
    [
        ("cpu", ("cpu", 0)),
        ("cuda", ("cuda", 0)),
        ("cuda:0", ("cuda", 0)),
        ("cuda:12", ("cuda", 12)),
        ("cuda:", ("cuda:", 0)),
        ("cuda:x", ("cuda:x", 0)),
        ("cpu:1", ("cpu:1", 0)),
    ],
)
def test_devices(device: str, found: tuple[str, int]) -> None:
    assert split_device(device) == found
