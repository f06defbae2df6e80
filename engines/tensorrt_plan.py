"""What compiled TensorRT plans take, give and were built for: `plans.json` beside them.

A plan is a program for certain GPUs and one version of the library. This is known, and checked,
before the library is asked to read a plan.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engines.errors import BundleError
from engines.manifest import edited, parse_object
from engines.state import StateTensor

RECORD_NAME = "plans.json"
PREFILL, DECODE = 0, 1
"""Optimisation profiles of the graphs that see text: many tokens, and one token a row."""
FIXED_INPUTS = 4
"""Inputs of the decoder before its state: embeddings, mask, positions, logits to keep."""
PORTABLE_FROM = "sm80"
"""Oldest GPU of a TensorRT-RTX plan that was built for no GPU in particular."""

Range = tuple[int, int, int]
Sizes = Mapping[str, int]


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: dtype by torch's name, shape with a symbol for every dynamic axis."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def sized(self, sizes: Sizes) -> tuple[int, ...]:
        """The shape with every symbol replaced."""
        return tuple(n if isinstance(n, int) else sizes[n] for n in self.shape)


@dataclass(frozen=True)
class GraphRecord:
    """One plan.

    layers: of the network that it was built from. profiles: for each, symbol -> (smallest, most
    likely, largest). control_flow: it has branches or loops.
    """

    file: str
    layers: int
    control_flow: bool
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profiles: tuple[Mapping[str, Range], ...]


@dataclass(frozen=True, kw_only=True)
class PlanRecord:
    """All plans of one bundle.

    version: of the library. targets: compute capabilities ("sm89"), none for a portable plan.
    device: name of the GPU that it was built on, None if there was none. max_length: most tokens of
    a sequence; max_batch: most rows; chunk: most tokens of a row in one pass.
    """

    engine: str
    version: str
    targets: tuple[str, ...]
    device: str | None
    precision: str
    refittable: bool
    max_length: int
    max_batch: int
    chunk: int
    graphs: Mapping[str, GraphRecord]

    @property
    def state(self) -> tuple[StateTensor, ...]:
        """The decoder's state, read off its inputs and outputs."""
        decoder = self.graphs["decoder"]
        return tuple(
            StateTensor(
                past.name,
                present.name,
                tuple(n if isinstance(n, int) else None for n in past.shape[1:]),
            )
            for past, present in zip(
                decoder.inputs[FIXED_INPUTS:], decoder.outputs[1:], strict=True
            )
        )

    def write(self, folder: Path) -> None:
        """Write the record into the folder of the plans."""
        (folder / RECORD_NAME).write_text(json.dumps(asdict(self), indent=2) + "\n")


def plans_folder(bundle: Path, engine: str) -> Path:
    """Where the plans of `engine` lie in a bundle."""
    return bundle / "engines" / engine


def read_record(folder: Path) -> PlanRecord:
    """The record of the plans in `folder`.

    Raises:
        BundleError: there is none, or it is not as it was written.
    """
    path = folder / RECORD_NAME
    if not path.is_file():
        raise BundleError(
            got=f"{folder} without {RECORD_NAME}",
            expected="the plans of a bundle that was built for this engine",
            fix="build the bundle again with --engine tensorrt or tensorrt-rtx",
        )
    fields = dict(parse_object(path.read_bytes(), str(path)))
    try:
        fields["graphs"] = {name: _graph(each) for name, each in fields["graphs"].items()}
        return PlanRecord(**{**fields, "targets": tuple(fields["targets"])})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise edited(str(path), f"not the record of plans: {error}") from error


def check_target(record: PlanRecord, version: str, capability: str, device: str) -> str | None:
    """Refuse plans that this library or this GPU cannot run.

    Args:
        version: of the library here. capability: such as "sm89". device: the GPU's name.

    Returns:
        What to know before they are run, None if nothing.

    Raises:
        BundleError: the version or the compute capability is another one.
    """
    again = f"build the bundle again with --engine {record.engine}"
    if record.version != version:
        raise BundleError(
            got=f"plans of {record.engine} {record.version}, and {version} is installed",
            expected="the version that built them: plans of one are not readable by another",
            fix=f"{again}, or install version {record.version}",
        )
    if not _runs_on(record.targets, capability):
        built = ", ".join(record.targets) or f"{PORTABLE_FROM} and later"
        suffix = "" if record.engine == "tensorrt" else f" --compute-capability {capability}"
        raise BundleError(
            got=f"plans for {built}{f' ({record.device})' if record.device else ''}, "
            f"and this GPU is {capability} ({device})",
            expected="a GPU of a compute capability that the plans were built for",
            fix=again + suffix,
        )
    # TensorRT reads plans of another GPU of the same capability, and warns. TensorRT-RTX makes the
    # kernels on the GPU that it finds.
    if record.engine == "tensorrt" and record.device not in (None, device):
        return (
            f"plans that were built on {record.device} run on {device}: TensorRT allows it and "
            f"advises against it, since they may be slow or fail; {again} on this GPU"
        )
    return None


def _runs_on(targets: tuple[str, ...], capability: str) -> bool:
    if targets:
        return capability in targets
    return int(capability.removeprefix("sm")) >= int(PORTABLE_FROM.removeprefix("sm"))


def _graph(fields: Mapping[str, Any]) -> GraphRecord:
    return GraphRecord(
        **{
            **fields,
            "inputs": tuple(_tensor(each) for each in fields["inputs"]),
            "outputs": tuple(_tensor(each) for each in fields["outputs"]),
            "profiles": tuple(
                {
                    symbol: (int(low), int(likely), int(high))
                    for symbol, (low, likely, high) in p.items()
                }
                for p in fields["profiles"]
            ),
        }
    )


def _tensor(fields: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(**{**fields, "shape": tuple(fields["shape"])})
