"""OpenVINO: the portable graphs as IR, the larger `art` operators as OpenVINO's own.

The decoder becomes a model with state, so that the plugin keeps keys, values and recurrent states
where they are from step to step, and takes attention and its cache as one operation. All IRs read
one file of weights, in which a tensor with the same bytes lies once.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import openvino as ov
from openvino import opset13 as ops
from openvino._offline_transformations import (
    apply_make_stateful_transformation,
    compress_model_transformation,
)

from art_export.compilers import CompileOptions, Report
from art_export.compilers.openvino_ops import Conversions
from art_export.compilers.openvino_weights import share_weights
from art_export.export.weights import WeightFile
from engines.errors import MissingEngineError
from engines.openvino_engine import BEAMS, FOLDER, GRAPHS, PRECISION, SETTINGS, STATE, WEIGHTS

FORMS = {None: "portable"}
LENGTH = None
STAGES = ("convert", "compress", "write")
PRECISIONS = {"fp32": "fp32", "fp16": "fp32", "bf16": "fp32", "int8": "fp32", "int4": "fp32"}
"""Always exported in fp32: weights become smaller here, and the engine chooses the arithmetic."""
QUANTIZED = ("int8", "int4")
GROUP = 64
"""Weights that share a scale in int4."""


def compile_graphs(
    graphs: Mapping[str, ir.Model], folder: Path, options: CompileOptions, report: Report
) -> Mapping[str, str]:
    """Write one IR a graph and their weights below `folder`.

    Raises:
        MissingEngineError: the precision needs nncf, which is not installed.
    """
    _check_packages(options.precision)
    report("convert")
    target = folder / FOLDER
    target.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=target) as scratch:
        models = _convert(graphs, Path(scratch))
        report("compress")
        for name, model in models.items():
            # What few bits do to a picture is in every answer, and the tower is small.
            small = options.precision == "int4" and name != "decoder"
            models[name] = _compress(model, "int8" if small else options.precision)
            models[name].set_rt_info(options.precision, [SETTINGS, PRECISION])
        report("write")
        for name, model in models.items():
            ov.save_model(model, Path(scratch, GRAPHS[name]), compress_to_fp16=False)
        del models, model
        share_weights(Path(scratch), target, WEIGHTS)
    return {"openvino": ov.get_version()}


def _check_packages(precision: str) -> None:
    if precision in QUANTIZED and not find_spec("nncf"):
        raise MissingEngineError(
            got=f"--precision {precision} for openvino without the package 'nncf'",
            expected="nncf, which quantises weights for OpenVINO",
            fix="pip install 'art-export[openvino]'",
        )


def _convert(graphs: Mapping[str, ir.Model], scratch: Path) -> dict[str, ov.Model]:
    """OpenVINO's models, which still read their weights from files in `scratch`."""
    paths = {name: scratch / f"{name}.onnx" for name in graphs}
    WeightFile(scratch / "onnx_data").move_out({paths[name]: graphs[name] for name in graphs})
    core = ov.Core()
    for extension in Conversions().extensions():
        core.add_extension(extension)
    models = {name: core.read_model(path) for name, path in paths.items()}
    _keep_state(models["decoder"])
    return models


def _keep_state(decoder: ov.Model) -> None:
    """Turn every past input and present output into a variable of the model."""
    pasts = [name for name in map(_name, decoder.inputs) if name.startswith("past")]
    names = {
        past: past.replace("past_key_values", "present").replace("past_", "present_")
        for past in pasts
    }
    shapes = [
        [past, present, *(n.to_string() for n in list(decoder.input(past).partial_shape)[1:])]
        for past, present in names.items()
    ]
    decoder.set_rt_info(";".join(",".join(each) for each in shapes), [SETTINGS, STATE])
    _reorder([decoder.input(past) for past in pasts if "key_values" in past], decoder)
    apply_make_stateful_transformation(decoder, names)
    _start_empty(decoder)


def _start_empty(decoder: ov.Model) -> None:
    """Give every cache its value before any token. The plugin needs it to know a cache; on other
    variables it can fail, and they are set before every use."""
    shape = ops.shape_of(decoder.input("inputs_embeds"), "i64")
    rows = ops.gather(shape, ops.constant(np.array([0])), ops.constant(np.int64(0)))
    for node in decoder.get_ops():
        sizes = list(node.get_output_partial_shape(0))[1:] if node.get_output_size() else []
        if node.get_type_name() == "ReadValue" and any(size.is_dynamic for size in sizes):
            rest = [0 if size.is_dynamic else size.get_length() for size in sizes]
            whole = ops.concat([rows, ops.constant(np.array(rest, np.int64))], axis=0)
            node.set_arguments([ops.broadcast(ops.constant(np.float32(0)), whole)])
    decoder.validate_nodes_and_infer_types()


def _reorder(caches: list[Any], decoder: ov.Model) -> None:
    """Let an input choose the rows of the caches: the plugin takes attention and its cache as one
    operation only where beams could be reordered."""
    if not caches:
        return
    beams = ops.parameter([-1], np.int32, name=BEAMS)
    beams.output(0).get_tensor().set_names({BEAMS})
    decoder.add_parameters([beams])
    for cache in caches:
        readers = cache.get_target_inputs()
        rows = ops.gather(cache, beams, ops.constant(np.int64(0)))
        for reader in readers:
            reader.replace_source_output(rows.output(0))


def _name(port: Any) -> str:
    """The port's name in the graph; others may stand for the same tensor."""
    return str(port.get_node().get_friendly_name())


def _compress(model: ov.Model, precision: str) -> ov.Model:
    if precision in ("fp16", "bf16"):
        _halve(model)
    return _quantize(model, precision) if precision in QUANTIZED else model


def _halve(model: ov.Model) -> None:
    """Store matrices in fp16, and nothing else: a rotary frequency with half of its bits would be
    half a radian off after a thousand positions."""
    exact = {
        node.get_friendly_name(): ops.constant(node.data.copy())
        for node in model.get_ops()
        if node.get_type_name() == "Constant"
        and node.get_element_type() == ov.Type.f32
        and sum(n > 1 for n in node.get_output_shape(0)) < 2
    }
    compress_model_transformation(model)
    for node in model.get_ops():
        if node.get_type_name() == "Convert" and node.get_friendly_name() in exact:
            node.output(0).replace(exact[node.get_friendly_name()].output(0))


def _quantize(model: ov.Model, precision: str) -> ov.Model:
    """Matrices in 8 bits with a scale a row, or in 4 bits with a scale a group; the head, which is
    the embedding where they are tied, stays in 8."""
    import nncf

    nncf.set_log_level("ERROR")
    settings: dict[str, Any] = {"mode": nncf.CompressWeightsMode.INT8_ASYM}
    if precision == "int4":
        fallback = nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST
        )
        settings = {
            "mode": nncf.CompressWeightsMode.INT4_ASYM,
            "group_size": GROUP,
            "advanced_parameters": fallback,
        }
    with contextlib.redirect_stdout(io.StringIO()):
        return nncf.compress_weights(model, **settings)
