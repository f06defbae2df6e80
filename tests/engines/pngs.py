"""PNG files made by hand, chunk by chunk, since image libraries refuse to write bad ones."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

from engines.png import SIGNATURE, chunk


def header(
    width: int, height: int, depth: int = 8, colour: int = 2, interlace: int = 0
) -> tuple[bytes, bytes]:
    """IHDR as (kind, body)."""
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)


def rows(*lines: bytes) -> tuple[bytes, bytes]:
    """IDAT as (kind, body): each row with filter 0."""
    return b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines))


def build(*chunks: tuple[bytes, bytes], end: bool = True) -> bytes:
    """A file of these chunks, with right lengths and checksums."""
    parts: Sequence[tuple[bytes, bytes]] = (*chunks, (b"IEND", b"")) if end else chunks
    return SIGNATURE + b"".join(chunk(*part) for part in parts)


def rgb(size: int = 4, *extra: tuple[bytes, bytes]) -> bytes:
    """A sound grey-ish RGB picture, with chunks between header and pixels."""
    return build(header(size, size), *extra, rows(*[bytes(range(3 * size))] * size))
