"""docs/cli.md from the commands themselves: `python -m scripts.cli_reference` writes it again.

A test compares the file with what this makes, so that an option which is added, renamed or gone
cannot stay undocumented.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import click

from art_export.cli.main import COMMANDS, cli

TARGET = Path(__file__).parent.parent / "docs" / "cli.md"
HEAD = """\
# Command line

Made from the commands by `python -m scripts.cli_reference`; do not edit.
`art-export COMMAND --help` says the same.

Exit codes: 0 done, 1 a check failed (or a bug), 2 the input cannot be used, 130 interrupted. With
`--json` a command prints one JSON document on stdout, on an error too; progress and notes go to
stderr. `art-export --traceback COMMAND ...` shows where an error arose.
"""
HIDDEN = "--help"


def reference() -> str:
    """The whole page as Markdown."""
    group = click.Context(cli, info_name="art-export")
    rows = [f"| [`{name}`](#{name}) | {text} |" for name, text in COMMANDS.items()]
    parts = [HEAD, "\n".join(["| command | |", "|---|---|", *rows]) + "\n"]
    for name in COMMANDS:
        command = cli.get_command(group, name)
        if command is None:
            raise LookupError(name)
        parts += describe(command, click.Context(command, info_name=name, parent=group))
    return "\n".join(parts)


def describe(command: click.Command, context: click.Context, level: int = 2) -> list[str]:
    """One command, and those below it: usage, what it does, options, examples."""
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    options = [
        record
        for option in command.get_params(context)
        if isinstance(option, click.Option)
        and (record := option.get_help_record(context))
        and HIDDEN not in record[0]
    ]
    rows = [f"| {_names(names)} | {_cell(text)} |" for names, text in options]
    table = "\n".join(["| option | |", "|---|---|", *rows])
    title = "#" * level + " " + context.command_path.removeprefix("art-export ")
    parts = [title, f"```\n{usage}\n```", _prose(command.help or "")]
    parts += [table] if rows else []
    below = command.commands if isinstance(command, click.Group) else {}
    found = ["\n\n".join([*parts, _examples(command.epilog or "")]) + "\n"]
    for name, one in below.items():
        found += describe(one, click.Context(one, info_name=name, parent=context), level + 1)
    return found


def _names(names: str) -> str:
    """ "-o, --out PATH" as code; a bar would end the cell."""
    return f"`{names}`".replace("|", "\\|")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "\\<")


def _prose(text: str) -> str:
    return inspect.cleandoc(text.replace("\b", "")).split("\f")[0].strip()


def _examples(epilog: str) -> str:
    lines = [line.strip() for line in epilog.replace("\b", "").splitlines()]
    commands = [line for line in lines if re.match("art-export ", line)]
    return "\n".join(["```sh", *commands, "```"])


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
