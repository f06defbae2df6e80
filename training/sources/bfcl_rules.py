"""Which calls count: the rules of BFCL's AST check for Python functions.

They are those of the checker in PyPI's `bfcl-eval` 2026.3.23, by which the leaderboard's simple
category is scored; this is an implementation of our own. Types are strict, but for whole numbers
where a float is wanted; strings are compared without case, spaces and , . / - _ * ^; an argument
may be left out if "" is among its allowed values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

TYPES: Mapping[str, type[Any]] = {
    "string": str,
    "integer": int,
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
    "any": str,
}
"""A schema's word for a type -> the type of values in JSON."""
ABSENT = ""
"""Among allowed values: the argument may be left out."""
_IGNORED = re.compile(r"[ ,./\-_*^]")


def accepts(
    schema: Mapping[str, Any], allowed: Mapping[str, Sequence[Any]], found: Mapping[str, Any]
) -> bool:
    """Whether `found`, the arguments of a call, is right.

    Args:
        schema: the function's "parameters", with "properties" and "required".
        allowed: argument -> its allowed values.
    """
    return (
        all(name in found for name in schema.get("required", ()))
        and all(name in found or ABSENT in values for name, values in allowed.items())
        and all(right_argument(schema, allowed, name, value) for name, value in found.items())
    )


def right_argument(
    schema: Mapping[str, Any], allowed: Mapping[str, Sequence[Any]], name: str, value: Any
) -> bool:
    """Whether the argument `name` may have `value`."""
    if name not in schema["properties"] or name not in allowed:
        return False
    declared, values = schema["properties"][name], allowed[name]
    wanted = TYPES[declared["type"]]
    if wanted is float and type(value) is int:
        value = float(value)
    nested = TYPES[declared["items"]["type"]] if declared["type"] in ("array", "tuple") else None
    if not _right_type(value, values, wanted, nested):
        return False
    if _type_of(values) not in (None, wanted):
        # The data names a variable where the schema asks for a value.
        return value in values
    return _right_value(value, values, wanted, nested)


def _type_of(values: Sequence[Any]) -> type[Any] | None:
    return next((type(value) for value in values if value != ABSENT), None)


def _right_type(
    value: Any, values: Sequence[Any], wanted: type[Any], nested: type[Any] | None
) -> bool:
    if type(value) is not wanted:
        return type(value) is _type_of(values)
    if nested is None:
        return True
    return any(
        not isinstance(items, list)
        or all(type(item) is nested or type(item) is _type_of(items) for item in value)
        for items in values
    )


def _right_value(
    value: Any, values: Sequence[Any], wanted: type[Any], nested: type[Any] | None
) -> bool:
    if wanted is dict:
        return any(_right_object(value, one) for one in values if one != ABSENT)
    if wanted is list:
        # "" stands for an empty list too.
        lists = [items for items in values if isinstance(items, list | str)]
        if nested is dict:
            return any(
                len(value) == len(items)
                and all(_right_object(*pair) for pair in zip(value, items, strict=True))
                for items in lists
            )
        return _plain_items(value) in [_plain_items(items) for items in lists]
    return _plain(value) in [_plain(one) for one in values]


def _right_object(value: Any, allowed: Any) -> bool:
    """An object, each of whose values is one of those allowed for its key."""
    return (
        isinstance(value, dict)
        and isinstance(allowed, dict)
        and all(
            key in allowed and _plain(item) in _plain_items(options(allowed[key]))
            for key, item in value.items()
        )
        and all(key in value or ABSENT in options(one) for key, one in allowed.items())
    )


def options(allowed: Any) -> Sequence[Any]:
    """The allowed values of a key; the data may have one by itself."""
    return allowed if isinstance(allowed, list) else [allowed]


def _plain_items(items: Sequence[Any]) -> list[Any]:
    return [_plain(item) for item in items]


def _plain(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return _IGNORED.sub("", value).lower().replace("'", '"')
