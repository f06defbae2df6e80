from __future__ import annotations

from pathlib import Path

import pytest

from art_export.cli.main import run
from tests.art_export.cli.conftest import Command


def test_list_of_nothing_says_how_to_add(
    capsys: pytest.CaptureFixture[str], command: Command, bundle: Path
) -> None:
    assert command("list", bundle) == {"bundle": str(bundle), "active": None, "arts": []}
    assert run(["list", str(bundle)]) == 0
    assert "art-export swap" in capsys.readouterr().out


def test_list_stars_the_one_in_use(
    capsys: pytest.CaptureFixture[str], command: Command, bundle: Path, noise: Path
) -> None:
    command("swap", bundle, noise, "--name", "first")
    command("swap", bundle, noise, "--name", "second")
    assert [art["active"] for art in command("list", bundle)["arts"]] == [False, True]
    assert run(["list", str(bundle)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines if "second" in line] == [["*", "second"]]


def test_list_of_no_bundle(command: Command, tmp_path: Path) -> None:
    assert command("list", tmp_path / "nothing", code=2)["error"]["kind"] == "BundleError"
