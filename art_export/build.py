"""Compiling the untouched model once, into a bundle."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from art_export import __version__
from art_export.export.graphs import export_parts
from art_export.export.weights import WeightFile
from engines.chat import Chat
from engines.errors import CheckFailed
from engines.families import check_family, load_parts
from engines.files import sha256_file, staged_folder, write_bytes
from engines.manifest import MANIFEST_NAME, FileRecord, Manifest
from engines.model import ModelSource, resolve_model, weights_sha256
from engines.names import choose
from engines.onnxruntime_engine import GRAPHS, OnnxRuntimeEngine
from engines.reference import Reference
from engines.registry import COMPILED, engine_class
from engines.runtime import Runtime

PRECISIONS = ("fp32",)
TOLERANCE = 1e-3
"""Largest difference of a logit from PyTorch's that a build may have, in fp32."""
WEIGHTS = "onnx/model.onnx_data"
TOOLCHAIN = ("torch", "transformers", "onnx", "onnxruntime", "onnxscript", "onnx-ir", "numpy")
PROBE = "How many apples are there in all? Count them."
STAGES = ("hash", "load", "export", "write", "check", "parity", "record")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class BuildOptions:
    """model: `demo`, a folder or a hub id. out: the bundle to make. size: pixels a side."""

    model: str
    out: Path
    engine: str = "onnxruntime"
    precision: str = "fp32"
    size: int = 256


@dataclass(frozen=True)
class BuildResult:
    """What was built. `seconds`: stage -> wall-clock seconds, `total` included.

    weights_sha256 was the same before and after. parity: largest |logit difference| from Hugging
    Face's forward on a noise picture and a prompt. nodes: graph -> number of ONNX nodes.
    """

    path: Path
    base_model: str
    weights_sha256: str
    seconds: dict[str, float]
    nodes: dict[str, int]
    bytes: int
    weight_bytes: int
    parity: float
    tolerance: float


@dataclass
class _Clock:
    """Times the stages and reports them as they start."""

    progress: Progress | None
    started: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=dict)

    def begin(self, stage: str) -> None:
        self.end()
        if self.progress:
            self.progress(stage, STAGES.index(stage), len(STAGES))
        self.seconds[stage] = -time.perf_counter()

    def end(self) -> None:
        for stage, seconds in self.seconds.items():
            if seconds < 0:
                self.seconds[stage] = seconds + time.perf_counter()

    def finish(self) -> dict[str, float]:
        self.end()
        if self.progress:
            self.progress("done", len(STAGES), len(STAGES))
        return {**self.seconds, "total": time.perf_counter() - self.started}


def build(options: BuildOptions, progress: Progress | None = None) -> BuildResult:
    """Export, check and publish a bundle; it appears whole or not at all.

    Raises:
        OptionError, MissingEngineError: engine or precision is not known or not installed.
        ModelError: the model is not supported, or resizes pictures of this size.
        OutputExistsError, DiskFullError: the bundle cannot be written.
        CheckFailed: the graphs do not reproduce PyTorch, or the weights changed on disk.
    """
    choose("engine", options.engine, COMPILED)
    engine_class(options.engine)
    choose("precision", options.precision, PRECISIONS)
    source = resolve_model(options.model)
    weights = sum(path.stat().st_size for path in source.path.glob("*.safetensors"))
    clock = _Clock(progress)
    # fp32 weights are up to twice the bytes on disk; graphs and configs are small beside them.
    with staged_folder(options.out, needed=2 * weights) as folder:
        clock.begin("hash")
        before = weights_sha256(source.path)
        clock.begin("load")
        reference = Reference(source)
        reference.check_size(options.size)
        clock.begin("export")
        graphs = dict(export_parts(load_parts(reference.model, options.size)))
        clock.begin("write")
        _write(source, graphs, folder)
        clock.begin("check")
        for path in GRAPHS.values():
            onnx.checker.check_model(str(folder / path), full_check=True)
        clock.begin("parity")
        parity = _parity(reference, folder, options.size)
        clock.begin("record")
        if weights_sha256(source.path) != before:
            raise CheckFailed(f"the weights in {source.path} changed while they were exported")
        manifest = _manifest(options, source, before, folder)
        write_bytes(folder / MANIFEST_NAME, manifest.to_json().encode())
    return BuildResult(
        path=options.out,
        base_model=source.name,
        weights_sha256=before,
        seconds=clock.finish(),
        nodes={name: sum(1 for _ in model.graph) for name, model in graphs.items()},
        bytes=sum(record.bytes for record in manifest.files),
        weight_bytes=next(r.bytes for r in manifest.files if r.path == WEIGHTS),
        parity=parity,
        tolerance=TOLERANCE,
    )


def _write(source: ModelSource, graphs: dict[str, ir.Model], folder: Path) -> None:
    (folder / "onnx").mkdir()
    WeightFile(folder / WEIGHTS).move_out(
        {folder / GRAPHS[name]: model for name, model in graphs.items()}
    )
    for path in _config_files(source.path):
        shutil.copyfile(path, folder / path.name)


def _config_files(folder: Path) -> list[Path]:
    """Configuration and tokenizer of a model: everything small that is no weight or index."""
    return sorted(
        path
        for pattern in ("*.json", "*.jinja", "*.txt")
        for path in folder.glob(pattern)
        if not path.name.endswith(".index.json") and path.name != MANIFEST_NAME
    )


def _parity(reference: Reference, folder: Path, size: int) -> float:
    """Largest |logit difference| over a whole chat with a noise picture."""
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    expected = reference.prefill_logits(PROBE, pixels)
    with OnnxRuntimeEngine(folder) as engine:
        runtime = Runtime(engine, Chat.load(folder, size))
        prefix = runtime.prefix(pixels)
        tail = runtime.tail(PROBE, prefix)
        found = runtime.tail_logits(tail, prefix)
    difference = float(np.abs(found - expected[-len(tail) :]).max())
    if not difference <= TOLERANCE:
        raise CheckFailed(
            f"the exported graphs do not reproduce PyTorch: a logit differs by {difference:.3g}, "
            f"and {TOLERANCE:g} is allowed; no bundle was written"
        )
    return difference


def _manifest(options: BuildOptions, source: ModelSource, weights: str, folder: Path) -> Manifest:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    config = source.config
    return Manifest(
        base_model=source.name,
        revision=source.revision,
        weights_sha256=weights,
        model_type=check_family(config["model_type"]),
        engine=options.engine,
        precision=options.precision,
        picture_size=options.size,
        max_length=config["text_config"]["max_position_embeddings"],
        files=tuple(
            FileRecord(path.relative_to(folder).as_posix(), path.stat().st_size, sha256_file(path))
            for path in paths
        ),
        toolchain={"art-export": __version__, **{name: version(name) for name in TOOLCHAIN}},
    )
