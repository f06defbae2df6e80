"""A bundle on disk: the compiled model, read and checked, and the arts that were swapped into it.

The graph files are written once and never again; arts come and go beside them. An art is a picture
with the prefix state that these very graphs computed from it, and it is read only while all the
hashes that tie the two together still hold.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from engines import files
from engines.errors import BundleError, OptionError, PictureError
from engines.manifest import MANIFEST_NAME, FileRecord, Manifest, edited, parse_object
from engines.names import choose
from engines.picture import Picture, encode_picture, load_picture

ARTS, ACTIVE_NAME = "arts", "active.json"
PICTURE_NAME, PREFIX_NAME, ART_NAME = "art.png", "prefix.safetensors", "art.json"
NO_ART = "none"
Signature = tuple[tuple[int, ...] | None, ...]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ART_SCHEMA = 2
_LISTED_AT_MOST = 5
_BUILD = "build it with: art-export build MODEL -o BUNDLE"
_SWAP = "swap a picture in again: art-export swap BUNDLE ART.png"
_REBUILD = "build the bundle again with art-export build, or fetch a whole copy"


@dataclass(frozen=True)
class ArtRecord:
    """One art of a bundle, checked when it was read.

    Attributes:
        name: its name in the bundle.
        picture: the adapter itself.
        prefix_path: file of the state that the model is in after header and picture.
        prefix: that file's content, mapped and hashed. A file that is replaced later is another.
        created: when it was swapped in, UTC, ISO 8601.
        info: whatever the writer added, as JSON.
    """

    name: str
    picture: Picture
    prefix_path: Path
    prefix: mmap
    created: str
    info: Mapping[str, Any]


@dataclass(frozen=True)
class BundleFolder:
    """A bundle whose manifest is sound and whose files are all there with their sizes.

    Attributes:
        path: the folder.
        manifest: what it was built from.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> BundleFolder:
        """Open a bundle, reading its manifest and looking at every file's size.

        Raises:
            BundleError: the folder is missing, is no bundle, was half-written, is of a newer
                version, or a file is missing or of another size; the message names it.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise _no_folder(folder)
        where = folder / MANIFEST_NAME
        if not where.is_file():
            raise _no_manifest(folder)
        bundle = cls(folder, Manifest.from_json(_read_bytes(where), str(where)))
        for record in bundle.manifest.files:
            bundle._check_size(record)
        return bundle

    def check_files(
        self, progress: Callable[[str, int, int], None] | None = None
    ) -> dict[str, str]:
        """Hash every graph file again and compare with the manifest.

        Args:
            progress: called with ("hash", files done, files in all).

        Returns:
            Path within the bundle -> sha256, for every file.

        Raises:
            BundleError: naming the files that are missing or were changed since the build.
        """
        found: dict[str, str] = {}
        for done, record in enumerate(self.manifest.files):
            if progress is not None:
                progress("hash", done, len(self.manifest.files))
            self._check_size(record)
            found[record.path] = files.sha256_file(self.path / record.path)
        wrong = [item.path for item in self.manifest.files if found[item.path] != item.sha256]
        if wrong:
            raise _file_trouble(f"{self._names(wrong)}: changed since the build (other sha256)")
        if progress is not None:
            progress("hash", len(found), len(found))
        return found

    # -- arts -------------------------------------------------------------------------------------

    def art_names(self) -> list[str]:
        """Return the names of all arts, sorted. Unfinished or foreign folders are left out."""
        folder = self.path / ARTS
        if not folder.is_dir():
            return []
        return sorted(
            entry.name
            for entry in folder.iterdir()
            if _NAME.fullmatch(entry.name) and (entry / ART_NAME).is_file()
        )

    def active(self) -> str | None:
        """Return the name of the art in use, or None where none is.

        Raises:
            BundleError: active.json was edited, or names an art that is gone.
        """
        where = self.path / ACTIVE_NAME
        if not where.exists():
            return None
        fields = parse_object(_read_bytes(where), str(where), _SWAP)
        name = fields.get("art", "")
        if name is None:
            return None
        if not isinstance(name, str) or name not in self.art_names():
            raise BundleError(
                got=f"{where}: it names the art {name!r}, which is not in the bundle",
                expected=f"one of: {', '.join(self.art_names()) or 'no art'}",
                fix=_SWAP,
            )
        return name

    def set_active(self, name: str | None) -> None:
        """Put an art in use, or none, in one step: a reader sees the old choice or the new.

        Raises:
            OptionError: there is no such art.
            OutputError: the bundle cannot be written.
        """
        if name is not None:
            choose("art", name, self.art_names())
        files.write_json(self.path / ACTIVE_NAME, {"art": name})

    def art_signature(self, name: str) -> Signature:
        """What changes whenever a file of an art is replaced or edited: inodes, sizes and times.

        Raises:
            OptionError: there is no such art; the message suggests one.
        """
        folder = self.path / ARTS / choose("art", name, self.art_names())
        return tuple(signature_of(folder / part) for part in (ART_NAME, PICTURE_NAME, PREFIX_NAME))

    def prefix_path(self, name: str) -> Path:
        """Where the prefix state of an art lies."""
        return self.path / ARTS / name / PREFIX_NAME

    def remove_art(self, name: str) -> None:
        """Remove an art, in one step as a reader sees it; one in use is put out of use first.

        Raises:
            OptionError: there is no such art.
            OutputError: the bundle cannot be written.
        """
        folder = self.path / ARTS / choose("art", name, self.art_names())
        if self.active() == name:
            self.set_active(None)
        files.remove_folder(folder)

    def write_art(
        self, name: str, picture: Picture, prefix: bytes, info: Mapping[str, Any] | None = None
    ) -> None:
        """Add an art, or replace the one of that name in one step; it is not put in use.

        Args:
            name: letters, digits, dots, hyphens and underscores, 64 at most; not "none".
            picture: of the bundle's size.
            prefix: content of prefix.safetensors, as these graphs computed it.
            info: whatever else to keep, as JSON values.

        Raises:
            OptionError: the name is not allowed.
            PictureError: the picture is of another size.
            OutputError: there is no room, or no permission; an older art of that name is intact.
        """
        check_art_name(name)
        self.check_picture_size(picture)
        created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        digest = hashlib.sha256(prefix).hexdigest()
        facts = {
            "schema": _ART_SCHEMA,
            "picture_sha256": picture.sha256,
            "prefix_sha256": digest,
            "prefix_bytes": len(prefix),
            "weights_sha256": self.manifest.weights_sha256,
            "graph_sha256": self.manifest.graph_sha256,
            "created": created,
            "info": dict(info or {}),
        }
        target = self.path / ARTS / name
        with files.staged_folder(target, replace=True) as folder:
            # Plain writes: the folder is flushed to the disk once, when it is whole.
            png = encode_picture(picture.pixels, picture.provenance)
            (folder / PICTURE_NAME).write_bytes(png)
            (folder / PREFIX_NAME).write_bytes(prefix)
            (folder / ART_NAME).write_text(json.dumps(facts, indent=2, allow_nan=False) + "\n")

    def read_art(self, name: str) -> ArtRecord:
        """Read an art and check that picture, prefix and graphs still belong together.

        Raises:
            OptionError: there is no such art; the message suggests one.
            BundleError: a file of it is missing or was edited, or the prefix state was computed by
                other graphs or from another picture.
        """
        folder = self.path / ARTS / choose("art", name, self.art_names())
        try:
            return self._read_art(folder)
        except BundleError:
            # Another process may have replaced the art between two of the reads; if it has, the
            # second try meets the new one whole, and if not, the error comes again.
            return self._read_art(folder)

    def _read_art(self, folder: Path) -> ArtRecord:
        where = folder / ART_NAME
        facts = parse_object(_read_bytes(where), str(where), _SWAP)
        if facts.get("schema") != _ART_SCHEMA:
            raise _stale(folder.name, f"its {ART_NAME} was written by another version")
        for key, wanted in (("created", str), ("info", dict), ("prefix_bytes", int)):
            if type(facts.get(key)) is not wanted:
                raise edited(str(where), f"{key!r} is missing or of a wrong type", _SWAP)
        for key in ("weights_sha256", "graph_sha256"):
            if facts.get(key) != getattr(self.manifest, key):
                raise _stale(folder.name, f"its prefix state was computed with another {key}")
        try:
            picture = load_picture(folder / PICTURE_NAME, self.manifest.picture_size)
        except PictureError as error:
            raise _stale(folder.name, f"its picture is unusable: {error.got}") from error
        if picture.sha256 != facts.get("picture_sha256"):
            raise _stale(folder.name, f"its {PICTURE_NAME} is not the picture of its prefix state")
        where = folder / PREFIX_NAME
        prefix = _checked_prefix(folder.name, where, facts)
        return ArtRecord(folder.name, picture, where, prefix, facts["created"], facts["info"])

    # -- checks -----------------------------------------------------------------------------------

    def _check_size(self, record: FileRecord) -> None:
        path = self.path / record.path
        if not path.is_file():
            raise _file_trouble(f"{path}: missing")
        size = path.stat().st_size
        if size != record.bytes:
            raise _file_trouble(f"{path}: {size:,} bytes, and {record.bytes:,} when it was built")

    def check_picture_size(self, picture: Picture) -> None:
        size = self.manifest.picture_size
        if picture.size != size:
            raise PictureError(
                got=f"a picture of {picture.size}x{picture.size} pixels",
                expected=f"{size}x{size}, which this bundle was built for",
                fix=f"train at --size {size}, or build a bundle with --size {picture.size}",
            )

    def _names(self, paths: list[str]) -> str:
        more = len(paths) - _LISTED_AT_MOST
        shown = ", ".join(str(self.path / path) for path in paths[:_LISTED_AT_MOST])
        return shown + (f" and {more} more" if more > 0 else "")


def check_art_name(name: str) -> str:
    """Return `name` if an art may be called so.

    Raises:
        OptionError: it is reserved, too long, or could be mistaken for a path or an option.
    """
    if not _NAME.fullmatch(name) or name.casefold() == NO_ART:
        raise OptionError(
            got=f"the art name {name!r}",
            expected="1 to 64 letters, digits, '.', '_' and '-', beginning with a letter or digit, "
            f"other than {NO_ART!r}, which stands for no picture",
            fix="give another name with --name",
        )
    return name


def signature_of(path: Path) -> tuple[int, ...] | None:
    """What changes whenever a file is replaced or edited: inode, size and times, the last of them
    that of its last change in nanoseconds; None where there is no file."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


# -- messages -------------------------------------------------------------------------------------


def map_file(path: Path) -> mmap:
    """A file's content, read-only, in memory that is the system's cache of the disk.

    Raises:
        BundleError: it is gone, empty, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            return mmap(file.fileno(), 0, access=ACCESS_READ)
    except (OSError, ValueError) as error:
        raise _file_trouble(f"{path}: {error}") from error


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _file_trouble(f"{path}: {error.strerror or error}") from error


def _checked_prefix(name: str, path: Path, facts: Mapping[str, Any]) -> mmap:
    """The file's content, hashed where it is mapped: what replaces the file changes none of it."""
    if not path.is_file():
        raise _stale(name, f"its {PREFIX_NAME} is missing")
    size = path.stat().st_size
    if size != facts["prefix_bytes"]:
        raise _stale(name, f"its {PREFIX_NAME} has {size:,} of {facts['prefix_bytes']:,} bytes")
    data = map_file(path)
    if hashlib.sha256(data).hexdigest() != facts.get("prefix_sha256"):
        raise _stale(name, f"its {PREFIX_NAME} was changed after it was computed")
    return data


def _no_folder(folder: Path) -> BundleError:
    left = files.partials_of(folder)
    if left:
        return _half_written(folder, f"only {left[0]} of it is there")
    what = "which is a file" if folder.exists() else "which does not exist"
    return BundleError(
        got=f"the bundle {folder}, {what}", expected="the folder of a bundle", fix=_BUILD
    )


def _no_manifest(folder: Path) -> BundleError:
    if (folder / "onnx").is_dir() or ".partial-" in folder.name:
        return _half_written(folder, f"it has no {MANIFEST_NAME}, which is written last")
    what = f"a folder without {MANIFEST_NAME}"
    if (folder / "config.json").is_file():
        what = "a model folder, not yet built into a bundle"
    return BundleError(got=f"{folder}: {what}", expected="the folder of a bundle", fix=_BUILD)


def _half_written(folder: Path, why: str) -> BundleError:
    return BundleError(
        got=f"{folder}: a half-written bundle ({why})",
        expected="a bundle whose build had ended",
        fix="remove what is left, then build it again with art-export build",
    )


def _file_trouble(what: str) -> BundleError:
    return BundleError(got=what, expected="every file of the bundle as it was built", fix=_REBUILD)


def _stale(name: str, what: str) -> BundleError:
    return BundleError(
        got=f"the art {name!r}: {what}",
        expected="picture, prefix state and graphs that belong together",
        fix=f"swap the picture in again: art-export swap BUNDLE ART.png --name {name}",
    )
