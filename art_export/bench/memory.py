"""Memory that this process holds, as Linux counts it."""

from __future__ import annotations

import ctypes
import gc
from dataclasses import dataclass
from pathlib import Path

ROLLUP = Path("/proc/self/smaps_rollup")
KIB = 1024


@dataclass(frozen=True)
class Resident:
    """Bytes. rss: all pages in memory, those of mapped files too, which are the disk's cache.
    anonymous: the pages that no file stands behind, which the system cannot take back."""

    rss: int
    anonymous: int


def resident() -> Resident | None:
    """Now, after what is free has been given back; None where the system does not say."""
    if not ROLLUP.is_file():
        return None
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    found = {}
    for line in ROLLUP.read_text("ascii").splitlines()[1:]:
        name, amount = line.split(":")
        found[name] = int(amount.split()[0]) * KIB
    return Resident(found["Rss"], found["Anonymous"])
