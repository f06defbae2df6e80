"""ONNX Runtime: the graphs as they are, with one file of weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import onnx_ir as ir

from art_export.compilers import CompileOptions, Report
from art_export.export.weights import WeightFile
from engines.onnxruntime_engine import GRAPHS

FORM = "kernels"
PRECISIONS = {"fp32": "fp32"}
STAGES = ("write", "check")
WEIGHTS = "onnx/model.onnx_data"


def compile_graphs(
    graphs: Mapping[str, ir.Model], folder: Path, options: CompileOptions, report: Report
) -> Mapping[str, str]:
    """Write the graphs, each tensor once, and let onnx.checker read them."""
    report("write")
    (folder / "onnx").mkdir()
    WeightFile(folder / WEIGHTS).move_out(
        {folder / GRAPHS[name]: model for name, model in graphs.items()}
    )
    report("check")
    for path in GRAPHS.values():
        onnx.checker.check_model(str(folder / path), full_check=True)
    return {}
