"""A bundle in use: its engine loaded, its pictures at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from art_export.swap import FileGuard, SwapResult, swap
from engines.bundle import BundleFolder
from engines.chat import Chat
from engines.contract import EngineOptions
from engines.picture import Picture, load_picture
from engines.prefix import PrefixState, prefix_from_bytes
from engines.registry import open_engine
from engines.runtime import Completion, Runtime

ACTIVE = object()
"""Stands for the art that is in use."""


class Bundle:
    """A loaded bundle. Use as a context manager, or call `close`.

    >>> with Bundle.load("demo.bundle") as bundle:
    ...     bundle.swap("art.png")
    ...     bundle.generate(["Wake me up at 07:30 on Monday."])
    """

    def __init__(self, folder: BundleFolder, runtime: Runtime) -> None:
        self.folder = folder
        self.runtime = runtime
        self._guard = FileGuard(folder)
        self._prefixes: dict[str, tuple[str, PrefixState]] = {}
        self._empty = runtime.prefix(None)

    @classmethod
    def load(
        cls,
        path: str | Path,
        options: EngineOptions = EngineOptions(),  # noqa: B008 - frozen
    ) -> Bundle:
        """Open a bundle and load it into the engine that it was built for.

        Raises:
            BundleError: the folder is not a whole bundle; the message names what is wrong.
            MissingEngineError, OptionError: the engine is not installed, or cannot run so here.
        """
        folder = BundleFolder.open(path)
        manifest = folder.manifest
        engine = open_engine(manifest.engine, folder.path, options)
        # A bundle may have been built for shorter sequences than the model was made for.
        chat = replace(
            Chat.load(folder.path, manifest.picture_size), max_length=manifest.max_length
        )
        return cls(folder, Runtime(engine, chat))

    def swap(self, art: Picture | str | Path, name: str | None = None) -> SwapResult:
        """Put a picture in use: see `art_export.swap`. `name` defaults to the file's."""
        if isinstance(art, Picture):
            picture, stem = art, "art"
        else:
            picture, stem = load_picture(art, self.folder.manifest.picture_size), Path(art).stem
        return swap(self.folder, self.runtime, self._guard, picture, name or stem)

    def prefix(self, art: str | None) -> PrefixState:
        """The stored prefix state of an art, or that of no picture; read from disk when changed.

        Raises:
            OptionError: there is no such art.
            BundleError: its files were edited, or are of other graphs.
        """
        if art is None:
            return self._empty
        record = self.folder.read_art(art)
        known = self._prefixes.get(art)
        if known is None or known[0] != record.prefix_sha256:
            data = record.read_prefix()
            prefix = prefix_from_bytes(self.runtime.engine, data, str(record.prefix_path))
            self._prefixes[art] = (record.prefix_sha256, prefix)
        return self._prefixes[art][1]

    def generate(
        self,
        prompts: Sequence[str],
        art: object = ACTIVE,
        max_new_tokens: int = 128,
        batch_size: int = 32,
    ) -> list[Completion]:
        """Greedy answers, each from the stored state of its picture.

        Args:
            art: a name, None for no picture, a list with one of these for every prompt, or
                ACTIVE (the default).
        """
        chosen = self.folder.active() if art is ACTIVE else art
        names = chosen if isinstance(chosen, list | tuple) else [chosen] * len(prompts)
        states = {name: self.prefix(name) for name in dict.fromkeys(names)}
        prefixes = [states[name] for name in names]
        return self.runtime.generate(prompts, prefixes, max_new_tokens, batch_size)

    def close(self) -> None:
        """Release the graphs."""
        self.runtime.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
