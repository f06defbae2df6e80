from __future__ import annotations

import errno
import hashlib
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engines import files
from engines.errors import DiskFullError, OutputError, OutputExistsError


def everything_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def no_space(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def build(target: Path, steps: Callable[[Path], object], *, replace: bool = False) -> None:
    with files.staged_folder(target, replace=replace) as folder:
        (folder / "new").write_bytes(b"new")
        steps(folder)


def failing(error: BaseException | type[BaseException]) -> Callable[[Path], object]:
    def steps(_: Path) -> None:
        raise error

    return steps


# -- one file -------------------------------------------------------------------------------------


def test_write_bytes_makes_parents_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    files.write_bytes(path, b"old")
    files.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert everything_in(tmp_path) == ["a", "a/b", "a/b/file"]


def test_written_files_may_be_read_by_others(tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        files.write_bytes(tmp_path / "file", b"x")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data[:3])))
    files.write_bytes(tmp_path / "file", b"0123456789")
    monkeypatch.undo()
    assert (tmp_path / "file").read_bytes() == b"0123456789"


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    files.write_bytes(tmp_path / "file", b"old")
    monkeypatch.setattr(os, call, no_space)
    with pytest.raises(DiskFullError) as caught:
        files.write_bytes(tmp_path / "file", b"x" * 1_500_000)
    monkeypatch.undo()
    assert "needs 1.5 MB" in caught.value.got
    assert "free" in caught.value.got
    assert (tmp_path / "file").read_bytes() == b"old"
    assert everything_in(tmp_path) == ["file"]


def test_a_real_size_limit_is_told_as_a_full_disk(tmp_path: Path) -> None:
    with file_size_limit(4096), pytest.raises(DiskFullError, match="ulimit -f"):
        files.write_bytes(tmp_path / "new" / "file", b"x" * 100_000)
    assert everything_in(tmp_path) == []


def test_ctrl_c_while_writing_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write_bytes(tmp_path / "file", b"old")

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.write_bytes(tmp_path / "file", b"new")
    monkeypatch.undo()
    assert (tmp_path / "file").read_bytes() == b"old"
    assert everything_in(tmp_path) == ["file"]


def test_folders_and_devices_are_never_renamed_over(tmp_path: Path) -> None:
    for target in (tmp_path, Path(os.devnull)):
        with pytest.raises(OutputError, match="which is"):
            files.write_bytes(target, b"x")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)
    assert everything_in(tmp_path) == []


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    files.write_bytes(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OutputError, match="cannot be written"):
        files.write_bytes(tmp_path / "file" / "below", b"x")
    with (
        pytest.raises(OutputError, match="cannot be written"),
        files.staged_folder(tmp_path / "file" / "below"),
    ):
        pass


def test_a_place_without_permission_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(OutputError, match="Permission denied"):
        files.write_bytes(tmp_path / "new" / "file", b"x")
    assert everything_in(tmp_path) == []


def test_json_is_readable_and_has_no_nan(tmp_path: Path) -> None:
    files.write_json(tmp_path / "file", {"a": [1, "\u00e9"]})
    assert (tmp_path / "file").read_text().startswith('{\n  "a"')
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "file", float("nan"))
    assert everything_in(tmp_path) == ["file"]


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(data)
    assert files.sha256_file(tmp_path / "file") == hashlib.sha256(data).hexdigest()


# -- a folder -------------------------------------------------------------------------------------


def test_a_staged_folder_appears_whole_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "bundle"
    with files.staged_folder(target) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_bytes(b"x")
        assert not target.exists()
        assert folder.parent == target.parent
    assert everything_in(tmp_path) == [
        "deep",
        "deep/bundle",
        "deep/bundle/sub",
        "deep/bundle/sub/file",
    ]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, ValueError, GeneratorExit])
def test_any_exception_in_the_block_removes_all(tmp_path: Path, kind: type[BaseException]) -> None:
    with pytest.raises(kind):
        build(tmp_path / "deep" / "bundle", failing(kind))
    assert everything_in(tmp_path) == []


def test_an_existing_destination_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "dangling").symlink_to("nowhere")
    before = everything_in(tmp_path)
    for name in ("folder", "file", "dangling"):
        with (
            pytest.raises(OutputExistsError, match="exists already"),
            files.staged_folder(tmp_path / name),
        ):
            pytest.fail("the block must not run")
    assert everything_in(tmp_path) == before


def test_a_destination_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(OutputExistsError):
        build(tmp_path / "bundle", lambda _: files.write_bytes(tmp_path / "bundle/theirs", b"x"))
    assert everything_in(tmp_path) == ["bundle", "bundle/theirs"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_in_the_block_is_told_and_cleaned_up(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(DiskFullError) as caught:
        build(tmp_path / "bundle", failing(error))
    assert caught.value.__cause__ is error
    assert caught.value.exit_code == 2
    assert everything_in(tmp_path) == []


def test_a_full_disk_while_flushing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DiskFullError):
        build(tmp_path / "bundle", lambda _: monkeypatch.setattr(os, "fsync", no_space))
    monkeypatch.undo()
    assert everything_in(tmp_path) == []


def test_a_real_size_limit_in_the_block_is_told(tmp_path: Path) -> None:
    with (
        file_size_limit(4096),
        pytest.raises(DiskFullError),
        files.staged_folder(tmp_path / "bundle") as folder,
    ):
        (folder / "file").write_bytes(b"x" * 100_000)
    assert everything_in(tmp_path) == []


def test_too_little_room_is_told_before_the_work(tmp_path: Path) -> None:
    with (
        pytest.raises(DiskFullError, match=r"needs 1000000\.0 TB"),
        files.staged_folder(tmp_path / "bundle", needed=10**18),
    ):
        pytest.fail("the block must not run")
    assert everything_in(tmp_path) == []


def test_other_errors_of_the_block_pass_unchanged(tmp_path: Path) -> None:
    error = PermissionError(errno.EACCES, "the block's own")
    with (
        pytest.raises(PermissionError) as caught,
        files.staged_folder(tmp_path / "bundle"),
    ):
        raise error
    assert caught.value is error


# -- replacing a folder ---------------------------------------------------------------------------


@pytest.fixture(params=["at once", "in steps"])
def exchange(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "in steps":
        monkeypatch.setattr(files, "_exchange_at_once", lambda one, other: False)
    return str(request.param)


@pytest.mark.usefixtures("exchange")
def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "art"
    for content in (b"old", b"new"):
        with files.staged_folder(target, replace=True) as folder:
            (folder / content.decode()).write_bytes(content)
            if content == b"new":
                assert everything_in(target) == ["old"]
    assert everything_in(tmp_path) == ["art", "art/new"]


@pytest.mark.usefixtures("exchange")
def test_an_interrupted_replacement_keeps_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "art"
    target.mkdir()
    (target / "old").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        build(target, failing(KeyboardInterrupt), replace=True)
    assert everything_in(tmp_path) == ["art", "art/old"]


@pytest.mark.parametrize("interrupted_at", [1, 2, 3])
def test_ctrl_c_between_the_renames_leaves_one_whole_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted_at: int
) -> None:
    target = tmp_path / "art"
    target.mkdir()
    (target / "old").write_bytes(b"old")
    rename, calls = Path.rename, 0

    def interrupted(self: Path, other: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == interrupted_at:
            raise KeyboardInterrupt
        return rename(self, other)

    monkeypatch.setattr(files, "_exchange_at_once", lambda one, other: False)
    with pytest.raises(KeyboardInterrupt):
        build(target, lambda _: monkeypatch.setattr(Path, "rename", interrupted), replace=True)
    kept = "new" if interrupted_at == 3 else "old"
    assert everything_in(tmp_path) == ["art", f"art/{kept}"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="depends on the system")
def test_this_system_replaces_in_one_step(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert files._exchange_at_once(tmp_path / "one", tmp_path / "other")
    assert everything_in(tmp_path) == ["one", "one/other", "other", "other/one"]


def test_a_file_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "art").write_bytes(b"x")
    with (
        pytest.raises(OutputExistsError),
        files.staged_folder(tmp_path / "art", replace=True),
    ):
        pytest.fail("the block must not run")
    assert (tmp_path / "art").read_bytes() == b"x"


# -- signals, for real ----------------------------------------------------------------------------

_SLOW_BUILD = """
import signal, sys, time
from engines.files import staged_folder
# A background job is started with SIGINT ignored; at a terminal it is not.
signal.signal(signal.SIGINT, signal.default_int_handler)
with staged_folder(sys.argv[1]) as folder:
    (folder / "graph").write_bytes(b"x" * 1000)
    print("begun", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_process_stopped_by_a_signal_leaves_no_destination(
    tmp_path: Path, number: signal.Signals
) -> None:
    target = tmp_path / "bundle"
    command = [sys.executable, "-c", _SLOW_BUILD, str(target)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.05)
        process.send_signal(number)
        process.wait(timeout=30)
    assert not target.exists()
    # Only a kill that cannot be caught leaves anything, and that is found again.
    assert len(files.partials_of(target)) == (number == signal.SIGKILL)
    assert len(everything_in(tmp_path)) == (2 if number == signal.SIGKILL else 0)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2 * 10**9, "2.0 GB")]
)
def test_sizes_are_told_for_people(count: int, text: str) -> None:
    assert files.size_text(count) == text


def test_a_removed_folder_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "file").write_text("x")
    files.remove_folder(folder)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutputError):
        files.remove_folder(folder)
