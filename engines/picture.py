"""The picture: an adapter as one square 8-bit RGB PNG, bit for bit, with its provenance inside.

Reading is the only preprocessing there is. Nothing is resized, rounded or colour-managed: a file
whose pixels are not exactly known is refused, and an exact conversion is done and noted.
"""

from __future__ import annotations

import hashlib
import io
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin

from engines import files, png
from engines.errors import PictureError
from engines.provenance import KEYWORD, Provenance, read_provenance

# Uncompressed 2048x2048 RGBA is 17 MB; whatever is far above it is not read at all.
_MAX_FILE = 64_000_000
_BITS = 8
_OPAQUE = 255
_SHAPE_DIMS = 3
_SHORT_HASH = 12
_TRAINED = "give the art.png that training wrote"

__all__ = [
    "Picture",
    "Pixels",
    "Provenance",
    "check_base",
    "decode_picture",
    "encode_picture",
    "load_picture",
    "save_picture",
]

Pixels: TypeAlias = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Picture:
    """An adapter. Two pictures are the same adapter when their `sha256` are equal.

    Attributes:
        pixels: uint8 (size, size, 3), RGB, C-contiguous and read-only (copy it to change it).
        provenance: what the PNG says about itself, or None.
        notes: what a reader should be told: exact conversions, missing or doubtful provenance.
    """

    pixels: Pixels
    provenance: Provenance | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Take a read-only copy of the pixels, after checking their dtype and shape."""
        object.__setattr__(self, "pixels", _checked(self.pixels))

    @property
    def size(self) -> int:
        """Pixels a side."""
        return int(self.pixels.shape[0])

    @property
    def sha256(self) -> str:
        """SHA-256 of shape and pixel bytes, in hex: the adapter's identity, whatever its file."""
        return _pixel_hash(self.pixels)


def load_picture(path: str | Path, size: int | None = None) -> Picture:
    """Read a PNG as an adapter.

    Args:
        path: the file.
        size: pixels a side that it must have; None accepts any square up to 2048.

    Raises:
        PictureError: the file cannot be read, is not a PNG, is damaged, or its pixels are not
            square 8-bit RGB of that size and cannot be made so exactly.
    """
    return decode_picture(_read(Path(path)), str(path), size)


def decode_picture(data: bytes, where: str, size: int | None = None) -> Picture:
    """Read a PNG from memory; `where` names it in messages. Otherwise as `load_picture`."""
    container = png.parse(data, where)
    _check_form(container, where, size)
    pixels, notes = _convert(container, where)
    if container.trailing:
        notes.append(f"{container.trailing:,} bytes after the end of the PNG were ignored")
    provenance, doubts = read_provenance(container.texts, _pixel_hash(pixels))
    return Picture(pixels, provenance, tuple(notes + doubts))


def save_picture(path: str | Path, pixels: npt.NDArray[Any], provenance: Provenance | None) -> None:
    """Write uint8 pixels (size, size, 3) as a PNG in one step; they are read back bit for bit.

    Raises:
        PictureError: the pixels have another dtype or shape.
        OutputError: the file cannot be written, for example because the disk is full.
    """
    files.write_bytes(path, encode_picture(pixels, provenance))


def encode_picture(pixels: npt.NDArray[Any], provenance: Provenance | None) -> bytes:
    """Return the PNG file for uint8 pixels (size, size, 3); errors as in `save_picture`."""
    checked = _checked(pixels)
    texts = PngImagePlugin.PngInfo()
    if provenance is not None:
        texts.add_text(KEYWORD, provenance.to_text(_pixel_hash(checked)))
    buffer = io.BytesIO()
    Image.fromarray(checked).save(buffer, "PNG", pnginfo=texts)
    return buffer.getvalue()


def check_base(picture: Picture, weights_sha256: str, *, allow_unknown: bool = True) -> str | None:
    """Check that a picture was trained for the model with these weights.

    Returns:
        None when it was, and a warning to be shown when its provenance is unknown.

    Raises:
        PictureError: it was trained for other weights; or nobody knows and `allow_unknown` is
            false.
    """
    provenance = picture.provenance
    if provenance is None:
        if allow_unknown:
            return (
                "this picture does not say which model it was trained for: nothing shows that it "
                "does anything useful here; compare the answers with and without it"
            )
        raise PictureError(
            got="a picture that does not say which model it was trained for",
            expected=f"one trained for the weights {weights_sha256[:_SHORT_HASH]}...",
            fix=_TRAINED,
        )
    if provenance.base_hash.lower() != weights_sha256.lower():
        raise PictureError(
            got=f"a picture trained for {provenance.base_model} "
            f"(weights {provenance.base_hash[:_SHORT_HASH]}...)",
            expected=f"one trained for the weights {weights_sha256[:_SHORT_HASH]}...",
            fix="use the bundle built from that model, or train a picture for this one",
        )
    return None


# -- the file and its form ------------------------------------------------------------------------


def _read(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            what = "a folder" if path.is_dir() else "not a regular file"
            raise _unreadable(path, f"which is {what}")
        if status.st_size > _MAX_FILE:
            raise _unreadable(path, f"of {files.size_text(status.st_size)}; it was not read")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise _unreadable(path, "which does not exist") from error
    # A name with a zero byte is a ValueError.
    except (OSError, ValueError) as error:
        raise _unreadable(path, f"which cannot be read: {error}") from error


def _unreadable(path: Path, why: str) -> PictureError:
    return PictureError(
        got=f"the picture {path}, {why}",
        expected=f"the path of a PNG file, at most {files.size_text(_MAX_FILE)} long",
        fix=_TRAINED,
    )


def _check_form(container: png.Png, where: str, size: int | None) -> None:
    header = container.header
    sides = f"{header.width}x{header.height}"
    wanted = "any" if size is None else f"{size}x{size}"
    if container.animated:
        raise PictureError(
            got=f"{where}: an animated PNG", expected="a still picture", fix=_TRAINED
        )
    if header.width != header.height or size not in (None, header.width):
        raise PictureError(
            got=f"{where}: a picture of {sides} pixels",
            expected=f"{wanted} pixels" if size else "a square picture",
            fix="train at this size, or build the bundle with --size; resizing would destroy it",
        )
    if header.depth > _BITS:
        raise PictureError(
            got=f"{where}: {header.depth} bits a channel",
            expected="8 bits a channel; rounding would make another adapter",
            fix=_TRAINED,
        )


# -- pixels ---------------------------------------------------------------------------------------


def _convert(container: png.Png, where: str) -> tuple[Pixels, list[str]]:
    """Decode to RGB; return the pixels and a note for each conversion, all of them exact."""
    colour, notes = container.header.colour, []
    samples = _decode(container, where)
    if colour == png.PALETTE:
        pixels, alpha = _look_up(container, samples, where)
        notes.append("its palette was replaced by the colours themselves, exactly")
    elif colour in (png.GREY, png.GREY_ALPHA):
        grey = samples.reshape(*samples.shape[:2], -1)
        pixels = np.repeat(grey[:, :, :1], 3, axis=2)
        alpha = grey[:, :, 1] if colour == png.GREY_ALPHA else _keyed(container, pixels)
        notes.append("its greyscale was converted to RGB, exactly")
    else:
        pixels = np.ascontiguousarray(samples[:, :, :3])
        alpha = samples[:, :, 3] if colour == png.RGBA else _keyed(container, pixels)
    if alpha is not None:
        _refuse_transparent(alpha, where)
        notes.append("its transparency was dropped: every pixel is opaque")
    return pixels, notes


def _decode(container: png.Png, where: str) -> Pixels:
    """Return the samples as stored: (h, w) or (h, w, channels) uint8, indices for a palette.

    Only the critical chunks reach the decoder. gAMA, cHRM, iCCP and sRGB say how a screen should
    show the numbers, and eXIf how to turn them; the numbers were trained, and every model's
    processor reads them as they are, so nothing may act on these chunks here.
    """
    try:
        with Image.open(io.BytesIO(container.critical), formats=("PNG",)) as image:
            # One-bit grey is a mode of its own, which numpy would read as truth values.
            return np.asarray(image.convert("L") if image.mode == "1" else image, dtype=np.uint8)
    except (OSError, SyntaxError, ValueError) as error:
        raise png.damaged(where, f"its pixels cannot be decoded: {error}") from error


def _look_up(container: png.Png, indices: Pixels, where: str) -> tuple[Pixels, Pixels | None]:
    """Colours (h, w, 3) and, where there is a tRNS chunk, alpha (h, w) of palette indices."""
    entries = np.frombuffer(container.palette, np.uint8)
    if entries.size % 3 or int(indices.max()) >= entries.size // 3:
        raise png.damaged(where, "a pixel's colour is not in the palette")
    colours = entries.reshape(-1, 3)
    if container.transparency is None:
        return colours[indices], None
    alpha = np.full(max(len(colours), len(container.transparency)), _OPAQUE, np.uint8)
    alpha[: len(container.transparency)] = np.frombuffer(container.transparency, np.uint8)
    return colours[indices], alpha[indices]


def _keyed(container: png.Png, pixels: Pixels) -> Pixels | None:
    """Alpha (h, w) where tRNS names one colour, of RGB or grey, as the transparent one."""
    if container.transparency is None:
        return None
    # In units of the picture's own depth, which the decoder has scaled up to 8 bits.
    key = np.frombuffer(container.transparency, ">u2")
    unit = _OPAQUE // (2**container.header.depth - 1)
    hidden = (pixels == key.astype(np.int64) * unit).all(axis=2)
    return np.where(hidden, 0, _OPAQUE).astype(np.uint8)


def _refuse_transparent(alpha: Pixels, where: str) -> None:
    hidden = int((alpha < _OPAQUE).sum())
    if hidden:
        raise PictureError(
            got=f"{where}: {hidden:,} pixels are transparent",
            expected="an opaque picture: what shows through is not known, so nothing is exact",
            fix=_TRAINED,
        )


def _checked(pixels: npt.NDArray[Any]) -> Pixels:
    """A read-only C-contiguous copy of uint8 (size, size, 3) pixels."""
    shape = pixels.shape
    square = len(shape) == _SHAPE_DIMS and shape[0] == shape[1] and shape[2] == _SHAPE_DIMS
    if pixels.dtype != np.uint8 or not square or not 0 < shape[0] <= png.MAX_SIDE:
        raise PictureError(
            got=f"pixels of dtype {pixels.dtype} and shape {shape}",
            expected=f"uint8 (size, size, 3), size at most {png.MAX_SIDE:,}",
            fix="round to 0..255 and convert to uint8 first, channels last",
        )
    copy = np.array(pixels, np.uint8, order="C")
    copy.flags.writeable = False
    return copy


def _pixel_hash(pixels: Pixels) -> str:
    digest = hashlib.sha256("x".join(str(side) for side in pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()
