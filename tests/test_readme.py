"""Every command in README.md exists: parsed by the command line itself, and run where it is cheap.

Commands stand in ```sh and ```console blocks; in the latter only lines that begin with `$ `.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest

from art_export.cli.main import COMMANDS, cli, run

ROOT = Path(__file__).parent.parent
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/adding-a-family.md",
    "docs/ecosystem.md",
    "docs/engines.md",
    "docs/training.md",
    "docs/vllm.md",
)
BLOCK = re.compile(r"^```(sh|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CHEAP = {"--help", "-h", "--version"}


def command_lines(document: str) -> list[list[str]]:
    """Every command as words, without its comment, prompt sign and settings of the environment."""
    lines = []
    for kind, text in BLOCK.findall((ROOT / document).read_text(encoding="utf-8")):
        for line in text.replace("\\\n", " ").splitlines():
            if kind == "console" and not line.startswith("$ "):
                continue
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            lines += [words] if words else []
    return lines


ALL = [words for document in DOCUMENTS for words in command_lines(document)]
OURS = [words[1:] for words in ALL if Path(words[0]).name == "art-export"]
MAKE = sorted({" ".join(words) for words in ALL if words[0] == "make"})


def test_the_readme_has_the_two_commands() -> None:
    lines = command_lines("README.md")
    assert ["make", "demo"] in lines
    assert ["make", "test"] in lines


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_art_export_takes_this_line(words: list[str]) -> None:
    if CHEAP & set(words):
        assert run(words) == 0
        return
    group = click.Context(cli, info_name="art-export")
    name, command, rest = cli.resolve_command(group, words)
    assert command is not None
    # Parses arguments and options and runs nothing.
    command.make_context(name, rest, parent=group)


@pytest.mark.parametrize("line", MAKE)
def test_make_knows_this_target(line: str) -> None:
    dry = [*line.split(), "--dry-run"]
    done = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in re.findall(r"\b([A-Z_]+)=", line):
        assert re.search(rf"^{name} \?=", makefile, re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_linked_files_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)", text) + re.findall(r'<img[^>]*src="([^"]+)"', text)
    here = (ROOT / document).parent
    missing = [link for link in links if "://" not in link and not (here / link).exists()]
    assert not missing


def test_every_command_is_shown() -> None:
    shown = {words[0] for words in OURS if words}
    assert set(COMMANDS) <= shown
