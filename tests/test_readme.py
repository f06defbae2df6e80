"""What the documents say is held by what they document: links resolve, every command line is parsed
by the command line itself, and those of the README and the tutorial are run, on a tiny model.

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
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
)
FOLLOWED = ("README.md", "docs/tutorial.md")
"""Documents whose commands are run from the first to the last."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CHEAP = {"--help", "-h", "--version"}
SHORTER = {
    "train": ("--steps", "2", "--examples", "8", "--validation-examples", "4", "--batch-size", "2"),
    "baseline": ("--steps", "2", "--examples", "8", "--validation-examples", "4"),
    "eval": ("-n", "4"),
    "verify": ("--prompts", "3", "-n", "2"),
}
"""Options that are put behind a command's own: the last one counts."""
NOT_RUN = {"serve": "it does not end", "demo": "a test of its own", "bench": "a test of its own"}
ELSEWHERE = ("://", "Qwen/", "--config", "--device cuda")
"""What marks a line that needs a network, a server, a GPU or a file of the reader's."""


def blocks(document: str) -> list[tuple[str, str]]:
    """(language, text) of every fenced block."""
    return FENCE.findall((ROOT / document).read_text(encoding="utf-8"))


def command_lines(document: str) -> list[list[str]]:
    """Every command of a document as words."""
    return [words for kind, text in blocks(document) for words in commands(kind, text)]


def commands(kind: str, text: str) -> list[list[str]]:
    """The commands of a block, without comments, prompt signs and settings of the environment."""
    if kind not in ("sh", "console"):
        return []
    lines, open_line = [], ""
    for line in text.replace("\\\n", " ").splitlines():
        if kind == "console" and not open_line and not line.startswith("$ "):
            continue
        open_line += line if open_line else line.removeprefix("$ ")
        try:
            words = shlex.split(open_line, comments=True)
        except ValueError:
            # A quotation that goes on in the next line.
            open_line += "\n"
            continue
        open_line = ""
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        lines += [words] if words else []
    return lines


def redirected(words: list[str]) -> tuple[list[str], str | None]:
    """A command without `> FILE`, and FILE."""
    if len(words) > 2 and words[-2] == ">":
        return words[:-2], words[-1]
    return words, None


ALL = [words for document in DOCUMENTS for words in command_lines(document)]
OURS = [redirected(words)[0][1:] for words in ALL if Path(words[0]).name == "art-export"]
MAKE = sorted({" ".join(words) for words in ALL if words[0] == "make"})


def test_the_readme_has_the_two_commands() -> None:
    lines = command_lines("README.md")
    assert ["make", "demo"] in lines
    assert ["make", "test"] in lines


@pytest.mark.parametrize("line", sorted({shlex.join(words) for words in OURS}))
def test_art_export_takes_this_line(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = shlex.split(line)
    # The one file that is read while options are parsed.
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text("model: demo\ntask: tools\n")
    if CHEAP & set(words):
        assert run(words) == 0
        return
    parse(cli, words, click.Context(cli, info_name="art-export"))


def parse(group: click.Group, words: list[str], context: click.Context) -> None:
    """Parse arguments and options, of commands below a command too, and run nothing."""
    name, command, rest = group.resolve_command(context, words)
    assert command is not None
    own = command.make_context(name, list(rest), parent=context)
    if isinstance(command, click.Group):
        parse(command, rest, own)


@pytest.mark.parametrize("line", MAKE)
def test_make_knows_this_target(line: str) -> None:
    dry = [*line.split(), "--dry-run"]
    done = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in re.findall(r"\b([A-Z_]+)=", line):
        assert re.search(rf"^{name} \?=", makefile, re.MULTILINE)


# -- following a document ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("document", FOLLOWED)
def test_a_reader_can_follow(
    document: str,
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    followed = 0
    for kind, text in blocks(document):
        if kind == "python":
            exec(compile(text, document, "exec"), {"__name__": "__main__"})
        for line in commands(kind, text):
            words, target = redirected(line)
            if not _is_run(words):
                continue
            asked = [str(tiny_model_dir) if word == "demo" else word for word in words[1:]]
            capsys.readouterr()
            code = run([*asked, *SHORTER.get(asked[0], ())])
            shown = capsys.readouterr()
            assert code == 0, f"{shlex.join(words)}: {shown.err}"
            if target is not None:
                Path(target).write_text(shown.out, encoding="utf-8")
            followed += 1
    assert followed >= 9


def _is_run(words: list[str]) -> bool:
    line = " ".join(words)
    ours = words[0] == "art-export" and words[1] not in NOT_RUN
    return ours and not any(mark in line for mark in ELSEWHERE)


# -- links ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_resolve(document: str) -> None:
    text = FENCE.sub("", (ROOT / document).read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)\s]+)", text) + re.findall(r'<img[^>]*src="([^"]+)"', text)
    here = (ROOT / document).parent
    inside = [link for link in links if "://" not in link]
    assert [link for link in inside if not _resolves(here, document, link)] == []


def _resolves(here: Path, document: str, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = here / path if path else ROOT / document
    if not target.exists():
        return False
    return not anchor or anchor in anchors(target.read_text(encoding="utf-8"))


def anchors(text: str) -> set[str]:
    """What GitHub makes of headings: small letters, hyphens for spaces, nothing else."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.strip().lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def test_the_index_names_every_document() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert sorted(page for page in pages if f"]({page})" not in index) == []


def test_every_command_is_shown() -> None:
    """Somewhere beside the reference, which is made from the commands."""
    shown = {
        words[1]
        for document in DOCUMENTS
        if document != "docs/cli.md"
        for words in command_lines(document)
        if words[0] == "art-export" and len(words) > 1
    }
    assert set(COMMANDS) - shown == set()
