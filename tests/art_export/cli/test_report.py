from __future__ import annotations

from pathlib import Path

import pytest

from art_export.cli.main import run
from tests.art_export.cli.conftest import Command
from tests.art_export.report.samples import bench, evaluated, verified, write, write_run


def test_report(command: Command, tmp_path: Path) -> None:
    found = command(
        *("report", tmp_path / "out.html", "--title", "mine"),
        *("--train", write_run(tmp_path / "run")),
        *("--verify", write(tmp_path / "v.json", verified())),
        *("--bench", write(tmp_path / "b.json", bench())),
        *("--eval", write(tmp_path / "e.json", evaluated())),
        *("--eval", write(tmp_path / "e2.json", evaluated(None, 0))),
    )
    assert found["out"] == str(tmp_path / "out.html")
    assert len(found["sections"]) == 7
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert "<title>mine</title>" in page
    assert found["bytes"] == len(page.encode())


def test_report_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verify = write(tmp_path / "v.json", verified())
    assert run(["report", str(tmp_path / "out.html"), "--verify", str(verify)]) == 0
    assert "Parity with PyTorch" in capsys.readouterr().out


def test_errors_are_the_users(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    assert command("report", out, code=2)["error"]["kind"] == "OptionError"
    broken = tmp_path / "broken.json"
    broken.write_text('{"kind": "bench"')
    error = command("report", out, "--bench", broken, code=2)["error"]
    assert error["kind"] == "DataError"
    assert "broken.json" in error["got"]
    assert command("report", out, "--train", tmp_path, code=2)["error"]["kind"] == "DataError"
    assert not out.exists()
