"""One process at a time: for files that several read, change and write again."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Inside, no other process that asks likewise is at work on the file `path`; waits for that.

    The lock is on a side file, since `path` itself is replaced by each writing. It stays: whoever
    removed it would leave others holding, and waiting for, a file that no name leads to.
    """
    side = path.with_name(f".{path.name}.lock")
    side.parent.mkdir(parents=True, exist_ok=True)
    with side.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
