"""The engines that `benchmarks.decode` compares, each behind the same two calls.

A peer is prepared once, in a process that may be large, and measured in others.
"""

from __future__ import annotations

import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

import numpy as np

ONNXRUNTIME, GENAI, TORCH = "onnxruntime", "onnxruntime-genai", "torch"
BUILT = (ONNXRUNTIME, "openvino", "tensorrt")
"""Engines of bundles: the same code measures all."""
PEERS = {"cpu": (ONNXRUNTIME, "openvino", GENAI, TORCH), "cuda": (ONNXRUNTIME, "tensorrt", TORCH)}
PRECISIONS = {"cpu": ("fp32", "int8", "int4"), "cuda": ("fp16", "bf16", "int8", "int4")}
"""Device -> what is compared there."""


class Skip(Exception):  # noqa: N818 - a reason, not a fault
    """Why a peer is not measured."""


class Peer(ABC):
    """A model of one engine in one precision, loaded."""

    @abstractmethod
    def prefill(self, length: int) -> None:
        """Run a prompt of `length` tokens from nothing, for the logits of its last position."""

    @abstractmethod
    def start(self, context: int, steps: int) -> None:
        """Get ready for at most `steps` steps after `context` tokens."""

    @abstractmethod
    def step(self) -> None:
        """Append one token."""


def prepare(name: str, precision: str, device: str, model: Path, out: Path) -> None:
    """Write what the peer loads into `out`.

    Raises:
        Skip: this engine has no such precision, or is not installed.
    """
    if name in BUILT:
        _build(name, precision, device, model, out)
    elif name == GENAI:
        _build_genai(precision, model, out)
    elif precision not in (("fp32",) if device == "cpu" else ("fp32", "fp16", "bf16")):
        raise Skip(f"PyTorch eager is not measured in {precision} on {device}")


def load(name: str, precision: str, device: str, model: Path, out: Path) -> Peer:
    """The peer that `prepare` wrote.

    Raises:
        Skip: it cannot run on this machine.
    """
    if name in BUILT:
        return EnginePeer.open(name, device, out)
    return GenaiPeer(out) if name == GENAI else TorchPeer(model, precision, device)


def _build(name: str, precision: str, device: str, model: Path, out: Path) -> None:
    from art_export.build import BuildOptions, build
    from engines.errors import UserError

    provider = "cuda" if name == ONNXRUNTIME and device == "cuda" else None
    try:
        build(BuildOptions(str(model), out, engine=name, precision=precision, provider=provider))
    except UserError as error:
        raise Skip(error.got) from error


def _build_genai(precision: str, model: Path, out: Path) -> None:
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", str(model)]
    command += ["-o", str(out), "-p", precision, "-e", "cpu", "-c", str(out / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise Skip(f"its model builder failed: {lines[-1] if lines else done.returncode}")


class EnginePeer(Peer):
    """An engine of this project, on a bundle."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._token = np.array([7])

    @classmethod
    def open(cls, name: str, device: str, bundle: Path) -> Self:
        from engines.contract import EngineOptions
        from engines.errors import UserError
        from engines.registry import open_engine

        try:
            return cls(
                open_engine(name, bundle, EngineOptions(device=None if device == "cpu" else device))
            )
        except UserError as error:
            raise Skip(error.got) from error

    def prefill(self, length: int) -> None:
        self._run(length)

    def start(self, context: int, steps: int) -> None:
        mask = np.ones((1, context), np.int64)
        self._stepper = self._engine.stepper(
            self._run(context), mask, np.array([context]), room=steps
        )

    def step(self) -> None:
        self._stepper.step(self._token)

    def _run(self, length: int) -> Any:
        from engines.contract import DecoderInput
        from engines.positions import text_positions

        inputs = DecoderInput(
            self._engine.embed(token_ids(length)),
            np.ones((1, length), np.int64),
            text_positions(np.zeros(1, np.int64), length),
        )
        return self._engine.decode(inputs, self._engine.empty_state())[1]


class TorchPeer(Peer):
    """Hugging Face's own forward, with its own cache."""

    def __init__(self, model: Path, precision: str, device: str) -> None:
        from engines.model import ModelSource, load_model

        self._device = device
        self._model = load_model(ModelSource("model", model), precision).to(device)

    def prefill(self, length: int) -> None:
        self._run(token_ids(length), None)

    def start(self, context: int, steps: int) -> None:
        self._cache = self._run(token_ids(context), None)

    def step(self) -> None:
        self._cache = self._run(np.array([[7]]), self._cache)

    def _run(self, ids: np.ndarray[Any, Any], cache: Any) -> Any:
        import torch

        with torch.inference_mode():
            output = self._model(
                input_ids=torch.from_numpy(ids).to(self._device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        # Like the engines, which hand out logits on the CPU.
        output.logits.cpu()
        return output.past_key_values


class GenaiPeer(Peer):
    """onnxruntime-genai on its own builder's graph of the language model."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime_genai

        self._genai = onnxruntime_genai
        self._model = onnxruntime_genai.Model(str(folder))

    def prefill(self, length: int) -> None:
        self._generator(length, 1)

    def start(self, context: int, steps: int) -> None:
        self._running = self._generator(context, steps + 1)
        # The prompt's logits are there already: the first token costs no pass of the model.
        self._running.generate_next_token()

    def step(self) -> None:
        self._running.generate_next_token()

    def _generator(self, length: int, room: int) -> Any:
        params = self._genai.GeneratorParams(self._model)
        # Random weights may well answer with an end token, which must not end the measurement.
        params.set_search_options(
            max_length=length + room, min_length=length + room, do_sample=False
        )
        generator = self._genai.Generator(self._model, params)
        generator.append_tokens(token_ids(length).astype(np.int32))
        return generator


def token_ids(length: int) -> np.ndarray[Any, Any]:
    """A prompt of random tokens, int64 (1, length)."""
    return np.random.default_rng(length).integers(10, 300, (1, length))
