"""Putting a picture in use without touching a graph, and proving both halves of that."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from art_export.tolerances import STATE
from engines.bundle import BundleFolder, Signature, check_art_name, signature_of
from engines.errors import BundleError, CheckFailed, OutputError
from engines.files import write_json
from engines.picture import Picture, check_base
from engines.prefix import prefix_from_bytes, prefix_to_bytes
from engines.runtime import Runtime

CHECKED_NAME = "checked.json"
RACY = 2
"""Seconds: no file system in use has coarser times."""
UNREACHED = "the new picture changed no logit: it does not reach the model"
RECOMPUTED = (
    "the state stored with this picture was computed otherwise, by another device, provider or "
    "version: logits differ by up to {:.2g}; it is replaced"
)


@dataclass(frozen=True)
class Change:
    """How the distribution of the token right after the picture moved.

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
    times have changed: a swap must not read gigabytes for nothing. What was found is kept in the
    bundle for the next process. As in git's index, a file that was changed less than RACY seconds
    before it was hashed is not vouched for: its times might not tell of a later change.
    """

    def __init__(self, folder: BundleFolder) -> None:
        self._folder = folder
        self._where = folder.path / CHECKED_NAME
        self._seen = self._kept()

    def check(self) -> int:
        """Number of files, all of them as built.

        Raises:
            BundleError: naming the files that were changed since the build.
        """
        now = {record.path: self._signature(record.path) for record in self._folder.manifest.files}
        if now != self._seen:
            began = time.time_ns()
            self._folder.check_files()
            self._seen = now
            if all(began - times[-1] > RACY * 10**9 for times in now.values()):
                self._keep()
        return len(now)

    def _keep(self) -> None:
        facts = {"graph_sha256": self._folder.manifest.graph_sha256, "files": self._seen}
        # Where the bundle is read-only, the next process hashes again, and nothing else.
        with suppress(OutputError):
            write_json(self._where, facts)

    def _kept(self) -> dict[str, list[int]]:
        """What an earlier process has found; nothing where that cannot be read."""
        try:
            facts = json.loads(self._where.read_bytes())
            known = facts["graph_sha256"] == self._folder.manifest.graph_sha256
            return dict(facts["files"]) if known else {}
        except (OSError, ValueError, LookupError, TypeError):
            return {}

    def _signature(self, path: str) -> list[int]:
        # A list, as JSON gives it back. Of a file that is gone hashing then says so by name.
        return list(signature_of(self._folder.path / path) or [0])


@dataclass(frozen=True, eq=False)
class Known:
    """An art as it was when it was swapped in: its name, the signature of its files, the picture's
    hash and the logits (vocabulary,) after it."""

    name: str
    signature: Signature
    picture_sha256: str
    logits: NDArray[np.float32]


@dataclass
class Swaps:
    """What one process knows of a bundle from swap to swap: of its files, of the picture that it
    swapped in last, which need not be read again, and of the model without any."""

    guard: FileGuard
    last: Known | None = None
    bare: NDArray[np.float32] | None = None


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
    folder: BundleFolder, runtime: Runtime, known: Swaps, picture: Picture, name: str
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
        unchanged = known.guard.check()
    with watch.stage("vision"):
        features = runtime.engine.vision(picture.pixels[None])
    with watch.stage("prefill"):
        prefix = runtime.prefix_from_features(features)
    with watch.stage("compare"):
        change, unreadable = _compare(folder, runtime, known, picture, prefix.logits)
    with watch.stage("store"):
        data = prefix_to_bytes(prefix, runtime.engine)
        info = {"total_variation": change.total_variation}
        folder.write_art(name, picture, data, info)
        signature = folder.art_signature(name)
    with watch.stage("activate"):
        known.guard.check()
        folder.set_active(name)
        known.last = Known(name, signature, picture.sha256, prefix.logits)
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
        warnings=(*picture.notes, *filter(None, (warning, unreadable))),
    )


def _compare(
    folder: BundleFolder, runtime: Runtime, known: Swaps, picture: Picture, new: NDArray[np.float32]
) -> tuple[Change, str | None]:
    """With the art in use, or with no picture; and a warning. Another picture that changes nothing
    is a fault; the same one need not give the same bits elsewhere."""
    against, warning = folder.active(), None
    try:
        before, old = _before(folder, runtime, known, against)
    except BundleError as error:
        # An art that is stale or was edited is cured by a swap, so it must not prevent one.
        warning = f"compared with no picture, since the one in use cannot be: {error.got}"
        against = None
        before, old = _before(folder, runtime, known, None)
    same = before == picture.sha256
    change = Change(
        against,
        same,
        float(np.abs(new - old).max()),
        float(np.abs(_softmax(new) - _softmax(old)).sum() / 2),
    )
    moved = change.max_logit_difference
    if not same and moved == 0:
        raise CheckFailed(f"{UNREACHED}; nothing was swapped")
    if same and moved > STATE:
        warning = RECOMPUTED.format(moved)
    return change, warning


def _before(
    folder: BundleFolder, runtime: Runtime, known: Swaps, against: str | None
) -> tuple[str | None, NDArray[np.float32]]:
    """The picture in use, by its hash, and the logits after it; or those after none."""
    if against is None:
        if known.bare is None:
            known.bare = runtime.bare_logits()
        return None, known.bare
    last = known.last
    if last and last.name == against and last.signature == folder.art_signature(against):
        return last.picture_sha256, last.logits
    record = folder.read_art(against)
    prefix = prefix_from_bytes(runtime.engine, record.prefix, str(record.prefix_path))
    return record.picture.sha256, prefix.logits


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    powers = np.exp(logits.astype(np.float64) - logits.max())
    shares: NDArray[np.float64] = powers / powers.sum()
    return shares
