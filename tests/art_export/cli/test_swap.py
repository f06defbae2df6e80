from __future__ import annotations

from pathlib import Path

import pytest

from art_export.cli.main import run
from tests.art_export.cli.conftest import Command


def test_swap_is_named_after_the_file_and_takes_effect(
    command: Command, bundle: Path, noise: Path
) -> None:
    found = command("swap", bundle, noise)
    assert (found["name"], found["previous"]) == ("noise", None)
    assert found["change"]["max_logit_difference"] > 0
    assert command("list", bundle)["active"] == "noise"
    again = command("swap", bundle, noise, "--name", "twin")
    assert again["change"]["same_picture"] is True


def test_swap_prints_stages_and_warns(
    capsys: pytest.CaptureFixture[str], bundle: Path, noise: Path
) -> None:
    assert run(["swap", str(bundle), str(noise)]) == 0
    captured = capsys.readouterr()
    assert "prefill" in captured.out
    assert "unchanged (sha256, or untouched since)" in captured.out
    assert "warning: this picture does not say which model" in captured.err


def test_a_bad_swap_changes_nothing(command: Command, bundle: Path, noise: Path) -> None:
    command("swap", bundle, noise)
    noise.write_bytes(noise.read_bytes()[:300])
    error = command("swap", bundle, noise, "--name", "other", code=2)["error"]
    assert error["kind"] == "PictureError"
    assert command("swap", bundle, noise, "--name", "none", code=2)["error"]["kind"]
    listed = command("list", bundle)
    assert [art["name"] for art in listed["arts"]] == ["noise"]
    assert listed["active"] == "noise"
