"""A bundle in use: its engine loaded, its pictures at hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from art_export.swap import FileGuard, SwapResult, Swaps, swap
from engines.bundle import BundleFolder, Signature, map_file
from engines.contract import EngineOptions
from engines.picture import Picture, load_picture
from engines.prefix import PrefixState, prefix_from_bytes
from engines.registry import open_runtime
from engines.runtime import Completion, Runtime

ACTIVE = object()
"""Stands for the art that is in use."""
HELD_BYTES = 32_000_000
"""Of prefix states that stay mapped when nobody uses them; the latest always does."""


class Bundle:
    """A loaded bundle. Use as a context manager, or call `close`.

    >>> with Bundle.load("demo.bundle") as bundle:
    ...     bundle.swap("art.png")
    ...     bundle.generate(["Wake me up at 07:30 on Monday."])
    """

    def __init__(self, folder: BundleFolder, runtime: Runtime) -> None:
        self.folder = folder
        self.runtime = runtime
        self._known = Swaps(FileGuard(folder))
        self._recent: dict[str, tuple[Signature, PrefixState]] = {}
        self._checked: dict[str, Signature] = {}
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
        return cls(folder, open_runtime(folder, options))

    def swap(self, art: Picture | str | Path, name: str | None = None) -> SwapResult:
        """Put a picture in use: see `art_export.swap`. `name` defaults to the file's."""
        if isinstance(art, Picture):
            picture, stem = art, "art"
        else:
            picture, stem = load_picture(art, self.folder.manifest.picture_size), Path(art).stem
        result = swap(self.folder, self.runtime, self._known, picture, name or stem)
        if self._known.last is not None:
            # Its files were written by this very process, and need not be hashed to be known.
            self._checked[result.name] = self._known.last.signature
        return result

    def prefix(self, art: str | None) -> PrefixState:
        """The stored prefix state of an art, or that of no picture.

        Its arrays are views of the file, read from disk when they are used and when it has changed.

        Raises:
            OptionError: there is no such art.
            BundleError: its files were edited, or are of other graphs.
        """
        if art is None:
            return self._empty
        # Looked at before the files are read: one that is replaced meanwhile is read again next.
        signature = self.folder.art_signature(art)
        known = self._recent.pop(art, None)
        if known is None or known[0] != signature:
            known = signature, self._mapped(art, signature)
        self._recent[art] = known
        self._forget()
        return known[1]

    def _mapped(self, art: str, signature: Signature) -> PrefixState:
        """The state as it lies in its file, which is hashed once for as long as it is the same."""
        if self._checked.get(art) == signature:
            path = self.folder.prefix_path(art)
            data = map_file(path)
            if self.folder.art_signature(art) == signature:
                return prefix_from_bytes(self.runtime.engine, data, str(path))
        record = self.folder.read_art(art)
        prefix = prefix_from_bytes(self.runtime.engine, record.prefix, str(record.prefix_path))
        self._checked[art] = signature
        return prefix

    def _forget(self) -> None:
        """Let go of the states used longest ago: mapping one again is a matter of microseconds,
        and a thousand pictures in memory are not."""
        held = sum(state.nbytes for _, state in self._recent.values())
        while held > HELD_BYTES and len(self._recent) > 1:
            _, state = self._recent.pop(next(iter(self._recent)))
            held -= state.nbytes

    def remove(self, art: str) -> None:
        """Take a picture out of the bundle, and out of use if it is in use.

        Raises:
            OptionError: there is no such art. OutputError: the bundle cannot be written.
        """
        self.folder.remove_art(art)
        self._recent.pop(art, None)
        self._checked.pop(art, None)

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
