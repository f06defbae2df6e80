from __future__ import annotations

import json
from pathlib import Path

import pytest

from art_export.cli.main import run
from tests.art_export.cli.conftest import Command


def test_verify_passes_and_fails(
    capsys: pytest.CaptureFixture[str], command: Command, bundle: Path, noise: Path
) -> None:
    command("swap", bundle, noise)
    found = command("verify", bundle, "--prompts", 2, "--task", "tools", "-n", 2)
    assert found["passed"] is True
    assert found["art"] == "noise"
    assert "accuracy, tools" in [check["name"] for check in found["checks"]]

    prefix = bundle / "arts" / "noise" / "prefix.safetensors"
    data = bytearray(prefix.read_bytes())
    data[-1] ^= 1
    prefix.write_bytes(data)
    assert run(["verify", str(bundle), "--prompts", "2"]) == 1
    captured = capsys.readouterr()
    assert "FAILED" in captured.out
    assert "verification failed: art" in captured.err


def test_verify_names_another_base_model(
    command: Command, bundle: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    other = tmp_path / "other"
    other.mkdir()
    for path in tiny_model_dir.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    weights = load_file(other / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] += 1
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    found = command("verify", bundle, "--model", other, "--prompts", 1, code=1)
    failed = [check["name"] for check in found["checks"] if not check["passed"]]
    assert failed == ["base model"]
    assert json.dumps(found)


def test_verify_suggests_an_art(command: Command, bundle: Path, noise: Path) -> None:
    command("swap", bundle, noise)
    assert "noise" in command("verify", bundle, "--art", "noisy", code=2)["error"]["fix"]
