from __future__ import annotations

from pathlib import Path

import pytest

from art_export.cli.main import run
from tests.art_export.cli.conftest import Command

PROMPT = "Wake me up at 07:30 on Monday."


def test_generate_uses_the_picture_in_use_unless_told(
    command: Command, bundle: Path, noise: Path
) -> None:
    assert command("generate", bundle, PROMPT)["art"] is None
    command("swap", bundle, noise)
    found = command("generate", bundle, PROMPT, "--max-new-tokens", 5)
    assert found["art"] == "noise"
    assert 0 < len(found["token_ids"]) <= 5
    assert command("generate", bundle, PROMPT, "--art", "none")["art"] is None


def test_generate_prints_the_answer_alone(capsys: pytest.CaptureFixture[str], bundle: Path) -> None:
    assert run(["generate", str(bundle), PROMPT, "--max-new-tokens", "1"]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) <= 2
    assert "stopped after 1 tokens" in captured.err


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ((PROMPT, "--art", "nose"), "OptionError"),
        ((" ",), "PromptError"),
        (("word " * 2000,), "PromptError"),
    ],
    ids=["unknown art", "empty prompt", "long prompt"],
)
def test_generate_refuses(
    command: Command, bundle: Path, noise: Path, arguments: tuple[str, ...], kind: str
) -> None:
    command("swap", bundle, noise)
    assert command("generate", bundle, *arguments, code=2)["error"]["kind"] == kind
