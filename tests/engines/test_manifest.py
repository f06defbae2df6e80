from __future__ import annotations

import dataclasses
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import BundleError
from engines.manifest import FileRecord, Manifest

WEIGHTS = "0a" * 32
SAMPLE = Manifest(
    base_model="demo",
    revision=None,
    weights_sha256=WEIGHTS,
    model_type="qwen3_5",
    engine="onnxruntime",
    precision="fp32",
    picture_size=256,
    max_length=2048,
    files=(
        FileRecord("onnx/vision_encoder.onnx", 12, "1b" * 32),
        FileRecord("onnx/embed_tokens.onnx", 0, "2c" * 32),
    ),
    toolchain={"torch": "2.13.0", "onnx": "1.23.0"},
)

hashes = st.text("0123456789abcdef", min_size=64, max_size=64)
parts = st.text("abcXYZ019._- \u00e9", min_size=1, max_size=8).filter(
    lambda part: part not in (".", "..")
)
paths = st.lists(parts, min_size=1, max_size=3).map("/".join)
records = st.builds(FileRecord, path=paths, bytes=st.integers(0, 2**70), sha256=hashes)
manifests = st.builds(
    Manifest,
    base_model=st.text(),
    revision=st.none() | st.text(),
    weights_sha256=hashes,
    model_type=st.text(),
    engine=st.text(),
    precision=st.text(),
    picture_size=st.integers(1, 4096),
    max_length=st.integers(1, 2**40),
    files=st.lists(
        records, min_size=1, max_size=4, unique_by=lambda item: item.path.casefold()
    ).map(tuple),
    toolchain=st.dictionaries(st.text(), st.text(), max_size=3),
)


def read(fields: Any) -> Manifest:
    return Manifest.from_json(json.dumps(fields), "b/manifest.json")


def fields() -> dict[str, Any]:
    loaded = json.loads(SAMPLE.to_json())
    assert isinstance(loaded, dict)
    return loaded


def refused(value: Any) -> BundleError:
    with pytest.raises(BundleError) as caught:
        read(value)
    assert caught.value.got.startswith("b/manifest.json")
    return caught.value


@given(manifests)
def test_what_is_written_is_read_back_equal(manifest: Manifest) -> None:
    text = manifest.to_json()
    assert Manifest.from_json(text, "here") == manifest
    assert Manifest.from_json(text.encode(), "here") == manifest
    assert pickle.loads(pickle.dumps(manifest)) == manifest


@given(manifests, st.integers(0, 10**6))
def test_a_manifest_cut_off_anywhere_is_refused(manifest: Manifest, where: int) -> None:
    text = manifest.to_json().rstrip()
    with pytest.raises(BundleError):
        Manifest.from_json(text[: where % len(text)], "here")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_other_json_is_refused(value: Any) -> None:
    refused(value)


@pytest.mark.parametrize("text", ["", "{", "\0", "[" * 100_000, "NaN", b"\xff\xfe\xff", "\ufeff{}"])
def test_what_is_no_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(BundleError, match=r"not valid JSON|not a JSON object"):
        Manifest.from_json(text, "b/manifest.json")


@pytest.mark.parametrize("foreign", [{}, {"manifest_version": 3, "name": "x"}, {"format": "gguf"}])
def test_the_manifest_of_something_else_is_told(foreign: dict[str, Any]) -> None:
    assert "not the manifest of an art-export bundle" in refused(foreign).got


def test_a_newer_schema_is_told_before_its_unknown_fields() -> None:
    error = refused({"format": "art-export-bundle", "schema": 2, "shape": "new"})
    assert "schema 2, newer" in error.got
    assert "upgrade" in error.fix


@pytest.mark.parametrize("schema", [0, -1, "1", 1.0, True, None])
def test_no_other_schema_is_read(schema: Any) -> None:
    refused({**fields(), "schema": schema})


@pytest.mark.parametrize("name", [*(f.name for f in dataclasses.fields(Manifest)), "format"])
def test_every_field_is_needed(name: str) -> None:
    left = fields()
    del left[name]
    error = refused(left)
    assert name in error.got or name == "format"


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Manifest)])
@pytest.mark.parametrize("bad", [True, 1.5, [1], {"a": 1}])
def test_every_field_has_its_type(name: str, bad: Any) -> None:
    assert name in refused({**fields(), name: bad}).got or name in ("files", "toolchain")


def test_unknown_fields_are_named() -> None:
    assert "'mood'" in refused({**fields(), "mood": "blue"}).got
    edited = fields()
    edited["files"][0]["mode"] = "0644"
    assert "'mode'" in refused(edited).got


def test_two_values_of_one_field_are_refused() -> None:
    text = SAMPLE.to_json().replace('"engine"', '"precision": "int4", "engine"')
    with pytest.raises(BundleError, match="occurs twice"):
        Manifest.from_json(text, "here")


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "..",
        "../weights",
        "onnx/../../weights",
        "onnx/..",
        "/etc/passwd",
        "./onnx/a",
        "onnx//a",
        "onnx/",
        "onnx/./a",
        "onnx\\..\\a",
        "C:/a",
        "a\0b",
        "a\nb",
        "a\x1b[31m",
        "\ud800",
        "manifest.json",
    ],
)
def test_paths_that_leave_the_bundle_or_have_a_second_spelling_are_refused(path: str) -> None:
    edited = fields()
    edited["files"][0]["path"] = path
    assert "is not inside the bundle" in refused(edited).got
    with pytest.raises(ValueError, match="is not inside the bundle"):
        FileRecord(path, 1, "1b" * 32)


@pytest.mark.parametrize("second", ["onnx/vision_encoder.onnx", "ONNX/Vision_Encoder.onnx"])
def test_a_file_listed_twice_is_refused(second: str) -> None:
    edited = fields()
    edited["files"][1]["path"] = second
    assert "listed twice" in refused(edited).got


@pytest.mark.parametrize(
    "change",
    [
        {"weights_sha256": "0A" * 32},
        {"weights_sha256": "0a" * 31},
        {"weights_sha256": "0a" * 32 + "\n"},
        {"picture_size": 0},
        {"max_length": -1},
        {"files": []},
        {"files": [{"path": "a", "bytes": -1, "sha256": "1b" * 32}]},
        {"files": [{"path": "a", "bytes": 1, "sha256": "xyz"}]},
        {"files": [{"path": "a", "bytes": 1}]},
        {"toolchain": {"torch": 2}},
    ],
)
def test_impossible_values_are_refused(change: dict[str, Any]) -> None:
    refused({**fields(), **change})


def test_the_graphs_have_one_hash_whatever_their_order() -> None:
    turned = dataclasses.replace(SAMPLE, files=SAMPLE.files[::-1])
    assert turned.graph_sha256 == SAMPLE.graph_sha256
    renamed = FileRecord("onnx/other.onnx", 12, "1b" * 32)
    changed = FileRecord("onnx/vision_encoder.onnx", 12, "3d" * 32)
    for record in (renamed, changed):
        other = dataclasses.replace(SAMPLE, files=(record, SAMPLE.files[1]))
        assert other.graph_sha256 != SAMPLE.graph_sha256
