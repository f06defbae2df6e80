"""TensorBoard's event files, written without TensorBoard.

A file is a row of records: length (uint64), its masked CRC-32C, an Event in protocol buffers'
encoding, its masked CRC-32C; all numbers little-endian. Format: tensorflow/core/lib/io/
record_writer.h and tensorflow/core/util/event.proto.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

_POLYNOMIAL = 0x82F63B78
"""Of CRC-32C, reflected."""
_MASK_DELTA = 0xA282EAD8
_WORD = 0xFFFFFFFF
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class EventFile:
    """One file of scalars in `folder`; each record is on the disk when `write` returns."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("xb", buffering=0)
        self._record(_event(0, b"") + _bytes(3, b"brain.Event:2"))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """The values of one step."""
        values = b"".join(
            _bytes(1, _bytes(1, name.encode()) + _key(2, _FIXED32) + struct.pack("<f", value))
            for name, value in scalars.items()
        )
        self._record(_event(step, _bytes(5, values)))

    def close(self) -> None:
        self._file.close()

    def _record(self, event: bytes) -> None:
        length = struct.pack("<Q", len(event))
        self._file.write(length + _checksum(length) + event + _checksum(event))


def _event(step: int, content: bytes) -> bytes:
    wall = _key(1, _FIXED64) + struct.pack("<d", time.time())
    return wall + _key(2, _VARINT) + _varint(step) + content


def _bytes(field: int, content: bytes) -> bytes:
    return _key(field, _BYTES) + _varint(len(content)) + content


def _key(field: int, kind: int) -> bytes:
    return _varint(field << 3 | kind)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _checksum(data: bytes) -> bytes:
    crc = crc32c(data)
    rotated = (crc >> 15 | crc << 17) & _WORD
    return struct.pack("<I", (rotated + _MASK_DELTA) & _WORD)


def crc32c(data: bytes) -> int:
    """CRC-32C (RFC 3720, appendix B.4)."""
    crc = _WORD
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ _WORD


def _entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
    return value


_TABLE = [_entry(value) for value in range(256)]
