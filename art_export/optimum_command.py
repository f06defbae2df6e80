"""`optimum-cli export art`: the same as `art-export build`, reached from optimum's command line.

Options, their meaning and their errors are those of `art-export build`, read from that command, so
that the two cannot part. optimum imports this module whenever it starts: nothing heavy here.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Iterator

import click
from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

from art_export.cli.build import command as build_command
from art_export.cli.main import main


class ArtExportCommand(BaseOptimumCLICommand):  # type: ignore[misc]
    """Exit status: 0 done, 1 a check failed, 2 the input cannot be used."""

    COMMAND = CommandInfo(
        name="art",
        help="Compile a multimodal model once into a bundle for pictures, as art-export build.",
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """The options of `art-export build`, with --model and output as optimum has them."""
        parser.description = build_command.help
        parser.add_argument(
            "-m", "--model", required=True, help="`demo`, a Hugging Face folder or a hub id."
        )
        parser.add_argument("output", help="Folder of the bundle; must not exist yet.")
        for option in _options():
            help_text = _help(option)
            if option.is_flag:
                parser.add_argument(
                    *option.opts, dest=option.name, action="store_true", help=help_text
                )
            else:
                parser.add_argument(
                    *option.opts,
                    dest=option.name,
                    action="append",
                    metavar=option.type.name.split()[0].upper(),
                    help=help_text,
                )

    def run(self) -> None:
        """Build, and end the process as `art-export build` would."""
        arguments = ["build", self.args.model, "--out", self.args.output]
        for option in _options():
            value = getattr(self.args, option.name or "")
            if option.is_flag:
                arguments += [option.opts[-1]] if value else []
            else:
                # As they were typed: click reads and checks them.
                arguments += [word for each in value or () for word in (option.opts[-1], each)]
        sys.argv = ["art-export", *arguments]
        main()


def _help(option: click.Option) -> str:
    default = f"  [default: {option.default}]" if option.show_default else ""
    return f"{option.help}{default}".replace("%", "%%")


def _options() -> Iterator[click.Option]:
    for parameter in build_command.params:
        if isinstance(parameter, click.Option) and parameter.name != "out":
            yield parameter
