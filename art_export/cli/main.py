"""`art-export`: the group of commands, and the one place where errors become messages.

A command's module is imported when that command is chosen, and heavy packages inside its function,
so that `--help` answers at once.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType

import click

from art_export import __version__
from art_export.cli.output import print_json
from engines.errors import ArtExportError, UserError
from engines.names import choose

COMMANDS = {
    "train": "Train a picture that adapts a frozen model.",
    "baseline": "Train a LoRA or a soft prompt, to compare with.",
    "build": "Compile a model once into a bundle.",
    "swap": "Make a picture the bundle's adapter, without rebuilding.",
    "list": "List the pictures stored in a bundle.",
    "generate": "Answer a prompt with a bundle.",
    "serve": "Answer over HTTP with all pictures of a bundle.",
    "eval": "Score a bundle or a model on a task.",
    "verify": "Compare a bundle with PyTorch, stage by stage.",
    "inspect": "Show what a bundle or a picture is.",
    "report": "Write a page with pictures, curves, parity and costs.",
    "bench": "Measure what each kind of adapter costs, beside the others.",
    "demo": "Do all of it on the shipped model, and compare with LoRA.",
}
"""name -> one line of help; the command is `command` in the module art_export.cli.NAME."""

INTERRUPTED = 130
"""128 + SIGINT, what a shell reports for a program stopped by Ctrl-C."""
INTERRUPTED_TEXT = "interrupted; nothing half-written is left"


class LazyGroup(click.Group):
    """A group whose commands are imported when they are chosen, not when they are listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"art_export.cli.{cmd_name}").command
        if not isinstance(command, click.Command):
            raise TypeError(f"art_export.cli.{cmd_name}.command is no click command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not args[0].startswith("-"):
            choose("command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExample:\n  art-export build demo -o bundle\n  art-export swap bundle art.png",
)
@click.version_option(__version__, prog_name="art-export")
@click.option("--traceback", is_flag=True, expose_value=False, help="Show where an error arose.")
def cli() -> None:
    """Compile a frozen multimodal model once, then adapt it by swapping pictures.

    MODEL is `demo` (shipped with this package), a local Hugging Face folder or a hub id.
    """


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status; every error ends here.

    0 done, 1 a check failed or this program has a bug, 2 bad input, 130 interrupted.
    """
    try:
        code = cli.main(args=list(arguments), prog_name="art-export", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except (click.Abort, KeyboardInterrupt):
        return _report(arguments, "Interrupted", INTERRUPTED_TEXT, INTERRUPTED)
    except click.ClickException as error:
        return _report_usage(arguments, error)
    except ArtExportError as error:
        _show_traceback(arguments)
        kind, details = type(error).__name__, _details(error)
        return _report(arguments, kind, str(error), error.exit_code, **details)
    except OSError as error:
        _show_traceback(arguments)
        where = f"{error.filename}: " if error.filename else ""
        return _report(arguments, type(error).__name__, f"{where}{error.strerror or error}", 2)
    except Exception as error:
        return _report_bug(arguments, error)


def main() -> None:
    """The console script."""
    # Ended politely, as by Ctrl-C: what is half-written is removed on the way out.
    signal.signal(signal.SIGTERM, _terminate)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # It warns at every export that torchvision is not there, which nothing here needs.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(run(sys.argv[1:]))


def _terminate(signum: int, frame: FrameType | None) -> None:
    sys.exit(128 + signum)


def _details(error: ArtExportError) -> dict[str, str]:
    if not isinstance(error, UserError):
        return {}
    return {"got": error.got, "expected": error.expected, "fix": error.fix}


def _report_usage(arguments: Sequence[str], error: click.ClickException) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError) or not _wants_json(arguments):
        error.show()
        return error.exit_code
    return _report(arguments, "UsageError", error.format_message(), error.exit_code)


def _report_bug(arguments: Sequence[str], error: Exception) -> int:
    _show_traceback(arguments)
    kind = type(error).__name__
    text = " ".join(str(error).split())
    hint = "" if _wants_traceback(arguments) else "; run with art-export --traceback to see where"
    return _report(arguments, kind, f"unexpected {kind}: {text}{hint}", 1)


def _report(
    arguments: Sequence[str], kind: str, message: str, exit_code: int, **details: str
) -> int:
    click.echo(f"art-export: {message}" if "\n" not in message else message, err=True)
    if _wants_json(arguments):
        described = {"kind": kind, "message": message, "exit_code": exit_code, **details}
        print_json({"error": described})
    return exit_code


def _show_traceback(arguments: Sequence[str]) -> None:
    if _wants_traceback(arguments):
        traceback.print_exc()


def _wants_json(arguments: Sequence[str]) -> bool:
    # Looked up in the raw arguments, since parsing may be what failed.
    return "--json" in arguments


def _wants_traceback(arguments: Sequence[str]) -> bool:
    return "--traceback" in arguments


if __name__ == "__main__":
    main()
