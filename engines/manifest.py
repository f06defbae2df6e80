"""The bundle's manifest: what it was built from, and size and hash of every graph file.

It is written last, so that its presence says that the build had ended; and read strictly, so that
a manifest from elsewhere, from a newer version or edited by hand is told apart from ours.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any, TypeVar

from engines.errors import BundleError

MANIFEST_NAME = "manifest.json"
SCHEMA = 1
FORMAT = "art-export-bundle"
_HEX_SHA256 = re.compile(r"[0-9a-f]{64}")
_REBUILD = "build the bundle again with art-export build, or fetch an unedited copy"
_UPGRADE = "upgrade art-export, or build the bundle again with this version"

# Characters of a wrong value that a message shows.
_SHOWN = 60

T = TypeVar("T")


@dataclass(frozen=True)
class FileRecord:
    """One file of the bundle.

    Attributes:
        path: relative to the bundle, with forward slashes.
        bytes: its size.
        sha256: of its content, 64 lower-case hex digits.
    """

    path: str
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        """Refuse, with ValueError, a path that leaves the bundle and impossible numbers."""
        _check(_stays_inside(self.path), f"file path {self.path!r} is not inside the bundle")
        _check(self.bytes >= 0, f"{self.path} has {self.bytes} bytes")
        _check(bool(_HEX_SHA256.fullmatch(self.sha256)), f"sha256 of {self.path} is malformed")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bundle is. Making one with impossible values raises ValueError.

    Attributes:
        base_model: name of the model as it was given to build.
        revision: its commit on the hub, or None for a folder.
        weights_sha256: of the untouched base model's weights.
        model_type: its family, as in config.json.
        engine: name of the engine that the graphs were compiled for.
        precision: of weights and arithmetic: "fp32".
        picture_size: pixels a side that every picture must have.
        max_length: most tokens that a sequence may have, picture and answer included.
        files: every graph file; none occurs twice.
        toolchain: package name -> version that it was built with.
        target: what the engine's files are tied to, such as a GPU or a version of its runtime.
        schema: version of this file's form.
    """

    base_model: str
    revision: str | None
    weights_sha256: str
    model_type: str
    engine: str
    precision: str
    picture_size: int
    max_length: int
    files: tuple[FileRecord, ...]
    toolchain: Mapping[str, str]
    target: Mapping[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Check what types alone do not say."""
        _check(self.schema == SCHEMA, f"schema {self.schema}")
        _check(bool(_HEX_SHA256.fullmatch(self.weights_sha256)), "weights_sha256 is malformed")
        _check(self.picture_size > 0, f"picture_size {self.picture_size}")
        _check(self.max_length > 0, f"max_length {self.max_length}")
        _check(bool(self.files), "no files are listed")
        # Folded: on a disk that ignores case, two such files would be one.
        paths = [record.path.casefold() for record in self.files]
        _check(len(set(paths)) == len(paths), "a file is listed twice")

    @property
    def graph_sha256(self) -> str:
        """One SHA-256, in hex, over path and hash of all files: the identity of the graphs."""
        lines = sorted(f"{record.sha256}  {record.path}\n" for record in self.files)
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest()

    def to_json(self) -> str:
        """Return the text of manifest.json; `from_json` gives an equal Manifest back."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> Manifest:
        """Read the text of a manifest.json; `where` names it in messages.

        Raises:
            BundleError: it is not JSON, not an art-export manifest, from a newer version, or a
                field is missing, unknown, of the wrong type or of an impossible value.
        """
        fields = dict(parse_object(text, where))
        if fields.pop("format", None) != FORMAT:
            raise _foreign(where)
        schema = _take(fields, "schema", int, where)
        if schema > SCHEMA:
            raise _newer(where, schema)
        revision = _take_optional(fields, "revision", str, where)
        try:
            manifest = cls(
                base_model=_take(fields, "base_model", str, where),
                revision=revision,
                weights_sha256=_take(fields, "weights_sha256", str, where),
                model_type=_take(fields, "model_type", str, where),
                engine=_take(fields, "engine", str, where),
                precision=_take(fields, "precision", str, where),
                picture_size=_take(fields, "picture_size", int, where),
                max_length=_take(fields, "max_length", int, where),
                files=tuple(_file(item, where) for item in _take(fields, "files", list, where)),
                toolchain=_texts(_take(fields, "toolchain", dict, where), "toolchain", where),
                target=_texts(_take(fields, "target", dict, where), "target", where),
                schema=schema,
            )
        except ValueError as error:
            raise edited(where, str(error)) from error
        _refuse_rest(fields, where)
        return manifest


def parse_object(text: str | bytes, where: str, fix: str = _REBUILD) -> dict[str, Any]:
    """Read a JSON object of a bundle; `where` names its file in messages, `fix` is their advice.

    Raises:
        BundleError: the text is cut off, is not JSON, or is not an object.
    """
    try:
        value = json.loads(text, object_pairs_hook=_no_doubles)
    except (ValueError, RecursionError) as error:
        raise edited(where, f"not valid JSON: {error}", fix) from error
    if not isinstance(value, dict):
        raise edited(where, "not a JSON object", fix)
    return value


def edited(where: str, what: str, fix: str = _REBUILD) -> BundleError:
    """The error for a file of a bundle that is not as art-export wrote it."""
    return BundleError(
        got=f"{where}: {what}",
        expected="the file as art-export wrote it, whole and unedited",
        fix=fix,
    )


# -- reading, strictly ----------------------------------------------------------------------------


def _foreign(where: str) -> BundleError:
    return BundleError(
        got=f"{where}, which is not the manifest of an art-export bundle",
        expected=f'a manifest with "format": "{FORMAT}"',
        fix="give the folder that art-export build wrote",
    )


def _newer(where: str, schema: int) -> BundleError:
    return BundleError(
        got=f"{where}: a bundle of schema {schema}, newer than this program",
        expected=f"schema {SCHEMA}",
        fix=_UPGRADE,
    )


def _take(fields: dict[str, Any], name: str, kind: type[T], where: str) -> T:
    """Remove and return a field of exactly that type: JSON's true is no int here."""
    if name not in fields:
        raise edited(where, f"the field {name!r} is missing")
    value = fields.pop(name)
    if type(value) is not kind:
        raise edited(where, f"{name!r} is {_short(value)}, which is no {kind.__name__}")
    return value


def _take_optional(fields: dict[str, Any], name: str, kind: type[T], where: str) -> T | None:
    """As `_take`, for a field that must be there and may be null."""
    if fields.get(name, "") is None:
        del fields[name]
        return None
    return _take(fields, name, kind, where)


def _file(item: Any, where: str) -> FileRecord:
    if not isinstance(item, dict):
        raise edited(where, f"'files' lists {_short(item)}")
    fields = dict(item)
    record = FileRecord(
        path=_take(fields, "path", str, where),
        bytes=_take(fields, "bytes", int, where),
        sha256=_take(fields, "sha256", str, where),
    )
    _refuse_rest(fields, where)
    return record


def _texts(value: dict[str, Any], field_name: str, where: str) -> dict[str, str]:
    for name, text in value.items():
        if not isinstance(text, str):
            raise edited(where, f"{name!r} of {field_name!r} is {_short(text)}")
    return value


def _refuse_rest(fields: Mapping[str, Any], where: str) -> None:
    if fields:
        names = ", ".join(repr(name) for name in sorted(fields))
        raise edited(where, f"unknown fields: {names}")


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two values under one name would let two readers see different manifests."""
    fields = dict(pairs)
    _check(len(fields) == len(pairs), "a field occurs twice")
    return fields


def _stays_inside(path: str) -> bool:
    """Whether a path is relative, plain and below the bundle, on every system."""
    return (
        path.isprintable()
        and not any(letter in path for letter in ("\\", ":"))
        and path != MANIFEST_NAME
        and path not in ("", ".")
        and not path.startswith("/")
        and ".." not in PurePosixPath(path).parts
        # "a//b", "a/" and "./a" are second spellings of another path.
        and str(PurePosixPath(path)) == path
    )


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
