"""A soft prompt: vectors that stand before the chat, fed as embeddings."""

from __future__ import annotations

import time
from pathlib import Path

from art_export.bench.contender import Contender
from engines.bundle import BundleFolder
from engines.contract import EngineOptions
from engines.model import load_config
from engines.prefix import PrefixState
from engines.registry import open_runtime
from engines.soft_prompt import load_soft_prompt


class SoftPromptContender(Contender):
    """The plain bundle; an adapter is a folder that peft wrote, and its prefix state is held."""

    def __init__(self, bundle: Path, options: EngineOptions) -> None:
        self.runtime = open_runtime(BundleFolder.open(bundle), options)
        self._width = load_config(bundle).get_text_config().hidden_size
        self._empty = self.runtime.prefix(None)

    def deploy(self, adapter: Path) -> tuple[dict[str, float], PrefixState]:
        began = time.perf_counter()
        vectors = load_soft_prompt(adapter, self._width)
        read = time.perf_counter()
        prefix = self.runtime.prefix_from_embeddings(vectors)
        return {"read": read - began, "prefill": time.perf_counter() - read}, prefix

    def hold(self, adapter: Path) -> PrefixState:
        return self.deploy(adapter)[1]

    def prefix(self, held: PrefixState | None) -> PrefixState:
        return self._empty if held is None else held
