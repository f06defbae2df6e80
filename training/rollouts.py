"""Answers for training, from whatever engine: the model in PyTorch, or a bundle compiled from it.

Only the picture changes between steps, so a compiled engine has nothing to be synchronised.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engines.bundle import BundleFolder
from engines.errors import OptionError
from engines.prefix import PrefixState
from engines.registry import open_runtime as open_bundle
from engines.runtime import Runtime
from engines.sampling import Sample, SamplingOptions, Seed, sample
from engines.torch_engine import TorchEngine
from training import processes
from training.placement import is_placed
from training.policy import Policy, PrefixPolicy
from training.setup import Setup

TORCH = "torch"


class Rollouts(ABC):
    """Answers to prompts after a picture; `name` says who gives them."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Of the engine."""

    @abstractmethod
    def draw(
        self,
        pixels: np.ndarray | None,
        prompts: Sequence[str],
        options: SamplingOptions,
        seeds: Sequence[Sequence[Seed]],
    ) -> list[list[Sample]]:
        """An answer to prompts[i] for each of seeds[i], the same number for all.

        Args:
            pixels: uint8 (size, size, 3), or None for no picture.
        """

    @abstractmethod
    def close(self) -> None:
        """Release what is held."""

    def greedy(self, pixels: np.ndarray | None, prompts: Sequence[str]) -> list[Sample]:
        """The likeliest answer to every prompt."""
        seeds = [[(0,)] for _ in prompts]
        return [one for (one,) in self.draw(pixels, prompts, SamplingOptions(0.0), seeds)]


@dataclass(frozen=True)
class EngineRollouts(Rollouts):
    """From an engine in this process, at most `max_new_tokens` long and `rows` at once."""

    runtime: Runtime
    max_new_tokens: int
    rows: int

    @property
    def name(self) -> str:
        return self.runtime.engine.name

    def draw(
        self,
        pixels: np.ndarray | None,
        prompts: Sequence[str],
        options: SamplingOptions,
        seeds: Sequence[Sequence[Seed]],
    ) -> list[list[Sample]]:
        runtime, limit = self.runtime, self.max_new_tokens
        prefix = runtime.prefix(pixels)
        tails = [runtime.tail(prompt, prefix, limit) for prompt in prompts]
        size, drawn = max(1, self.rows // len(seeds[0])), list[list[Sample]]()
        for first in range(0, len(tails), size):
            part = slice(first, first + size)
            prefixes = [prefix] * len(tails[part])
            drawn += sample(runtime, tails[part], prefixes, limit, options, seeds[part])
        return drawn

    def close(self) -> None:
        self.runtime.engine.close()


@dataclass(frozen=True)
class SharedRollouts(Rollouts):
    """Those of `inner` in every process, each of which answers its share of the prompts."""

    inner: Rollouts

    @property
    def name(self) -> str:
        return self.inner.name

    def draw(
        self,
        pixels: np.ndarray | None,
        prompts: Sequence[str],
        options: SamplingOptions,
        seeds: Sequence[Sequence[Seed]],
    ) -> list[list[Sample]]:
        own = slice(processes.index(), None, processes.count())
        drawn = self.inner.draw(pixels, prompts[own], options, seeds[own]) if prompts[own] else []
        everyones = processes.gathered(drawn)
        count = processes.count()
        return [everyones[place % count][place // count] for place in range(len(prompts))]

    def close(self) -> None:
        self.inner.close()


def open_runtime(setup: Setup, engine: str | None, bundle: str | None) -> Runtime:
    """The engine that answers while a picture is trained for `setup`'s model.

    Args:
        engine: its name; None is the bundle's, or PyTorch without a bundle.
        bundle: folder of a bundle built from the same weights for pictures of the same size.

    Raises:
        OptionError: engine and bundle do not go together, or the bundle is of another model.
        BundleError: the bundle cannot be used.
    """
    if bundle is None:
        if is_placed(setup.parts):
            raise OptionError(
                got="--device-map with answers that PyTorch is to write",
                expected="a compiled engine or a server to write them",
                fix="add --bundle BUNDLE or --url URL",
            )
        if engine in (None, TORCH):
            device = str(next(setup.model.parameters()).device)
            return Runtime(TorchEngine(setup.model, setup.parts.picture_size, device), setup.chat)
        raise OptionError(
            got=f"--rollout-engine {engine} without --bundle",
            expected="a bundle that was built for this engine",
            fix="build one with art-export build and add --bundle BUNDLE, or use torch",
        )
    folder = BundleFolder.open(bundle)
    _check(setup, engine, folder)
    return open_bundle(folder)


def pixels_of(policy: Policy) -> np.ndarray | None:
    """The picture that a policy sees, uint8 (size, size, 3), or None."""
    if not isinstance(policy, PrefixPolicy) or policy.pixels is None:
        return None
    pixels: np.ndarray = policy.pixels.cpu().numpy().astype(np.uint8)
    return pixels


def text_prefix(runtime: Runtime, ids: Sequence[int]) -> PrefixState:
    """The state after the tokens `ids`, without any picture."""
    if not ids:
        return runtime.prefix(None)
    return runtime.prefix_from_embeddings(runtime.engine.embed(np.array([ids], np.int64))[0])


def _check(setup: Setup, engine: str | None, folder: BundleFolder) -> None:
    manifest = folder.manifest
    wrong = [
        (what, found, wanted)
        for what, found, wanted in (
            ("engine", manifest.engine, engine or manifest.engine),
            ("weights", manifest.weights_sha256[:12], setup.weights_sha256[:12]),
            ("picture size", manifest.picture_size, setup.parts.picture_size),
        )
        if found != wanted
    ]
    if wrong:
        what, found, wanted = wrong[0]
        raise OptionError(
            got=f"--bundle {folder.path}, whose {what} is {found}",
            expected=f"{wanted}, as of this run",
            fix="build a bundle from the model that is trained for, with the same --size",
        )
