"""What commands print: tables for people, one JSON document for programs."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence

import click


def jsonable(value: object) -> object:
    """`value` in types that JSON has: dataclasses and mappings become objects, paths and anything
    unknown strings, numbers that are not finite null (JSON has no NaN)."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: jsonable(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int, bool)):
        return value
    # Scalars of NumPy and torch know their Python value, and need not be imported for it.
    item = getattr(value, "item", None)
    return jsonable(item()) if callable(item) else str(value)


def print_json(value: object) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(jsonable(value), indent=2, ensure_ascii=False))


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned columns under `header`; a column of numbers stands to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    right = [_is_numeric([row[index] for row in cells]) for index in range(len(header))]
    lines = [list(header), ["-" * width for width in widths], *cells]
    return "\n".join(_line(line, widths, right) for line in lines)


def facts(pairs: Sequence[tuple[str, object]]) -> str:
    """`name  value` lines with the values in one column."""
    width = max((len(name) for name, _ in pairs), default=0)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in pairs)


def seconds(amount: float) -> str:
    """Seconds for people; short spans in milliseconds."""
    return f"{amount * 1000:.1f} ms" if amount < 1 else f"{amount:.1f} s"


def percent(share: float) -> str:
    """A share of 1 as a percentage with one decimal."""
    return f"{100 * share:.1f} %"


def _is_numeric(column: Sequence[str]) -> bool:
    return any(column) and all(not cell or cell.lstrip("+-")[:1].isdigit() for cell in column)


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = (
        cell.rjust(width) if numeric else cell.ljust(width)
        for cell, width, numeric in zip(cells, widths, right, strict=True)
    )
    return "  ".join(padded).rstrip()
