"""OpenVINO: the IRs of a bundle as compiled models, the decoder's state inside of the runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from engines.contract import DecoderInput, Engine, EngineOptions, Floats, Ints, Stepper
from engines.errors import MissingEngineError
from engines.state import StateTensor

FOLDER = "engines/openvino"
GRAPHS = {
    "vision": "vision_encoder.xml",
    "embed": "embed_tokens.xml",
    "decoder": "decoder_model.xml",
}
WEIGHTS = "openvino_model.bin"
SETTINGS, PRECISION, STATE = "art_export", "precision", "state"
"""Where an IR keeps the bundle's precision and the list of its state."""
BEAMS = "beam_idx"
ARITHMETIC = {"fp16": ("FP16", "f16"), "bf16": ("BF16", "bf16")}
"""Precision of a bundle -> what a device calls it, and the arithmetic where it has that."""

Arrays = tuple[NDArray[np.float32], ...]


def plugin_library() -> Path:
    """The CPU plugin, which also defines the operations that the public sets lack."""
    folder = Path(ov.__file__).parent / "libs"
    return next(folder.glob("*openvino_intel_cpu_plugin.*"))


class OpenVinoEngine(Engine):
    """IRs under `folder`; a state is a tuple of arrays, and the runtime's own while stepping."""

    name: ClassVar[str] = "openvino"

    def __init__(self, folder: Path, device: str = "CPU", threads: int | None = None) -> None:
        core = ov.Core()
        core.add_extension(str(plugin_library()))
        device = checked_device(core, device)
        weights = folder / FOLDER / WEIGHTS
        models = {
            part: core.read_model(folder / FOLDER / path, weights) for part, path in GRAPHS.items()
        }
        self.state = _state(models["decoder"])
        precision = models["decoder"].get_rt_info([SETTINGS, PRECISION]).astype(str)
        config = _config(core, device, precision, threads)
        self._compiled = {
            part: core.compile_model(model, device, config) for part, model in models.items()
        }
        self._requests = {part: _Request(self._compiled[part]) for part in ("vision", "embed")}
        self._decoder = Decoder(self._compiled["decoder"], self.state)

    @classmethod
    def open(cls, folder: Path, options: EngineOptions = EngineOptions()) -> Self:  # noqa: B008
        return cls(folder, options.device or "CPU", options.threads)

    def vision(self, pixels: NDArray[np.uint8]) -> Floats:
        return self._requests["vision"].run({"pixels": pixels}).copy()

    def embed(self, input_ids: Ints) -> Floats:
        return self._requests["embed"].run({"input_ids": input_ids}).copy()

    def decode(self, inputs: DecoderInput, state: Arrays) -> tuple[Floats, Arrays]:
        self._decoder.load(state)
        logits = self._decoder.run(inputs).copy()
        return logits, self._decoder.dump()

    def load_state(self, arrays: Sequence[NDArray[Any]]) -> Arrays:
        return tuple(np.array(array, np.float32, order="C") for array in arrays)

    def dump_state(self, state: Arrays) -> tuple[NDArray[Any], ...]:
        return state

    def stepper(self, state: Arrays, mask: Ints, positions: Ints, room: int) -> Stepper:
        decoder = Decoder(self._compiled["decoder"], self.state)
        decoder.load(state)
        return OpenVinoStepper(_Request(self._compiled["embed"]), decoder, mask, positions, room)

    def close(self) -> None:
        self._requests.clear()
        self._compiled.clear()


class _Request:
    """One run after another of a compiled model with one output."""

    def __init__(self, compiled: ov.CompiledModel) -> None:
        self._request = compiled.create_infer_request()

    @property
    def variables(self) -> dict[str, Any]:
        """The model's variables by name; they belong to this request."""
        return {each.name: each for each in self._request.query_state()}

    def run(self, feeds: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """The output, valid until the next run."""
        # The runtime reads the arrays where they lie; they live until it is done. It takes none
        # that must not be written to, such as a picture's pixels.
        arrays = {name: np.require(array, None, ["C", "W"]) for name, array in feeds.items()}
        for name, array in arrays.items():
            self._request.set_tensor(name, ov.Tensor(array, shared_memory=True))
        self._request.infer()
        output: NDArray[Any] = self._request.get_output_tensor(0).data
        return output


class Decoder:
    """A decoder under way, with a state of its own that every run changes."""

    def __init__(self, compiled: ov.CompiledModel, state: Sequence[StateTensor]) -> None:
        self._request = _Request(compiled)
        found = self._request.variables
        self._variables = [found[spec.past + spec.present] for spec in state]
        self._beams = any(BEAMS in port.names for port in compiled.inputs)

    def load(self, arrays: Arrays) -> None:
        """Start from a state, which is copied."""
        for variable, array in zip(self._variables, arrays, strict=True):
            variable.state = ov.Tensor(array)

    def dump(self) -> Arrays:
        """A copy of the state."""
        return tuple(np.array(variable.state.data, np.float32) for variable in self._variables)

    def run(self, inputs: DecoderInput) -> Floats:
        """Logits (batch, kept, vocabulary), valid until the next run."""
        feeds: dict[str, NDArray[Any]] = {
            "inputs_embeds": inputs.inputs_embeds,
            "attention_mask": inputs.attention_mask,
            "position_ids": inputs.position_ids,
            "num_logits_to_keep": np.array(inputs.logits_to_keep, np.int64),
        }
        if self._beams:
            feeds[BEAMS] = np.arange(len(inputs.inputs_embeds), dtype=np.int32)
        return self._request.run(feeds)


class OpenVinoStepper(Stepper):
    """Steps on a request of its own: keys and values are appended where the runtime keeps them."""

    def __init__(
        self, embed: _Request, decoder: Decoder, mask: Ints, positions: Ints, room: int
    ) -> None:
        batch, self._past = mask.shape
        self._embed, self._decoder = embed, decoder
        self._mask = np.ones((batch, self._past + room), np.int64)
        self._mask[:, : self._past] = mask
        self._positions = np.repeat(positions[None, :, None], 3, axis=0)

    def step(self, tokens: Ints) -> Floats:
        self._past += 1
        embeddings = self._embed.run({"input_ids": tokens[:, None]})
        inputs = DecoderInput(embeddings, self._mask[:, : self._past], self._positions)
        logits = self._decoder.run(inputs)
        self._positions += 1
        last: Floats = logits[:, -1]
        return last

    def dump(self) -> tuple[NDArray[Any], ...]:
        return self._decoder.dump()


def checked_device(core: ov.Core, device: str) -> str:
    """`device` by OpenVINO's name for it, such as CPU, GPU.1 or NPU.

    Raises:
        MissingEngineError: this machine has no such device, or its driver is not installed.
    """
    wanted = device.upper()
    available = list(core.available_devices)
    if wanted.split(".")[0] not in {name.split(".")[0] for name in available}:
        raise MissingEngineError(
            got=f"the device '{device}', which OpenVINO does not find here",
            expected=f"one of: {', '.join(available)}",
            fix="choose another --device, or install the driver of this one",
        )
    return wanted


def _config(core: ov.Core, device: str, precision: str, threads: int | None) -> dict[str, Any]:
    """Settings of the precision, as far as the device knows them.

    Left alone, the CPU plugin would compute fp32 models in bf16, keep keys and values in 8 bits,
    and round what is multiplied with 8- and 4-bit weights to 8 bits.
    """
    capability, arithmetic = ARITHMETIC.get(precision, ("FP32", "f32"))
    if capability not in core.get_property(device, "OPTIMIZATION_CAPABILITIES"):
        arithmetic = "f32"
    wanted: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": arithmetic,
        "KV_CACHE_PRECISION": arithmetic,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    }
    if threads is not None:
        wanted["INFERENCE_NUM_THREADS"] = str(threads)
    known = set(core.get_property(device, "SUPPORTED_PROPERTIES"))
    return {name: value for name, value in wanted.items() if name in known}


def _state(decoder: ov.Model) -> tuple[StateTensor, ...]:
    """The state as the compiler listed it: names and sizes, ? for the length of the past."""
    listed = decoder.get_rt_info([SETTINGS, STATE]).astype(str)
    return tuple(
        StateTensor(past, present, tuple(None if n == "?" else int(n) for n in shape))
        for past, present, *shape in (each.split(",") for each in listed.split(";"))
    )
