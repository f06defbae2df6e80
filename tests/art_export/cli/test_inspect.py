from __future__ import annotations

from pathlib import Path

import pytest

from art_export.cli.main import run
from tests.art_export.cli.conftest import Command


def test_inspect_bundle(
    capsys: pytest.CaptureFixture[str], command: Command, bundle: Path, noise: Path
) -> None:
    command("swap", bundle, noise)
    found = command("inspect", bundle)
    assert found["files_match"] is True
    assert found["manifest"]["picture_size"] == 64
    assert [art["name"] for art in found["arts"]] == ["noise"]
    assert run(["inspect", str(bundle)]) == 0
    text = capsys.readouterr().out
    assert "onnx/vision_encoder.onnx" in text
    assert "pictures: noise; in use: noise" in text


def test_inspect_notices_an_edited_graph(command: Command, bundle: Path) -> None:
    graph = bundle / "onnx" / "embed_tokens.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    error = command("inspect", bundle, code=2)["error"]
    assert error["kind"] == "BundleError"
    assert "embed_tokens.onnx" in error["got"]


def test_inspect_picture(capsys: pytest.CaptureFixture[str], command: Command, noise: Path) -> None:
    found = command("inspect", noise)
    assert (found["size"], found["provenance"]) == (64, None)
    assert found["notes"] == ["it carries no provenance"]
    assert run(["inspect", str(noise)]) == 0
    assert found["sha256"] in capsys.readouterr().out


@pytest.mark.parametrize(("name", "kind"), [("no.png", "PictureError"), ("no", "BundleError")])
def test_inspect_of_nothing(command: Command, tmp_path: Path, name: str, kind: str) -> None:
    assert command("inspect", tmp_path / name, code=2)["error"]["kind"] == kind
