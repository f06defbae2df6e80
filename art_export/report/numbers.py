"""Figures as people read them."""

from __future__ import annotations

from engines.files import size_text


def seconds(amount: float) -> str:
    """Seconds with three digits and a unit that suits: "35.2 ms", "16.2 s", "4 min 10 s"."""
    if amount < 1e-3:
        return f"{amount * 1e6:.3g} µs"
    if amount < 1:
        return f"{amount * 1e3:.3g} ms"
    if amount < 120:
        return f"{amount:.3g} s"
    minutes, rest = divmod(round(amount), 60)
    return f"{minutes:,} min {rest} s"


def quantity(amount: float) -> str:
    """A number with about three digits: "0.0123", "41.3", "12,345", "1.6e-05"."""
    if amount == 0:
        return "0"
    if not 1e-3 <= abs(amount) < 1e6:
        return f"{amount:.2g}"
    if abs(amount) >= 100:
        return f"{amount:,.0f}"
    return f"{amount:.3g}"


def share(amount: float) -> str:
    """A share of 1 with three decimals."""
    return f"{amount:.3f}"


def size(count: float) -> str:
    """Bytes with a unit; what was measured as a difference may be below 0."""
    return size_text(round(count)) if count >= 0 else f"-{size_text(round(-count))}"


def plural(count: int, word: str) -> str:
    """ "1 step", "2 steps"."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"
