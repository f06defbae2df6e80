from __future__ import annotations

import struct
from pathlib import Path

import pytest

from training.event_file import EventFile, crc32c


def records(path: Path) -> list[bytes]:
    """The events in a file, every checksum checked by the definition of its mask."""
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = data[12 : 12 + length]
        for content, place in ((data[:8], 8), (event, 12 + length)):
            (masked,) = struct.unpack("<I", data[place : place + 4])
            rotated = (masked - 0xA282EAD8) % 2**32
            assert (rotated >> 17 | rotated << 15) % 2**32 == crc32c(content)
        found.append(event)
        data = data[16 + length :]
    return found


def test_the_checksum_is_that_of_the_rfc() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA


def test_a_record_for_the_version_and_one_for_every_step(tmp_path: Path) -> None:
    file = EventFile(tmp_path / "events")
    file.write(300, {"loss": 0.5, "a/b": 2.0})
    file.close()
    (path,) = (tmp_path / "events").iterdir()
    assert path.name.startswith("events.out.tfevents.")
    version, event = records(path)
    assert version.endswith(b"brain.Event:2")
    # Field 2, the step, as a varint; field 5, the summary; in it a value of name and number.
    assert event[9:12] == b"\x10\xac\x02"
    assert b"\x0a\x04loss\x15" + struct.pack("<f", 0.5) in event
    assert b"\x0a\x03a/b\x15" + struct.pack("<f", 2.0) in event


def test_tensorboard_reads_it(tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard"
    )
    file = EventFile(tmp_path)
    for step in range(3):
        file.write(step, {"loss": 1.0 / (step + 1)})
    file.close()
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("loss")] == [0, 1, 2]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([1, 1 / 2, 1 / 3])
