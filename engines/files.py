"""Writing files and folders so that nothing is ever seen half-written.

Everything is written beside its destination under a hidden name, flushed to the disk, and only
then renamed. A reader meets the old content or the new, never a mixture; an error or Ctrl-C removes
what had been begun. Only a killed process or a power cut can leave a `.<name>.partial-*` behind,
which no reader takes for the real thing.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from engines.errors import ArtExportError, DiskFullError, OutputError, OutputExistsError

# EFBIG is how a per-process file-size limit shows itself; to the user it is the same trouble.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# Native writers (safetensors, torch) report the same through exceptions without an errno.
_FULL_WORDS = ("No space left on device", "os error 28", "Disk quota exceeded")
_PARTIAL = ".partial-"
_THOUSAND = 1000
# renameat2(AT_FDCWD, ..., RENAME_EXCHANGE) on Linux; RENAME_SWAP has the same value on macOS.
_HERE = -100
_EXCHANGE = 2


def sha256_file(path: str | Path) -> str:
    """Return the SHA-256 of a file's content as 64 lower-case hex digits, read in pieces."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def user_cache() -> Path:
    """The project's folder in the user's cache, for what only saves time; it need not exist."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "art-export"


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path`, replacing a file there in one step; missing parents are made.

    Raises:
        DiskFullError: there is no room; an old file at `path` is untouched.
        OutputError: `path` cannot be written, or is a folder or a device.
    """
    target = Path(os.path.realpath(path))
    with _own_errors(target):
        _refuse_special(target)
        made, beside = _missing_parents(target), _beside(target)
    try:
        with _own_errors(target, len(data)):
            target.parent.mkdir(parents=True, exist_ok=True)
            _write_new(beside, data)
            beside.replace(target)
            _sync_folder(target.parent)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        _remove_empty(made)
        raise


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON in one step; errors as in `write_bytes`.

    Raises:
        ValueError: `value` holds a NaN or an infinity, which JSON does not have.
    """
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


@contextmanager
def staged_folder(
    path: str | Path, *, replace: bool = False, needed: int | None = None
) -> Iterator[Path]:
    """Yield an empty folder beside `path` that becomes `path` when the block ends well.

    Args:
        path: the folder to appear; missing parents are made.
        replace: whether a folder at `path` may be replaced. It stays whole until the last moment.
        needed: bytes that the block will write, where known: checked before it starts.

    Raises:
        OutputExistsError: something is at `path` and may not be replaced.
        DiskFullError: there is no room, be it before or while the block writes.
        OutputError: `path` cannot be written.

    Any exception in the block, KeyboardInterrupt too, removes the folder and is raised again.
    """
    target = _normal(path)
    with _own_errors(target, needed):
        _refuse_existing(target, replace)
        _check_room(target, needed)
        made, beside = _missing_parents(target), _beside(target)
    try:
        with _own_errors(target, needed):
            beside.mkdir(parents=True)
        with _room_for(target, needed):
            yield beside
        with _own_errors(target, needed):
            _sync_tree(beside)
            _publish(beside, target, replace)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        _remove_empty(made)
        raise


def remove_folder(path: str | Path) -> None:
    """Remove a folder; nobody sees it half-removed under its own name.

    Raises:
        OutputError: it cannot be removed.
    """
    target = _normal(path)
    with _own_errors(target):
        beside = _beside(target)
        target.rename(beside)
        shutil.rmtree(beside)


def partials_of(path: str | Path) -> list[Path]:
    """Return what an interrupted write of `path` has left beside it, sorted by name."""
    target = _normal(path)
    if not target.parent.is_dir():
        return []
    start = f".{target.name}{_PARTIAL}"
    return sorted(entry for entry in target.parent.iterdir() if entry.name.startswith(start))


def size_text(count: int) -> str:
    """Return a number of bytes for people: "512 bytes", "1.5 MB" (1 MB = 1,000,000 bytes)."""
    amount = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < _THOUSAND:
            return f"{amount:.0f} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= _THOUSAND
    return f"{amount:.1f} TB"


# -- where to write, and whether it may be --------------------------------------------------------


def _normal(path: str | Path) -> Path:
    """The absolute path without "..": a folder's own name is needed to write beside it."""
    return Path(os.path.normpath(Path.cwd() / path))


def _beside(target: Path) -> Path:
    """A hidden name in the same folder, hence on the same disk, where a rename is atomic."""
    return target.with_name(f".{target.name}{_PARTIAL}{secrets.token_hex(4)}")


def _missing_parents(target: Path) -> list[Path]:
    """The folders above `target` that are not there yet, deepest first."""
    return [folder for folder in target.parents if not folder.exists()]


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _refuse_special(target: Path) -> None:
    """Refuse to rename over a folder or a device: as root that would replace /dev/null."""
    if os.path.lexists(target) and not stat.S_ISREG(target.stat().st_mode):
        raise OutputError(
            got=f"{target}, which is {'a folder' if target.is_dir() else 'no regular file'}",
            expected="the name of a file to write",
            fix="give a file name, for example with the ending that the command writes",
        )


def _refuse_existing(target: Path, replace: bool) -> None:
    if not os.path.lexists(target) or (replace and target.is_dir() and not target.is_symlink()):
        return
    raise OutputExistsError(
        got=f"{target}, which exists already",
        expected="a folder name that is still free: nothing is overwritten",
        fix="choose another output folder, or move this one away first",
    )


def _check_room(target: Path, needed: int | None) -> None:
    if needed is not None and needed > _free_bytes(target):
        raise _full(target, needed)


# -- what went wrong ------------------------------------------------------------------------------


@contextmanager
def _room_for(target: Path, needed: int | None) -> Iterator[None]:
    """Turn a full disk, reported by anyone in the block, into a DiskFullError."""
    try:
        yield
    except ArtExportError:
        raise
    except Exception as error:
        if not _says_full(error):
            raise
        # Free space is measured here, before the partial output is removed.
        raise _full(target, needed) from error


@contextmanager
def _own_errors(target: Path, needed: int | None = None) -> Iterator[None]:
    """Turn every operating-system error of this module's own calls into an OutputError."""
    try:
        with _room_for(target, needed):
            yield
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            _refuse_existing(target, replace=False)
        raise OutputError(
            got=f"{target}, which cannot be written: {error.strerror or error}",
            expected="a place where this user may write",
            fix="choose another output path, or change the permissions of this one",
        ) from error


def _says_full(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    return any(words in str(error) for words in _FULL_WORDS)


def _full(target: Path, needed: int | None) -> DiskFullError:
    free = size_text(_free_bytes(target))
    wanted = "more room than there is" if needed is None else size_text(needed)
    return DiskFullError(
        got=f"no room to write {target}: it needs {wanted}, {free} are free",
        expected="enough free space on that disk, and no file-size limit below it (ulimit -f)",
        fix="free some space or choose another disk; what had been begun was removed",
    )


def _free_bytes(target: Path) -> int:
    there = next(folder for folder in target.parents if folder.exists())
    return shutil.disk_usage(there).free


# -- writing --------------------------------------------------------------------------------------


def _write_new(path: Path, data: bytes) -> None:
    # Not tempfile: its mode 0600 would make a bundle unreadable to the user who serves it.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder`, and itself, to the disk."""
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            if not path.is_symlink():
                _sync(path)
        _sync_folder(Path(root))


def _sync_folder(folder: Path) -> None:
    # Windows cannot open folders, and needs no flush of them.
    if hasattr(os, "O_DIRECTORY"):
        _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _publish(beside: Path, target: Path, replace: bool) -> None:
    if replace and target.exists():
        if not _exchange_at_once(beside, target):
            _exchange_in_steps(beside, target)
        shutil.rmtree(beside, ignore_errors=True)
    else:
        beside.rename(target)
    _sync_folder(target.parent)


def _exchange_at_once(one: Path, other: Path) -> bool:
    """Swap two folders in one step where the system can; False where it cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = (os.fsencode(one), os.fsencode(other))
    if hasattr(libc, "renameat2"):
        failed = libc.renameat2(_HERE, names[0], _HERE, names[1], _EXCHANGE)
    elif hasattr(libc, "renamex_np"):
        failed = libc.renamex_np(*names, _EXCHANGE)
    else:
        return False
    if not failed:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def _exchange_in_steps(one: Path, other: Path) -> None:
    """The same with renames, putting `other` back when interrupted in between."""
    aside = _beside(other)
    try:
        other.rename(aside)
        one.rename(other)
        aside.rename(one)
    except BaseException:
        if aside.exists() and not other.exists():
            aside.rename(other)
        shutil.rmtree(aside, ignore_errors=True)
        raise
