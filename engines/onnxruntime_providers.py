"""ONNX Runtime's execution providers: which take nodes, in which order, with what options.

The names of options are those of onnxruntime's documentation of the two providers. CUDA's has been
run on an NVIDIA H200, TensorRT's on no GPU.
"""

from __future__ import annotations

from pathlib import Path

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
DEVICES = {"cpu": "cpu", "cuda": "cuda"}
"""Device -> the provider that stands for it."""
ORDER = {"cpu": ("cpu",), "cuda": ("cuda", "cpu"), "tensorrt": ("tensorrt", "cuda", "cpu")}
"""Provider -> who is asked for a node, one after the other: TensorRT has no operators of ONNX
Runtime's own, such as those with quantised weights, and CUDA has."""


def split_device(device: str) -> tuple[str, int]:
    """ "cuda:1" -> ("cuda", 1); the number is 0 where none is named."""
    kind, _, number = device.partition(":")
    return (kind, int(number)) if kind == "cuda" and number.isdecimal() else (device, 0)


def provider_list(
    provider: str, device: int, cache: Path, graphs: str | None, half: bool
) -> list[tuple[str, dict[str, str]]]:
    """What `onnxruntime.InferenceSession` takes as `providers`.

    Args:
        provider: its short name. device: number of the GPU. cache: folder for what TensorRT
            builds. graphs: sha256 of the bundle's graphs and weights, None if it is not known.
        half: the graphs compute in fp16.
    """
    options = {
        "cpu": dict[str, str](),
        # TF32 rounds the factors of fp32 products to 10 bits.
        "cuda": {"device_id": str(device), "use_tf32": "0"},
        "tensorrt": _tensorrt(device, cache, graphs, half),
    }
    return [(PROVIDERS[name], options[name]) for name in ORDER[provider]]


def _tensorrt(device: int, cache: Path, graphs: str | None, half: bool) -> dict[str, str]:
    options = {
        "device_id": str(device),
        # Else it would round a graph of fp32 to fp16.
        "trt_fp16_enable": "True" if half else "False",
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(cache),
    }
    if graphs is None:
        return options
    # onnxruntime knows a built engine by names in the graph and not by its weights, so engines of
    # other weights must lie in another folder.
    return {
        **options,
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(cache / graphs),
    }
