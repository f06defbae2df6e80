"""The PNG container, read strictly: header, chunks, checksums, texts, amount of pixel data.

Image libraries forgive much of what matters here (they skip the checksums of pixel data and fill a
short picture with black), because to a viewer a nearly right picture is right. To a model it is
another adapter. So the container is checked here, in full, before any pixel is decoded.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from engines.errors import PictureError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# An adapter has 256 pixels a side, and no supported model takes more than this unresized.
MAX_SIDE = 2048

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
_CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
_DEPTHS = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8)}
_DEEP = (8, 16)  # for the colour types with alpha
_HEADER_BYTES = 13
_CHUNK_OVERHEAD = 12  # length, type and checksum
_CHUNK_START = 8
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
# Length of a tRNS chunk that names one transparent colour, two bytes a channel.
_KEY_BYTES = {GREY: 2, RGB: 6}
_MAX_TEXT = 1_000_000
# Adam7: first column, first row, column step, row step of each of the seven passes.
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
# How files that are no PNG begin: (offset, bytes, what it is).
_OTHERS = (
    (0, b"\xff\xd8\xff", "a JPEG"),
    (8, b"WEBP", "a WebP"),
    (0, b"GIF8", "a GIF"),
    (0, b"BM", "a BMP"),
    (0, b"II*\x00", "a TIFF"),
    (0, b"MM\x00*", "a TIFF"),
    (4, b"ftypavif", "an AVIF"),
    (4, b"ftyphei", "a HEIC"),
    (0, b"%PDF", "a PDF"),
    (0, b"version https://git-lfs", "a Git LFS pointer in place of a picture"),
    (0, b"<", "a web page or an SVG"),
    (0, b"\x89PNG\n", "a PNG whose line endings a transfer has changed"),
)


@dataclass(frozen=True)
class Header:
    """IHDR: sides in pixels, bits a sample, colour type, interlacing."""

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool


@dataclass(frozen=True)
class Png:
    """A checked container.

    Attributes:
        header: the picture's form.
        palette: PLTE, three bytes an entry; empty where there is none.
        transparency: tRNS as stored, or None.
        animated: whether it is an APNG.
        texts: (keyword, text) of every readable tEXt, zTXt and iTXt chunk, in order.
        critical: the same picture with nothing but IHDR, PLTE, IDAT and IEND.
        trailing: bytes after the end of the picture.
    """

    header: Header
    palette: bytes
    transparency: bytes | None
    animated: bool
    texts: tuple[tuple[str, str], ...]
    critical: bytes
    trailing: int


def parse(data: bytes, where: str) -> Png:
    """Check a whole PNG file and take it apart; no pixel is decoded.

    Args:
        data: the file's content.
        where: its name, for messages.

    Raises:
        PictureError: it is not a PNG, is damaged or truncated, or is larger than `MAX_SIDE`.
    """
    _check_signature(data, where)
    chunks = list(_chunks(data, where))
    header = _header(chunks[0], where)
    _check_kinds([kind for kind, _ in chunks], header, where)
    kinds = dict(chunks)
    key = kinds.get(b"tRNS", b"")
    if key and len(key) != _KEY_BYTES.get(header.colour, len(key)):
        raise damaged(where, "its transparent colour has a wrong length")
    _check_pixels(chunks, header, where)
    whole = _CHUNK_OVERHEAD * len(chunks) + sum(len(body) for _, body in chunks)
    return Png(
        header=header,
        palette=kinds.get(b"PLTE", b""),
        transparency=key or None,
        animated=b"acTL" in kinds,
        texts=tuple(text for kind, body in chunks if (text := _text(kind, body)) is not None),
        critical=SIGNATURE + b"".join(chunk(*item) for item in chunks if item[0][:1].isupper()),
        trailing=len(data) - len(SIGNATURE) - whole,
    )


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return one PNG chunk: length, four-letter kind, body, checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def damaged(where: str, what: str) -> PictureError:
    """The error for a file that set out to be a PNG and is not whole."""
    return PictureError(
        got=f"{where}: a damaged PNG ({what})",
        expected="a whole PNG file, as it was written",
        fix="copy or download the file again in binary mode; compare its sha256 with the source's",
    )


# -- the file's shape -----------------------------------------------------------------------------


def _check_signature(data: bytes, where: str) -> None:
    if data.startswith(SIGNATURE):
        return
    if not data:
        raise damaged(where, "an empty file")
    if SIGNATURE.startswith(data):
        raise damaged(where, f"it ends after {len(data)} bytes")
    what = next(
        (what for at, start, what in _OTHERS if data[at : at + len(start)] == start),
        "not a picture of any known kind",
    )
    raise PictureError(
        got=f"{where}: {what}, whatever its name says",
        expected="a PNG: other formats are lossy or change pixels, and so destroy an adapter",
        fix="give the art.png that training wrote; a lossy copy cannot be turned back into it",
    )


def _chunks(data: bytes, where: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield (kind, body) up to IEND, checking every length and checksum."""
    at, kind = len(SIGNATURE), b""
    while kind != b"IEND":
        if at + _CHUNK_OVERHEAD > len(data):
            raise damaged(where, f"truncated: it ends after {len(data):,} bytes, without IEND")
        length, kind = struct.unpack_from(">I4s", data, at)
        if not kind.isalpha():
            raise damaged(where, f"no chunk where one should start, at byte {at:,}")
        name, end = kind.decode("ascii"), at + _CHUNK_OVERHEAD + length
        if end > len(data):
            raise damaged(where, f"truncated: {end - len(data):,} bytes of chunk {name} missing")
        body = data[at + _CHUNK_START : end - 4]
        if struct.unpack_from(">I", data, end - 4)[0] != zlib.crc32(kind + body):
            raise damaged(where, f"wrong checksum (CRC) of chunk {name} at byte {at:,}")
        yield kind, body
        at = end


def _header(first: tuple[bytes, bytes], where: str) -> Header:
    kind, body = first
    if kind != b"IHDR" or len(body) != _HEADER_BYTES:
        raise damaged(where, "it does not begin with a header (IHDR)")
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(
        ">IIBBBBB", body
    )
    if colour not in _CHANNELS or depth not in _DEPTHS.get(colour, _DEEP):
        raise damaged(where, f"its header has colour type {colour} with {depth} bits")
    if compression or filtering or interlace not in (0, 1) or not width or not height:
        raise damaged(where, "its header has values that PNG does not define")
    if max(width, height) > MAX_SIDE:
        raise PictureError(
            got=f"{where}: a picture of {width:,}x{height:,} pixels; it was not decoded",
            expected=f"at most {MAX_SIDE:,} pixels a side, and for an adapter usually 256",
            fix="give the art.png that training wrote",
        )
    return Header(width, height, depth, colour, bool(interlace))


# -- what the chunks hold -------------------------------------------------------------------------


def _check_kinds(kinds: list[bytes], header: Header, where: str) -> None:
    """Refuse what decoders disagree about: a second header, no palette, unknown chunks."""
    for kind in kinds:
        # A capital first letter says: who does not know this chunk must not show the picture.
        if kind[:1].isupper() and kind not in _CRITICAL:
            raise damaged(where, f"a chunk {kind.decode()} that PNG does not define")
    if any(kinds.count(kind) > 1 for kind in (b"IHDR", b"PLTE", b"tRNS")):
        raise damaged(where, "a header, palette or transparency chunk occurs twice")
    if header.colour == PALETTE and b"PLTE" not in kinds:
        raise damaged(where, "palette colours without a palette")


def _check_pixels(chunks: list[tuple[bytes, bytes]], header: Header, where: str) -> None:
    """Inflate the pixel data, never beyond what the header promises, and compare the amounts."""
    expected = _inflated_bytes(header)
    inflate = zlib.decompressobj()
    try:
        pixels = inflate.decompress(
            b"".join(body for kind, body in chunks if kind == b"IDAT"), expected + 1
        )
    except zlib.error as error:
        raise damaged(where, f"its pixel data does not decompress: {error}") from error
    if len(pixels) > expected:
        raise damaged(where, f"more pixel data than {header.width}x{header.height} pixels hold")
    if len(pixels) < expected or not inflate.eof:
        raise damaged(where, f"{len(pixels):,} of {expected:,} bytes of pixel data are there")


def _inflated_bytes(header: Header) -> int:
    """Bytes of all rows, each with its filter byte; interlaced, there are seven sets of rows."""
    passes = _ADAM7 if header.interlaced else ((0, 0, 1, 1),)
    bits, total = header.depth * _CHANNELS[header.colour], 0
    for column, row, across, down in passes:
        columns = (header.width - column + across - 1) // across
        rows = (header.height - row + down - 1) // down
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total


def _text(kind: bytes, body: bytes) -> tuple[str, str] | None:
    """(keyword, text) of a text chunk; None for any other, and for one that cannot be read."""
    keyword, _, rest = body.partition(b"\0")
    if not keyword:
        return None
    try:
        if kind == b"tEXt":
            return keyword.decode("latin-1"), rest.decode("latin-1")
        if kind == b"zTXt":
            return keyword.decode("latin-1"), _inflate_text(rest[1:]).decode("latin-1")
        if kind == b"iTXt":
            raw = rest[2:].split(b"\0", 2)[2]
            return keyword.decode(), (_inflate_text(raw) if rest[0] else raw).decode()
    except (zlib.error, UnicodeDecodeError, IndexError):
        # A stranger's comment does not make the pixels wrong.
        return None
    return None


def _inflate_text(data: bytes) -> bytes:
    return zlib.decompressobj().decompress(data, _MAX_TEXT)
