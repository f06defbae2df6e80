"""What the documents say is held by what they document: links resolve, every command line of this
project is parsed by the command itself (behind `docker run`, `torchrun` and `optimum-cli` too), and
`art-export` in the README and the tutorial is run, on a tiny model.

Commands stand in ```sh and ```console blocks; in the latter only lines that begin with `$ `. Of
those within a sentence, `python -m` is looked at.
"""

from __future__ import annotations

import importlib
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import click
import optimum.commands.optimum_cli
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
STARTED_AS = ("art-export", "art_export.cli.main")
"""What stands before our arguments: the program, an image's name, or a module for torchrun."""
SPAN = re.compile(r"`(python -m (?:benchmarks|training)\.[^`]+)`")
THEIRS = {"pip", "curl"}
"""Programs that no test starts."""


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


def ours(words: list[str]) -> list[str] | None:
    """The arguments for `art-export` in a command line, or None if it does not start it."""
    words = redirected(words)[0]
    if words[:2] == ["docker", "run"]:
        return started_in_container(words[2:])
    if words[0] in ("torchrun", "accelerate"):
        return words[words.index(STARTED_AS[1]) + 1 :]
    return words[1:] if words[0] == STARTED_AS[0] else None


def started_in_container(words: list[str]) -> list[str]:
    """What `docker run` would give to the image's entry point; only these options are known."""
    options = [click.Option(["--rm"], is_flag=True), click.Option(["--gpus"])]
    options += [click.Option([name], multiple=True) for name in ("-e", "-p", "-v")]
    image = click.Argument(["image"])
    rest = click.Argument(["rest"], nargs=-1, type=click.UNPROCESSED)
    # What stands behind the image's name is not docker's, whatever it looks like.
    settings = {"allow_interspersed_args": False}
    run_command = click.Command("run", params=[*options, image, rest], context_settings=settings)
    parameters = run_command.make_context("run", words).params
    assert parameters["image"] == STARTED_AS[0]
    return list(parameters["rest"])


def modules_run(document: str) -> list[list[str]]:
    """Every `python -m benchmarks.X ...` or `training.X`, in blocks and within sentences."""
    text = (ROOT / document).read_text(encoding="utf-8")
    spans = [shlex.split(span) for span in SPAN.findall(FENCE.sub("", text))]
    known = [words for words in command_lines(document) if words[:2] == ["python", "-m"]]
    lines = [words[2:] for words in (*spans, *known) if words[2] != "pytest"]
    # One word alone names a program in a sentence.
    return [words for words in lines if len(words) > 1 or ["python", "-m", *words] in known]


ALL = [words for document in DOCUMENTS for words in command_lines(document)]
OURS = [found for words in ALL if (found := ours(words)) is not None]
MAKE = sorted({" ".join(words) for words in ALL if words[0] == "make"})
SCRIPTS = [words[1:] for words in ALL if words[0] == "python" and words[1].startswith("scripts/")]
OPTIMUM = sorted({shlex.join(words) for words in ALL if words[0] == "optimum-cli"})
MODULES = sorted({shlex.join(words) for document in DOCUMENTS for words in modules_run(document)})
SERVICES = [
    line
    for document in DOCUMENTS
    for kind, text in blocks(document)
    if kind == "yaml"
    for line in re.findall(r"^ +command: (.+)$", text, re.MULTILINE)
]
"""Commands of containers in compose files."""


def test_the_readme_has_the_two_commands() -> None:
    lines = command_lines("README.md")
    assert ["make", "demo"] in lines
    assert ["make", "test"] in lines


@pytest.mark.parametrize("line", sorted({*map(shlex.join, OURS), *SERVICES}))
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


@pytest.mark.parametrize("line", OPTIMUM)
def test_optimum_takes_this_line(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Optimum's own parser, and then that of `art-export build`, which it is handed to."""
    handed: list[str] = []
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    monkeypatch.setattr("art_export.optimum_command.main", lambda: handed.extend(sys.argv[1:]))
    optimum.commands.optimum_cli.main()
    assert handed[0] == "build"
    parse(cli, handed, click.Context(cli, info_name="art-export"))


@pytest.mark.parametrize("line", MODULES)
def test_the_module_takes_this_line(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, *words = shlex.split(line)
    # Files that a line reads are named from the folder of the repository.
    monkeypatch.chdir(ROOT)
    command = importlib.import_module(name).main
    assert isinstance(command, click.Command)
    command.make_context(name, words)


def test_docker_finds_what_it_builds() -> None:
    built = {shlex.join(words) for words in ALL if words[:2] == ["docker", "build"]}
    assert built == {"docker build -t art-export ."}
    assert (ROOT / "Dockerfile").is_file()


def test_pytest_finds_what_it_is_given() -> None:
    given = [words[3] for words in ALL if words[:3] == ["python", "-m", "pytest"]]
    assert given and all((ROOT / path).exists() for path in given)


@pytest.mark.parametrize("words", SCRIPTS, ids=shlex.join)
def test_a_script_takes_this_line(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    script = runpy.run_path(str(ROOT / words[0]))
    started: list[tuple[str, object]] = []
    main = script["main"]
    for name in ("install", "serve"):
        monkeypatch.setitem(
            main.__globals__, name, lambda env, *_, name=name: started.append((name, env))
        )
    assert main(words[1:]) == 0
    assert started == [(words[1], Path(words[2]))]


def test_no_line_is_looked_at_by_nobody() -> None:
    looked_at = {"make", "optimum-cli", "docker", "python"} | THEIRS
    unknown = [words for words in ALL if ours(words) is None and words[0] not in looked_at]
    assert unknown == []
    assert not [w for w in ALL if w[0] == "docker" and w[1] not in ("build", "run")]
    assert not [w for w in ALL if w[0] == "python" and w[1] != "-m" and w[1:] not in SCRIPTS]
    assert {words[0] for words in command_lines("README.md")}.isdisjoint(THEIRS)


def test_the_accuracy_table_is_what_its_command_prints() -> None:
    asked = [words for words in command_lines("README.md") if "benchmarks.table" in words]
    assert len(asked) == 1
    command = [sys.executable, *asked[0][1:]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    table, _, _ = done.stdout.partition("\n\n")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    header = table.splitlines()[0]
    assert text.count(header) == 1
    start = text.index(header)
    assert text[start : text.index("\n\n", start)] == table


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


def test_source_files_that_are_named_exist() -> None:
    there = [path.as_posix() for path in ROOT.rglob("*.py") if ".venv" not in path.parts]
    for document in DOCUMENTS:
        if document == "CONTRIBUTING.md":
            # It names a file that there is not to be.
            continue
        text = FENCE.sub("", (ROOT / document).read_text(encoding="utf-8"))
        named = re.findall(r"`(?:python )?([\w/]+\.py)`", text)
        assert [n for n in named if not any(p.endswith(f"/{n}") for p in there)] == [], document


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
