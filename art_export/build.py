"""Compiling the untouched model once, into a bundle."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from art_export import __version__
from art_export.compilers import CompileOptions, find_compiler
from art_export.export.graphs import count_nodes, export_parts
from art_export.export.lora_inputs import linear_names, reserve
from art_export.genai import write_genai
from art_export.tolerances import tolerances_of
from engines.chat import Chat
from engines.environment import installed
from engines.errors import CheckFailed, OptionError
from engines.families import check_family, load_parts, picture_layout
from engines.files import sha256_file, staged_folder, write_bytes
from engines.manifest import MANIFEST_NAME, FileRecord, Manifest
from engines.model import ModelSource, load_config, load_model, resolve_model, weights_sha256
from engines.names import choose
from engines.reference import Reference
from engines.registry import COMPILED, engine_class, open_engine
from engines.runtime import Runtime

WEIGHT_FILES = (".onnx_data", ".bin", ".plan")
TOOLCHAIN = (
    "torch", "transformers", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxscript", "onnx-ir",
    "numpy",
)  # fmt: skip
"""Packages that the manifest names, where they are there: either onnxruntime will do."""
PROBE = "How many apples are there in all? Count them."
BEFORE, AFTER = ("hash", "load", "export"), ("parity", "record")
"""Stages around those of the compiler."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class BuildOptions:
    """model: `demo`, a folder or a hub id. out: the bundle to make. size: pixels a side, by default
    what suits the model. max_length, max_batch, compute_capability, refittable, provider: see
    `art_export.compilers.CompileOptions`. reserve_lora: give the decoder optional inputs for LoRA
    (onnxruntime)."""

    model: str
    out: Path
    engine: str = "onnxruntime"
    precision: str = "fp32"
    size: int | None = None
    max_length: int | None = None
    max_batch: int = 8
    compute_capability: tuple[str, ...] = ()
    refittable: bool = False
    reserve_lora: bool = False
    provider: str | None = None


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
    parity: float | None
    tolerance: float | None


@dataclass
class _Clock:
    """Times the stages and reports them as they start."""

    progress: Progress | None
    stages: tuple[str, ...]
    started: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=dict)

    def begin(self, stage: str) -> None:
        self.end()
        if self.progress:
            self.progress(stage, self.stages.index(stage), len(self.stages))
        self.seconds[stage] = -time.perf_counter()

    def end(self) -> None:
        for stage, seconds in self.seconds.items():
            if seconds < 0:
                self.seconds[stage] = seconds + time.perf_counter()

    def finish(self) -> dict[str, float]:
        self.end()
        if self.progress:
            self.progress("done", len(self.stages), len(self.stages))
        return {**self.seconds, "total": time.perf_counter() - self.started}


def build(options: BuildOptions, progress: Progress | None = None) -> BuildResult:
    """Export, compile, check and publish a bundle; it appears whole or not at all.

    Raises:
        OptionError, MissingEngineError: engine or precision is not known or not installed.
        ModelError: the model is not supported, or resizes pictures of this size.
        OutputExistsError, DiskFullError: the bundle cannot be written.
        CheckFailed: the graphs do not reproduce PyTorch, or the weights changed on disk.
    """
    choose("engine", options.engine, COMPILED)
    engine_class(options.engine)
    compiler = find_compiler(options.engine, options.precision, options.provider)
    _check_reserves(options, compiler.FORMS[options.provider])
    source = resolve_model(options.model)
    layout = picture_layout(load_config(source.path), options.size)
    weights = sum(path.stat().st_size for path in source.path.glob("*.safetensors"))
    clock = _Clock(progress, (*BEFORE, *compiler.STAGES, *AFTER))
    # fp32 weights are up to twice the bytes on disk; graphs and configs are small beside them.
    with staged_folder(options.out, needed=2 * weights) as folder:
        clock.begin("hash")
        before = weights_sha256(source.path)
        for path in _config_files(source.path):
            shutil.copyfile(path, folder / path.name)
        chat = Chat.load(folder, layout.size)
        clock.begin("load")
        model, expected = _load(source, layout.size, compiler.PRECISIONS[options.precision])
        clock.begin("export")
        graphs = _graphs(model, layout.size, compiler.FORMS[options.provider], options.reserve_lora)
        nodes = {name: count_nodes(graph) for name, graph in graphs.items()}
        asked = _compile_options(options, layout.size, chat.max_length, compiler.LENGTH)
        target = compiler.compile_graphs(graphs, folder, asked, clock.begin)
        # The engine brings the weights in once more, so these must go.
        del model, graphs
        if compiler.FORMS[options.provider] == "kernels":
            write_genai(folder, chat, asked.max_length)
        clock.begin("parity")
        parity = _parity(options, folder, chat, expected)
        clock.begin("record")
        if weights_sha256(source.path) != before:
            raise CheckFailed(f"the weights in {source.path} changed while they were exported")
        manifest = _manifest(options, source, before, folder, chat, asked.max_length, target)
        write_bytes(folder / MANIFEST_NAME, manifest.to_json().encode())
    return BuildResult(
        path=options.out,
        base_model=source.name,
        weights_sha256=before,
        seconds=clock.finish(),
        nodes=nodes,
        bytes=sum(record.bytes for record in manifest.files),
        weight_bytes=sum(
            record.bytes for record in manifest.files if record.path.endswith(WEIGHT_FILES)
        ),
        parity=parity,
        tolerance=tolerances_of(options.precision).logits,
    )


def _check_reserves(options: BuildOptions, form: str) -> None:
    if options.reserve_lora and form != "kernels":
        provider = f" with provider '{options.provider}'" if options.provider else ""
        raise OptionError(
            got=f"--reserve-lora for {options.engine}{provider}",
            expected="onnxruntime on a CPU, whose graphs can have inputs that need not be fed",
            fix="leave out --reserve-lora, or build with --engine onnxruntime and no --provider",
        )


def _graphs(model: Any, size: int, form: str, reserve_lora: bool) -> dict[str, ir.Model]:
    parts = load_parts(model, size)
    graphs = dict(export_parts(parts, form))
    if reserve_lora:
        reserve(graphs["decoder"], linear_names(model, parts.decoder))
    return graphs


def _load(source: ModelSource, size: int, dtype: str) -> tuple[Any, NDArray[np.float32]]:
    """The model in `dtype`, and the logits that Hugging Face's forward gives in fp32."""
    reference = Reference(source)
    reference.check_size(size)
    expected = reference.prefill_logits(PROBE, _noise(size))
    if dtype == "fp32":
        return reference.model, expected
    del reference
    return load_model(source, dtype), expected


def _compile_options(
    options: BuildOptions, size: int, longest: int, usual: int | None
) -> CompileOptions:
    """`longest`: tokens that the model was made for. `usual`: the engine's default, if any."""
    return CompileOptions(
        engine=options.engine,
        precision=options.precision,
        size=size,
        max_length=min(longest, options.max_length or usual or longest),
        max_batch=options.max_batch,
        compute_capability=options.compute_capability,
        refittable=options.refittable,
        provider=options.provider,
    )


def _noise(size: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)


def _config_files(folder: Path) -> list[Path]:
    """Configuration and tokenizer of a model: everything small that is no weight or index."""
    return sorted(
        path
        for pattern in ("*.json", "*.jinja", "*.txt")
        for path in folder.glob(pattern)
        if not path.name.endswith(".index.json") and path.name != MANIFEST_NAME
    )


def _parity(
    options: BuildOptions, folder: Path, chat: Chat, expected: NDArray[np.float32]
) -> float | None:
    """Largest |logit difference| over a chat with a noise picture; None where the engine that was
    built for cannot run here."""
    if engine_class(options.engine).unavailable():
        return None
    with open_engine(options.engine, folder) as engine:
        runtime = Runtime(engine, chat)
        prefix = runtime.prefix(_noise(chat.layout.size))
        tail = runtime.tail(PROBE, prefix)
        found = runtime.tail_logits(tail, prefix)
    difference = float(np.abs(found - expected[-len(tail) :]).max())
    tolerance = tolerances_of(options.precision).logits
    if tolerance is not None and not difference <= tolerance:
        raise CheckFailed(
            f"the exported graphs do not reproduce PyTorch: a logit differs by {difference:.3g}, "
            f"and {tolerance:g} is allowed; no bundle was written"
        )
    return difference


def _manifest(
    options: BuildOptions,
    source: ModelSource,
    weights: str,
    folder: Path,
    chat: Chat,
    max_length: int,
    target: Mapping[str, str],
) -> Manifest:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return Manifest(
        base_model=source.name,
        revision=source.revision,
        weights_sha256=weights,
        model_type=check_family(source.config["model_type"]),
        engine=options.engine,
        precision=options.precision,
        picture_size=chat.layout.size,
        max_length=max_length,
        target=target,
        files=tuple(
            FileRecord(path.relative_to(folder).as_posix(), path.stat().st_size, sha256_file(path))
            for path in paths
        ),
        toolchain={"art-export": __version__, **installed(TOOLCHAIN)},
    )
