"""How these scripts are called, and how they end: 0 done, 1 a check failed, 2 the input cannot be
used, and no traceback for either."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from engines.errors import ArtExportError

RESULTS = Path("benchmarks/results/real_lm.json")
PATHS = {
    "--model": (Path("runs/real_lm/model"), "what benchmarks.real_lm.assemble wrote"),
    "--data": (Path("data"), "holds bfcl/simple_train.jsonl and svamp/train.jsonl"),
    "--runs": (Path("runs/real_lm"), "where trainings and bundles lie"),
    "--results": (RESULTS, "what has been measured; it is gone on with"),
}


def located(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of PATHS to a command."""
    for name, (default, told) in reversed(PATHS.items()):
        kind = click.Path(path_type=Path)
        command = click.option(name, type=kind, default=default, show_default=True, help=told)(
            command
        )
    return command


def run(command: click.Command) -> None:
    """Run `command` on the arguments of this process, and exit."""
    try:
        command()
    except ArtExportError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
