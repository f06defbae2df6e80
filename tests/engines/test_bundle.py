from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.bundle import BundleFolder, check_art_name
from engines.errors import BundleError, DiskFullError, OptionError, OutputError, PictureError
from engines.manifest import FileRecord, Manifest
from engines.picture import Picture, load_picture, save_picture
from tests.engines.test_manifest import SAMPLE
from tests.engines.test_provenance import SAMPLE as PROVENANCE

SIZE = 16
GRAPHS = {
    "onnx/vision_encoder.onnx": b"vision" * 100,
    "onnx/decoder_model_merged.onnx": b"decoder" * 100,
    "onnx/decoder_model_merged.onnx_data": bytes(5000),
}


def art(seed: int = 0, size: int = SIZE) -> Picture:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    return Picture(pixels, PROVENANCE)


def manifest(graphs: dict[str, bytes]) -> Manifest:
    files = tuple(
        FileRecord(path, len(data), hashlib.sha256(data).hexdigest())
        for path, data in graphs.items()
    )
    return dataclasses.replace(SAMPLE, files=files, picture_size=SIZE)


def write_bundle(path: Path, graphs: dict[str, bytes] = GRAPHS) -> Path:
    for name, data in graphs.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    (path / "manifest.json").write_text(manifest(graphs).to_json())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


@pytest.fixture
def bundle(folder: Path) -> BundleFolder:
    return BundleFolder.open(folder)


def tree(path: Path) -> dict[str, bytes]:
    return {
        str(item.relative_to(path)): item.read_bytes()
        for item in path.rglob("*.*")
        if item.is_file()
    }


def refused(path: Path) -> BundleError:
    with pytest.raises(BundleError) as caught:
        BundleFolder.open(path)
    return caught.value


# -- opening --------------------------------------------------------------------------------------


def test_a_whole_bundle_opens(folder: Path) -> None:
    bundle = BundleFolder.open(str(folder))
    assert bundle.manifest == manifest(GRAPHS)
    assert bundle.path == folder
    assert bundle.art_names() == []
    assert bundle.active() is None


def test_a_bundle_of_links_opens(folder: Path, tmp_path: Path) -> None:
    """As the hub's cache lays files out."""
    for name in GRAPHS:
        blob = tmp_path / hashlib.sha256(name.encode()).hexdigest()
        (folder / name).rename(blob)
        (folder / name).symlink_to(blob)
    assert len(BundleFolder.open(folder).check_files()) == len(GRAPHS)


def test_a_missing_folder_and_a_file_are_told(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "nowhere").got
    (tmp_path / "art.png").write_bytes(b"x")
    assert "which is a file" in refused(tmp_path / "art.png").got


def test_folders_that_are_no_bundles_are_told_apart(tmp_path: Path) -> None:
    assert "without manifest.json" in refused(tmp_path).got
    (tmp_path / "config.json").write_text("{}")
    error = refused(tmp_path)
    assert "a model folder" in error.got
    assert "art-export build" in error.fix


def test_a_half_written_bundle_is_told(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    assert "half-written" in refused(folder).got
    partial = folder.with_name(".other.partial-0123abcd")
    folder.rename(partial)
    assert "half-written" in refused(partial).got
    error = refused(folder.with_name("other"))
    assert "half-written" in error.got
    assert partial.name in error.got


@pytest.mark.parametrize("text", ["", '{"schema": 1', '{"name": "a web app"}', "\0\0\0"])
def test_a_broken_or_foreign_manifest_is_told(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    assert str(folder / "manifest.json") in refused(folder).got


def test_a_newer_bundle_asks_for_an_upgrade(folder: Path) -> None:
    fields = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**fields, "schema": 2}))
    assert "upgrade" in refused(folder).fix


@pytest.mark.parametrize("name", GRAPHS)
def test_a_missing_or_cut_off_file_is_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes(GRAPHS[name][:-1])
    error = refused(folder)
    assert name in error.got
    assert f"{len(GRAPHS[name]):,} when it was built" in error.got
    (folder / name).unlink()
    assert f"{name}: missing" in refused(folder).got


def test_a_manifest_that_points_outside_is_refused(folder: Path) -> None:
    (folder.parent / "secret").write_bytes(b"x")
    fields = json.loads((folder / "manifest.json").read_text())
    fields["files"][0] = {"path": "../secret", "bytes": 1, "sha256": "1b" * 32}
    (folder / "manifest.json").write_text(json.dumps(fields))
    assert "not inside the bundle" in refused(folder).got


def test_an_unreadable_manifest_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "read_bytes", denied)
    assert "Permission denied" in refused(folder).got


# -- hashes of the graphs -------------------------------------------------------------------------


def test_the_hashes_of_whole_files_are_returned(bundle: BundleFolder) -> None:
    seen: list[tuple[str, int, int]] = []
    found = bundle.check_files(lambda *step: seen.append(step))
    assert found == {name: hashlib.sha256(data).hexdigest() for name, data in GRAPHS.items()}
    assert seen == [("hash", done, 3) for done in range(4)]


@pytest.mark.parametrize("name", GRAPHS)
def test_one_changed_byte_is_found_and_named(bundle: BundleFolder, name: str) -> None:
    data = bytearray(GRAPHS[name])
    data[len(data) // 2] ^= 1
    (bundle.path / name).write_bytes(bytes(data))
    BundleFolder.open(bundle.path)  # sizes alone do not show it
    with pytest.raises(BundleError) as caught:
        bundle.check_files()
    assert str(bundle.path / name) in caught.value.got
    assert "other sha256" in caught.value.got


def test_all_changed_files_are_named_at_once(bundle: BundleFolder) -> None:
    for name, data in GRAPHS.items():
        (bundle.path / name).write_bytes(data[:-1] + b"!")
    with pytest.raises(BundleError) as caught:
        bundle.check_files()
    assert all(name in caught.value.got for name in GRAPHS)


def test_a_file_that_went_away_after_opening_is_named(bundle: BundleFolder) -> None:
    (bundle.path / "onnx/vision_encoder.onnx").unlink()
    with pytest.raises(BundleError, match="missing"):
        bundle.check_files()


# -- arts -----------------------------------------------------------------------------------------


def test_an_art_comes_back_as_it_was_written(bundle: BundleFolder) -> None:
    bundle.write_art("tools", art(), b"state", {"seconds": {"vision": 0.1}})
    read = bundle.read_art("tools")
    assert read.picture.sha256 == art().sha256
    assert read.picture.provenance == PROVENANCE
    assert read.prefix_path.read_bytes() == read.prefix[:] == b"state"
    assert read.info == {"seconds": {"vision": 0.1}}
    assert read.name == "tools"
    assert sorted(item.name for item in (bundle.path / "arts" / "tools").iterdir()) == [
        "art.json",
        "art.png",
        "prefix.safetensors",
    ]


def test_writing_an_art_touches_no_graph_and_activates_nothing(bundle: BundleFolder) -> None:
    before = tree(bundle.path)
    bundle.write_art("tools", art(), b"state")
    after = tree(bundle.path)
    assert {name: after[name] for name in before} == before
    assert bundle.active() is None


def test_arts_are_listed_in_order_and_nothing_else_is(bundle: BundleFolder) -> None:
    for name in ("tools", "a.1", "Maths_2"):
        bundle.write_art(name, art(), b"state")
    (bundle.path / "arts" / ".x.partial-0123").mkdir()
    (bundle.path / "arts" / "empty").mkdir()
    (bundle.path / "arts" / "note.txt").write_text("x")
    assert bundle.art_names() == ["Maths_2", "a.1", "tools"]


def test_an_unknown_art_is_answered_with_a_suggestion(bundle: BundleFolder) -> None:
    bundle.write_art("tools", art(), b"state")
    for attempt in (bundle.read_art, bundle.set_active):
        with pytest.raises(OptionError, match="did you mean 'tools'"):
            attempt("tool")
    with pytest.raises(OptionError):
        bundle.read_art("../../etc")


@pytest.mark.parametrize(
    "name", ["", "none", "None", ".hidden", "-o", "a/b", "..", "a b", "a\n", "x" * 65, "\u00e9"]
)
def test_names_that_could_be_mistaken_are_refused(bundle: BundleFolder, name: str) -> None:
    with pytest.raises(OptionError) as caught:
        bundle.write_art(name, art(), b"state")
    assert repr(name) in caught.value.got
    assert not (bundle.path / "arts").exists()


@pytest.mark.parametrize("name", ["a", "0", "A.b_c-1", "x" * 64, "none.2"])
def test_other_names_are_accepted(name: str) -> None:
    assert check_art_name(name) == name


def test_a_picture_of_another_size_is_refused(bundle: BundleFolder) -> None:
    with pytest.raises(PictureError) as caught:
        bundle.write_art("tools", art(size=8), b"state")
    assert "8x8" in caught.value.got
    assert "16x16" in caught.value.expected


def test_replacing_an_art_leaves_only_the_new_one(bundle: BundleFolder) -> None:
    bundle.write_art("tools", art(0), b"old")
    bundle.set_active("tools")
    bundle.write_art("tools", art(1), b"new")
    assert bundle.read_art("tools").prefix[:] == b"new"
    assert bundle.read_art("tools").picture.sha256 == art(1).sha256
    assert bundle.active() == "tools"
    assert [item.name for item in (bundle.path / "arts").iterdir()] == ["tools"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_replacement_that_fails_keeps_the_old_art(
    bundle: BundleFolder, monkeypatch: pytest.MonkeyPatch, error: BaseException, at: int
) -> None:
    bundle.write_art("tools", art(0), b"old")
    before = tree(bundle.path)
    fsync, calls = os.fsync, 0

    def failing(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise error
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    expected = DiskFullError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        bundle.write_art("tools", art(1), b"new")
    monkeypatch.undo()
    assert tree(bundle.path) == before
    assert bundle.read_art("tools").prefix[:] == b"old"
    assert [item.name for item in (bundle.path / "arts").iterdir()] == ["tools"]


def edit_json(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        fields = json.loads((folder / "art.json").read_text())
        (folder / "art.json").write_text(json.dumps({**fields, **changes}))

    return edit


def paint(folder: Path) -> None:
    save_picture(folder / "art.png", art(9).pixels, PROVENANCE)


def resize(folder: Path) -> None:
    save_picture(folder / "art.png", art(0, size=8).pixels, PROVENANCE)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda art: (art / "prefix.safetensors").write_bytes(b"stAte"), "prefix.safetensors"),
        (lambda art: (art / "prefix.safetensors").write_bytes(b"stat"), "4 of 5 bytes"),
        (lambda art: (art / "prefix.safetensors").unlink(), "prefix.safetensors is missing"),
        (lambda art: (art / "art.png").unlink(), "does not exist"),
        (lambda art: (art / "art.png").write_bytes(b"\x89PNG"), "damaged PNG"),
        (paint, "art.png is not the picture of its prefix state"),
        (resize, "8x8 pixels"),
        (lambda art: (art / "art.json").write_text("{"), "not valid JSON"),
        (edit_json(prefix_bytes="5"), "prefix_bytes"),
        (edit_json(info=None), "info"),
        (edit_json(created=0), "created"),
        (edit_json(schema=99), "another version"),
        (edit_json(picture_sha256=None), "art.png"),
        (edit_json(prefix_sha256=None), "prefix.safetensors"),
        (edit_json(graph_sha256="1b" * 32), "another graph_sha256"),
        (edit_json(weights_sha256="1b" * 32), "another weights_sha256"),
    ],
)
def test_an_edited_art_is_caught_and_named(
    bundle: BundleFolder, damage: Callable[[Path], object], told: str
) -> None:
    bundle.write_art("tools", art(), b"state")
    damage(bundle.path / "arts" / "tools")
    with pytest.raises(BundleError) as caught:
        bundle.read_art("tools")
    assert "tools" in caught.value.got
    assert told in caught.value.got
    assert "art-export swap" in caught.value.fix


def test_an_art_copied_from_another_bundle_is_stale(bundle: BundleFolder, tmp_path: Path) -> None:
    other = BundleFolder.open(write_bundle(tmp_path / "other", {"onnx/a.onnx": b"other"}))
    other.write_art("tools", art(), b"state")
    shutil.copytree(other.path / "arts", bundle.path / "arts")
    with pytest.raises(BundleError, match="computed with another graph_sha256"):
        bundle.read_art("tools")


def test_an_art_replaced_while_it_is_read_is_read_again(
    bundle: BundleFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle.write_art("tools", art(0), b"old")

    def swapped_meanwhile(path: Path, size: int) -> Picture:
        monkeypatch.undo()
        bundle.write_art("tools", art(1), b"new")
        return load_picture(path, size)

    monkeypatch.setattr("engines.bundle.load_picture", swapped_meanwhile)
    read = bundle.read_art("tools")
    assert read.picture.sha256 == art(1).sha256
    assert read.prefix[:] == b"new"


def test_what_was_read_stays_when_the_art_is_replaced(bundle: BundleFolder) -> None:
    bundle.write_art("tools", art(0), b"old")
    read = bundle.read_art("tools")
    bundle.write_art("tools", art(1), b"new")
    assert read.prefix[:] == b"old"


# -- the choice -----------------------------------------------------------------------------------


def test_the_choice_is_kept_and_taken_back(bundle: BundleFolder) -> None:
    bundle.write_art("tools", art(), b"state")
    bundle.set_active("tools")
    assert BundleFolder.open(bundle.path).active() == "tools"
    bundle.set_active(None)
    assert BundleFolder.open(bundle.path).active() is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"art": 3}', '{"art": "gone"}'])
def test_an_edited_choice_is_told(bundle: BundleFolder, text: str) -> None:
    (bundle.path / "active.json").write_text(text)
    with pytest.raises(BundleError) as caught:
        bundle.active()
    assert "active.json" in caught.value.got
    assert "art-export swap" in caught.value.fix


def test_a_full_disk_keeps_the_old_choice(
    bundle: BundleFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        bundle.write_art(name, art(), b"state")
    bundle.set_active("a")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DiskFullError):
        bundle.set_active("b")
    monkeypatch.undo()
    assert bundle.active() == "a"


def test_a_bundle_that_cannot_be_written_says_so(
    bundle: BundleFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(OutputError, match="Read-only file system"):
        bundle.write_art("tools", art(), b"state")


def test_a_removed_art_is_gone_and_out_of_use(bundle: BundleFolder) -> None:
    for name in ("one", "two"):
        bundle.write_art(name, art(), b"state")
    bundle.set_active("one")
    bundle.remove_art("two")
    assert bundle.active() == "one"
    bundle.remove_art("one")
    assert bundle.active() is None
    assert bundle.art_names() == []
    assert list((bundle.path / "arts").iterdir()) == []
    with pytest.raises(OptionError):
        bundle.remove_art("one")


def test_a_signature_changes_with_every_file_of_an_art(bundle: BundleFolder) -> None:
    bundle.write_art("one", art(), b"state")
    seen = {bundle.art_signature("one")}
    assert bundle.art_signature("one") in seen
    bundle.write_art("one", art(), b"state")
    seen.add(bundle.art_signature("one"))
    for path in sorted((bundle.path / "arts" / "one").iterdir()):
        path.unlink() if path.name != "art.json" else path.write_bytes(b"{}")
        seen.add(bundle.art_signature("one"))
    assert len(seen) == 5
    with pytest.raises(OptionError):
        bundle.art_signature("two")
