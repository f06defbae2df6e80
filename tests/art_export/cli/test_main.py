from __future__ import annotations

import errno
import json
import resource
import subprocess
import sys

import click
import pytest

from art_export import __version__
from art_export.cli import main
from engines.errors import CheckFailed, PictureError

HEAVY = ("numpy", "torch", "transformers", "onnx", "onnxruntime", "optimum", "peft", "PIL")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """A command `list` that raises what the test puts into the list."""
    to_raise: list[BaseException] = []

    @click.command()
    @click.option("--json", "as_json", is_flag=True)
    def command(as_json: bool) -> None:
        raise to_raise[0]

    monkeypatch.setattr(main.LazyGroup, "get_command", lambda self, ctx, name: command)
    return to_raise


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from art_export.cli.main import run\n"
        "code = run(['--help'])\n"
        f"heavy = sorted(set({HEAVY!r}) & set(sys.modules))\n"
        "print('heavy:', heavy)\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "heavy: []" in done.stdout
    for name, text in main.COMMANDS.items():
        assert name in done.stdout
        assert text in done.stdout


def test_help_answers_in_half_a_second() -> None:
    command = [sys.executable, "-m", "art_export.cli.main", "--help"]

    def cost() -> float:
        """Processor seconds of one run: what else the machine does is not what is measured."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(cost() for _ in range(3)) < 0.5


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_has_help_an_example_and_json(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Example:" in text
    assert f"art-export {name}" in text
    assert "--json" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


def test_no_command_shows_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([]) == 2
    assert "Commands:" in capsys.readouterr().err


def test_unknown_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["swop", "bundle"]) == 2
    assert "did you mean 'swap'" in capsys.readouterr().err


def test_unknown_option_is_a_usage_error_in_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["list", "bundle", "--jsn"]) == 2
    assert "--jsn" in capsys.readouterr().err
    assert main.run(["list", "bundle", "--sise", "--json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"]["kind"] == "UsageError"


def test_user_error(failing: list[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    failing.append(PictureError(got="a cat", expected="a PNG", fix="give a PNG"))
    assert main.run(["list"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "a cat" in captured.err
    assert "Traceback" not in captured.err


def test_user_error_as_json(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(PictureError(got="a cat", expected="a PNG", fix="give a PNG"))
    assert main.run(["list", "--json"]) == 2
    captured = capsys.readouterr()
    error = json.loads(captured.out)["error"]
    assert error["kind"] == "PictureError"
    assert (error["got"], error["expected"], error["fix"]) == ("a cat", "a PNG", "give a PNG")
    assert error["exit_code"] == 2
    assert "a cat" in captured.err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (CheckFailed("logits differ by 2"), 1, "logits differ by 2"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.EACCES, "Permission denied", "/locked"), 2, "/locked: Permission denied"),
        (RuntimeError("two\nlines"), 1, "unexpected RuntimeError: two lines; run with art-export"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_errors_are_one_line_each(
    failing: list[BaseException],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    text: str,
) -> None:
    failing.append(error)
    assert main.run(["list"]) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert text in lines[0]


def test_traceback_on_request(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(RuntimeError("boom"))
    assert main.run(["--traceback", "list"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err
