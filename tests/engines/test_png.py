from __future__ import annotations

import io
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engines import png
from engines.errors import PictureError
from tests.engines import pngs


def refused(data: bytes) -> PictureError:
    with pytest.raises(PictureError) as caught:
        png.parse(data, "art.png")
    assert caught.value.got.startswith("art.png: ")
    return caught.value


def test_a_sound_file_is_taken_apart() -> None:
    data = pngs.rgb(4, (b"gAMA", b"\0\0\0\1"), (b"tEXt", b"Title\0a cat"))
    container = png.parse(data + b"tail", "art.png")
    assert container.header == png.Header(4, 4, 8, png.RGB, False)
    assert container.texts == (("Title", "a cat"),)
    assert container.trailing == 4
    assert b"gAMA" not in container.critical
    assert png.parse(container.critical, "again").header == container.header


@given(st.integers(0, 10**6))
def test_every_truncation_is_refused(where: int) -> None:
    data = pngs.rgb(8)
    error = refused(data[: where % len(data)])
    assert "damaged PNG" in error.got


@given(st.integers(0, 10**6), st.integers(0, 7))
def test_every_flipped_bit_is_refused(where: int, bit: int) -> None:
    data = bytearray(pngs.rgb(8))
    data[where % len(data)] ^= 1 << bit
    refused(bytes(data))


def test_a_checksum_error_names_the_chunk() -> None:
    data = bytearray(pngs.rgb(8))
    data[data.index(b"IDAT") + 10] ^= 1
    assert "checksum (CRC) of chunk IDAT" in refused(bytes(data)).got


@pytest.mark.parametrize("sides", [(100_000, 100_000), (2049, 1), (1, 2**32 - 1)])
def test_a_bomb_is_refused_by_its_header(sides: tuple[int, int]) -> None:
    data = pngs.build(pngs.header(*sides), (b"IDAT", zlib.compress(b"")))
    error = refused(data)
    assert f"{sides[0]:,}x{sides[1]:,}" in error.got
    assert "not decoded" in error.got


def test_pixel_data_is_never_inflated_beyond_the_header() -> None:
    data = pngs.build(pngs.header(4, 4), (b"IDAT", zlib.compress(bytes(200_000_000), 1)))
    tracemalloc.start()
    try:
        assert "more pixel data" in refused(data).got
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The file itself is held a few times over; its 200 MB of zeros never are.
    assert peak < 10 * len(data) < 100_000_000


def test_missing_rows_are_refused_although_the_stream_ends_well() -> None:
    data = pngs.build(pngs.header(4, 4), pngs.rows(bytes(12), bytes(12)))
    assert "26 of 52 bytes of pixel data" in refused(data).got


def test_a_pixel_stream_without_its_end_is_refused() -> None:
    kind, body = pngs.rows(*[bytes(12)] * 4)
    assert "pixel data" in refused(pngs.build(pngs.header(4, 4), (kind, body[:-2]))).got


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "a WebP"),
        (b"GIF89a", "a GIF"),
        (b"BM\0\0", "a BMP"),
        (b"<!doctype html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (png.SIGNATURE.replace(b"\r\n", b"\n"), "line endings"),
        (b"hello, world", "not a picture"),
    ],
)
def test_other_files_are_named_for_what_they_are(start: bytes, what: str) -> None:
    assert what in refused(start + bytes(50)).got


def test_an_empty_file_is_told() -> None:
    assert "empty file" in refused(b"").got


@pytest.mark.parametrize(
    "chunks",
    [
        (),
        (pngs.rows(bytes(12)), pngs.header(1, 1)),
        ((b"IHDR", b"short"),),
        (pngs.header(0, 4), pngs.rows()),
        (pngs.header(4, 4, depth=3), pngs.rows(*[bytes(12)] * 4)),
        (pngs.header(4, 4, colour=5), pngs.rows(*[bytes(12)] * 4)),
        (pngs.header(4, 4, interlace=2), pngs.rows(*[bytes(12)] * 4)),
        (pngs.header(4, 4), pngs.header(9999, 9999), pngs.rows(*[bytes(12)] * 4)),
        (pngs.header(4, 4), (b"CgBI", b""), pngs.rows(*[bytes(12)] * 4)),
        (pngs.header(4, 4), (b"tRNS", b"\0"), pngs.rows(*[bytes(12)] * 4)),
        (pngs.header(4, 4, colour=3), pngs.rows(*[bytes(4)] * 4)),
        (pngs.header(4, 4),),
    ],
    ids=[
        "no header",
        "header late",
        "header short",
        "no columns",
        "3 bits",
        "colour type 5",
        "interlace 2",
        "two headers",
        "unknown critical chunk",
        "transparent colour too short",
        "palette missing",
        "no pixels",
    ],
)
def test_malformed_containers_are_refused(chunks: tuple[tuple[bytes, bytes], ...]) -> None:
    assert "damaged PNG" in refused(pngs.build(*chunks)).got


@pytest.mark.parametrize("side", range(1, 20))
@pytest.mark.parametrize(("depth", "colour"), [(1, 0), (2, 3), (8, 2), (8, 6)])
def test_the_amount_of_interlaced_data_is_that_of_the_seven_passes(
    side: int, depth: int, colour: int
) -> None:
    """Counted pixel by pixel, each belonging to the first pass whose grid it is on."""
    channels = {0: 1, 3: 1, 2: 3, 6: 4}[colour]
    seen = np.zeros((side, side), bool)
    total = 0
    for column, row, across, down in png._ADAM7:
        grid = np.zeros((side, side), bool)
        grid[row::down, column::across] = True
        grid &= ~seen
        seen |= grid
        total += sum(
            1 + (int(line.sum()) * depth * channels + 7) // 8 for line in grid if line.any()
        )
    assert seen.all()
    assert png._inflated_bytes(png.Header(side, side, depth, colour, True)) == total


@pytest.mark.parametrize("compress", [0, 9])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("side", [1, 7, 64])
def test_files_of_another_writer_are_accepted(mode: str, side: int, compress: int) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (side, side), 1).save(buffer, "PNG", compress_level=compress)
    assert png.parse(buffer.getvalue(), "art.png").header.width == side


@pytest.mark.parametrize(
    ("chunk", "expected"),
    [
        ((b"tEXt", b"k\0caf\xe9"), ("k", "caf\u00e9")),
        ((b"zTXt", b"k\0\0" + zlib.compress(b"caf\xe9")), ("k", "caf\u00e9")),
        ((b"iTXt", b"k\0\0\0en\0K\0caf\xc3\xa9"), ("k", "caf\u00e9")),
        ((b"iTXt", b"k\0\1\0en\0K\0" + zlib.compress(b"caf\xc3\xa9")), ("k", "caf\u00e9")),
        ((b"iTXt", b"k\0\0\0en"), None),
        ((b"iTXt", b""), None),
        ((b"iTXt", b"k\0\0\0\0\0\xff"), None),
        ((b"zTXt", b"k\0\0nonsense"), None),
        ((b"zTXt", b""), None),
    ],
)
def test_texts_are_read_and_bad_ones_passed_over(
    chunk: tuple[bytes, bytes], expected: tuple[str, str] | None
) -> None:
    texts = png.parse(pngs.rgb(4, chunk), "art.png").texts
    assert texts == ((expected,) if expected else ())


def test_a_text_bomb_is_cut() -> None:
    bomb = (b"zTXt", b"k\0\0" + zlib.compress(bytes(100_000_000), 1))
    ((_, text),) = png.parse(pngs.rgb(4, bomb), "art.png").texts
    assert len(text) == 1_000_000
