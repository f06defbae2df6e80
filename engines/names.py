"""Names that a person types: looked up exactly, and answered with a suggestion when unknown."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from engines.errors import OptionError

# Below this ratio a suggestion is more often a joke than a help ("math" for "maths" is 0.89).
_CLOSE_ENOUGH = 0.6
# More names than this are no help in a one-line message.
_LISTED_AT_MOST = 12


def choose(kind: str, name: str, known: Iterable[str]) -> str:
    """Return `name` if it is one of `known`, else raise.

    Args:
        kind: what is named, for the message: "task", "engine", "art".
        name: what was typed. Matching is exact; a suggestion ignores case.
        known: every accepted name.

    Raises:
        OptionError: `name` is not known; the message suggests the closest and lists the rest.
    """
    names = sorted(set(known))
    if name in names:
        return name
    guess = closest(name, names)
    raise OptionError(
        got=f"{kind} {name!r}",
        expected=_listing(kind, names),
        fix=f"did you mean {guess!r}?" if guess else f"choose one of the known {kind} names",
    )


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name nearest to `name`, or None where none is near."""
    by_folded = {candidate.casefold(): candidate for candidate in sorted(known)}
    wanted = name.casefold().strip()
    near = difflib.get_close_matches(wanted, by_folded, n=1, cutoff=_CLOSE_ENOUGH)
    if near:
        return by_folded[near[0]]
    # "onnx" scores badly against "onnxruntime", yet is plainly meant; it must be no one else's.
    starting = [folded for folded in by_folded if wanted and folded.startswith(wanted)]
    return by_folded[starting[0]] if len(starting) == 1 else None


def _listing(kind: str, names: list[str]) -> str:
    if not names:
        return f"nothing: there is no {kind} yet"
    shown = ", ".join(names[:_LISTED_AT_MOST])
    hidden = len(names) - _LISTED_AT_MOST
    return f"one of: {shown}" + (f" and {hidden} more" if hidden > 0 else "")
