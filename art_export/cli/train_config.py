"""Options of `art-export train` from a file, and objectives' own settings from the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from art_export.cli.options import Function
from engines.errors import OptionError
from engines.names import choose

SETTINGS = "settings"
_META = "art_export.train.settings"
LISTS = ("robust", "log_to")
"""Options that take several names, separated by commas."""
IGNORED = ("resume",)
"""Of a finished run's record: what is asked anew every time."""


def config_option() -> Callable[[Function], Function]:
    """`--config FILE`: defaults for every other option."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_read,
        help="YAML file with these options by name, or a run.json; flags win over it.",
    )


def parse_settings(pairs: Iterable[str], **named: str | None) -> dict[str, str]:
    """The settings of `--config`, `NAME=VALUE` texts, and the settings that have an option of
    their own; the later win.

    Raises:
        OptionError: a text has no `=`.
    """
    found: dict[str, str] = {}
    for pair in (*click.get_current_context().meta.get(_META, ()), *pairs):
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise OptionError(
                got=f"--set {pair}", expected="NAME=VALUE", fix="write it like --set beta=0.1"
            )
        found[name.strip().replace("-", "_")] = value.strip()
    return found | {name: value for name, value in named.items() if value is not None}


def names(text: str | None) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def _read(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    known = [item.name for item in context.command.params if item.name and item is not parameter]
    found = {
        choose(f"option in {path.name}", name, known): value
        for name, value in _options(path).items()
    }
    # Settings are merged with those of the command line, one by one.
    context.meta[_META] = found.pop(SETTINGS, ())
    context.default_map = found


def _options(path: Path) -> dict[str, Any]:
    """Names with underscores -> values as the command line would have them."""
    found = _parse(path)
    # The record of a run: what reproduces it.
    given = found["options"] if isinstance(found.get("options"), Mapping) else found
    options = {str(name).replace("-", "_"): value for name, value in given.items()}
    kept = {name: value for name, value in options.items() if value not in (None, [], {})}
    settings = kept.get(SETTINGS)
    if isinstance(settings, Mapping):
        kept[SETTINGS] = [f"{name}={value}" for name, value in settings.items()]
    for name in LISTS:
        if isinstance(kept.get(name), list):
            kept[name] = ",".join(map(str, kept[name]))
    return {name: value for name, value in kept.items() if name not in IGNORED}


def _parse(path: Path) -> Mapping[str, Any]:
    yaml: Any = import_module("yaml")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise _unusable(path, " ".join(str(error).split())) from error
    if not isinstance(found, Mapping):
        raise _unusable(path, f"it holds {type(found).__name__}")
    return found


def _unusable(path: Path, why: str) -> OptionError:
    return OptionError(
        got=f"--config {path}: {why}",
        expected="a YAML file of options by name, such as `steps: 300`, or a run.json",
        fix="check the path and the file",
    )
