"""Callables that a user names: one of ours, `module:name`, `path/to/file.py:name`, or an entry
point that another package installs."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from engines.errors import OptionError
from engines.files import sha256_file
from engines.names import choose


def load_callable(
    kind: str, name: str, ours: Mapping[str, str], group: str | None = None
) -> Callable[..., Any]:
    """What `name` stands for.

    Args:
        kind: what is named, for messages: "objective", "reward".
        ours: name -> "module:callable".
        group: of entry points that are asked too; ours go first.

    Raises:
        OptionError: the name is unknown (with "did you mean"), or what it leads to cannot be
            imported or called.
    """
    if ":" in name and name not in ours:
        return _resolve(kind, name)
    installed = {} if group is None else {p.name: p for p in entry_points(group=group)}
    chosen = choose(kind, name, (*ours, *installed))
    return _resolve(kind, ours.get(chosen) or installed[chosen].value)


def source_hash(name: str) -> dict[str, str]:
    """For the record: the SHA-256 of the file in `file.py:name`; nothing for other names."""
    place = name.rpartition(":")[0]
    return {"source_sha256": sha256_file(place)} if place.endswith(".py") else {}


def _resolve(kind: str, target: str) -> Callable[..., Any]:
    place, _, attribute = target.rpartition(":")
    try:
        module = _from_file(place) if place.endswith(".py") else importlib.import_module(place)
        found = getattr(module, attribute)
    except (ImportError, OSError, AttributeError, ValueError) as error:
        raise OptionError(
            got=f"{kind} {target!r}, which cannot be loaded: {error}",
            expected="module:callable or path/to/file.py:callable",
            fix="check the path and the name",
        ) from error
    if not callable(found):
        raise OptionError(
            got=f"{kind} {target!r}, which is {type(found).__name__}",
            expected="something that can be called",
            fix=f"name a function or a class in {place}",
        )
    return found  # type: ignore[no-any-return]


def _from_file(path: str) -> ModuleType:
    name = f"art_export_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name while they are being made.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
