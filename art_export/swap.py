"""Putting a picture in use without touching a graph, and proving both halves of that."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.bundle import BundleFolder, check_art_name
from engines.errors import CheckFailed
from engines.picture import Picture, check_base
from engines.prefix import PrefixState, prefix_from_bytes, prefix_to_bytes
from engines.runtime import Runtime

UNREACHED = "the new picture changed no logit: it does not reach the model"
PROBE = "What is 12 + 30?"
"""The prompt whose next-token distribution shows that a swap changed what the model does."""


@dataclass(frozen=True)
class Change:
    """How the distribution of the first answer token moved on the probe prompt.

    max_logit_difference: largest change of a logit. total_variation: half the sum of changes of
    probabilities, 0 (the same) to 1 (disjoint).
    """

    against: str | None
    same_picture: bool
    max_logit_difference: float
    total_variation: float


@dataclass(frozen=True)
class SwapResult:
    """What a swap did. `seconds`: stage -> wall-clock seconds, `total` included."""

    name: str
    previous: str | None
    picture_sha256: str
    seconds: dict[str, float]
    prefix_tokens: int
    prefix_bytes: int
    files_unchanged: int
    graph_sha256: str
    change: Change
    warnings: tuple[str, ...]


class FileGuard:
    """Proves that a bundle's graph files are those of its manifest.

    Files are hashed the first time. Afterwards a file is hashed again only if its inode, size or
    times have changed: a swap in a running process must not read gigabytes for nothing.
    """

    def __init__(self, folder: BundleFolder) -> None:
        self._folder = folder
        self._seen: tuple[tuple[int, ...], ...] = ()

    def check(self) -> int:
        """Number of files, all of them as built.

        Raises:
            BundleError: naming the files that were changed since the build.
        """
        now = tuple(self._signature(record.path) for record in self._folder.manifest.files)
        if now != self._seen:
            self._folder.check_files()
            self._seen = now
        return len(now)

    def _signature(self, path: str) -> tuple[int, ...]:
        # A file that is gone has no signature; hashing it then says so by name.
        where = self._folder.path / path
        if not where.exists():
            return ()
        stat = where.stat()
        return (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


class Stopwatch:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started

    def finished(self) -> dict[str, float]:
        return {**self.seconds, "total": sum(self.seconds.values())}


def swap(
    folder: BundleFolder, runtime: Runtime, guard: FileGuard, picture: Picture, name: str
) -> SwapResult:
    """Check `picture`, compute its prefix state, store it as `name` and put it in use.

    The old art stays in use until the last step, a rename.

    Raises:
        OptionError: `name` is not allowed.
        PictureError: the picture is of another size, or was trained for another base model.
        BundleError: a graph file was changed since the build.
        CheckFailed: another picture, yet the same output: it does not reach the model.
    """
    watch = Stopwatch()
    with watch.stage("check"):
        check_art_name(name)
        folder.check_picture_size(picture)
        warning = check_base(picture, folder.manifest.weights_sha256)
        unchanged = guard.check()
    with watch.stage("vision"):
        features = runtime.engine.vision(picture.pixels[None])
    with watch.stage("prefill"):
        prefix = runtime.prefix_from_features(features)
    with watch.stage("probe"):
        change = _probe(folder, runtime, picture, prefix)
    with watch.stage("store"):
        data = prefix_to_bytes(prefix, runtime.engine)
        folder.write_art(name, picture, data, {"total_variation": change.total_variation})
    with watch.stage("activate"):
        guard.check()
        folder.set_active(name)
    return SwapResult(
        name=name,
        previous=change.against,
        picture_sha256=picture.sha256,
        seconds=watch.finished(),
        prefix_tokens=prefix.length,
        prefix_bytes=len(data),
        files_unchanged=unchanged,
        graph_sha256=folder.manifest.graph_sha256,
        change=change,
        warnings=(*picture.notes, *([warning] if warning else [])),
    )


def _probe(folder: BundleFolder, runtime: Runtime, picture: Picture, prefix: PrefixState) -> Change:
    """Compare with the art in use, or with no picture. One that changes nothing is a fault."""
    against = folder.active()
    same, before = False, runtime.prefix(None)
    if against is not None:
        record = folder.read_art(against)
        same = record.picture.sha256 == picture.sha256
        before = prefix_from_bytes(runtime.engine, record.read_prefix(), str(record.prefix_path))
    old, new = (_first_logits(runtime, state) for state in (before, prefix))
    change = Change(
        against,
        same,
        float(np.abs(new - old).max()),
        float(np.abs(_softmax(new) - _softmax(old)).sum() / 2),
    )
    if same != (change.max_logit_difference == 0):
        raise CheckFailed(
            f"{'the same picture gave other logits than its stored state' if same else UNREACHED}; "
            "nothing was swapped"
        )
    return change


def _first_logits(runtime: Runtime, prefix: PrefixState) -> NDArray[np.float32]:
    tail = runtime.tail(PROBE, prefix)
    first: NDArray[np.float32] = runtime.prefill([tail], [prefix]).logits[0]
    return first


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    powers = np.exp(logits.astype(np.float64) - logits.max())
    shares: NDArray[np.float64] = powers / powers.sum()
    return shares
