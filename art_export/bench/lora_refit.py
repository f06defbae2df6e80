"""LoRA merged and refitted: TensorRT takes new weights into a plan without building it again."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from engines.errors import CheckFailed, MissingEngineError

ENGINE = "tensorrt"


def unavailable() -> str | None:
    """Why it cannot be measured on this machine; None if it can."""
    from engines.registry import engine_class

    try:
        return engine_class(ENGINE).unavailable()
    except MissingEngineError as error:
        return f"{error.got}, which refits plans on an NVIDIA GPU; there: {error.fix}"


def build_and_refit(model: str, adapter: Path, out: Path, precision: str) -> dict[str, Any]:
    """Build a refittable bundle of the base model below `out`, then refit its decoder with the
    merged weights and answer one token: seconds by step, of the refit alone.

    Raises:
        CheckFailed: the library refuses the weights.
    """
    import torch

    from art_export.build import BuildOptions, build
    from engines.bundle import BundleFolder
    from engines.lora import merge
    from engines.model import load_model, resolve_model
    from engines.registry import open_runtime

    bundle = out / "refittable"
    if not bundle.exists():
        build(BuildOptions(model, bundle, engine=ENGINE, precision=precision, refittable=True))
    steps: dict[str, float] = {}
    began = time.perf_counter()
    merged = merge(load_model(resolve_model(model)), adapter)
    began = _lap(steps, "merge", began)
    size = BundleFolder.open(bundle).manifest.picture_size
    with TemporaryDirectory(dir=out) as place:
        graph = _export_decoder(merged, size, Path(place))
        del merged
        began = _lap(steps, "export", began)
        _refit(bundle, graph)
        began = _lap(steps, "refit", began)
    runtime = open_runtime(BundleFolder.open(bundle))
    began = _lap(steps, "load", began)
    prefix = runtime.prefix(None)
    runtime.prefill_rows([runtime.tail("Hello.", prefix)], [prefix])
    torch.cuda.synchronize()
    _lap(steps, "first token", began)
    return {"steps": steps}


def _export_decoder(merged: Any, size: int, folder: Path) -> Path:
    """The decoder's graph with the names that the plan was built from."""
    import onnx_ir as ir

    from art_export.compilers.tensorrt import CHUNK, FORMS
    from art_export.compilers.tensorrt_delta_rule import inline
    from art_export.export.graphs import export_parts
    from engines.families import load_parts

    graph = inline(dict(export_parts(load_parts(merged, size), FORMS[None]))["decoder"], CHUNK)
    path = folder / "decoder.onnx"
    ir.save(graph, path, external_data="decoder.weights")
    return path


def _refit(bundle: Path, graph: Path) -> None:
    """Put the graph's weights into the decoder's plan, in place."""
    from engines.tensorrt_library import load_library, make_logger
    from engines.tensorrt_plan import plans_folder, read_record

    library = load_library(ENGINE)
    logger = make_logger(library)
    plans = plans_folder(bundle, ENGINE)
    path = plans / read_record(plans).graphs["decoder"].file
    runtime = library.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    refitter = library.Refitter(engine, logger)
    parser = library.OnnxParserRefitter(refitter, logger)
    if not parser.refit_from_file(str(graph)) or not refitter.refit_cuda_engine():
        told = "; ".join(logger.errors) or "no reason was given"
        raise CheckFailed(f"TensorRT does not take the merged weights: {told}")
    config = engine.create_serialization_config()
    # A refittable plan is otherwise stored without the weights that can be refitted.
    config.clear_flag(library.SerializationFlag.EXCLUDE_WEIGHTS)
    with path.open("wb") as out:
        out.write(engine.serialize_with_config(config))


def _lap(steps: dict[str, float], name: str, began: float) -> float:
    now = time.perf_counter()
    steps[name] = now - began
    return now
