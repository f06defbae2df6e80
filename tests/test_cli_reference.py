from __future__ import annotations

from art_export.cli.main import COMMANDS
from scripts.cli_reference import TARGET, reference


def test_the_reference_is_what_the_commands_say() -> None:
    written = TARGET.read_text(encoding="utf-8")
    assert written == reference(), "stale: run python -m scripts.cli_reference"


def test_every_command_and_its_options_are_there() -> None:
    made = reference()
    for name, text in COMMANDS.items():
        assert f"\n## {name}\n" in made
        assert text in made
    # Of a command below a command too, and with what click adds to the help.
    assert "\n### baseline lora\n" in made
    assert "| `--rank INTEGER` |" in made
    assert "[default: 500" in made
    assert "| `-h, --help`" not in made
