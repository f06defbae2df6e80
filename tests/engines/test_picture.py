from __future__ import annotations

import dataclasses
import errno
import io
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from engines.errors import DiskFullError, PictureError
from engines.picture import (
    Picture,
    Pixels,
    Provenance,
    check_base,
    decode_picture,
    encode_picture,
    load_picture,
    save_picture,
)
from tests.engines import pngs
from tests.engines.test_provenance import SAMPLE


def noise(size: int, channels: int | None = 3, seed: int = 0) -> Pixels:
    shape = (size, size) if channels is None else (size, size, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def saved(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **{"format": "PNG", **options})
    return buffer.getvalue()


def decode(data: bytes, size: int | None = None) -> Picture:
    return decode_picture(data, "art.png", size)


def refused(data: bytes, size: int | None = None) -> PictureError:
    with pytest.raises(PictureError) as caught:
        decode(data, size)
    assert "art.png" in caught.value.got
    return caught.value


# -- round trips ----------------------------------------------------------------------------------

squares = st.integers(1, 12).flatmap(lambda side: hnp.arrays(np.uint8, (side, side, 3)))


@given(squares)
def test_pixels_come_back_bit_for_bit(pixels: Pixels) -> None:
    picture = decode(encode_picture(pixels, SAMPLE))
    assert np.array_equal(picture.pixels, pixels)
    assert picture.provenance == SAMPLE
    assert picture.notes == ()


def test_saving_and_loading_keep_everything(tmp_path: Path) -> None:
    pixels = noise(256)
    save_picture(tmp_path / "art.png", pixels, SAMPLE)
    picture = load_picture(tmp_path / "art.png", 256)
    assert np.array_equal(picture.pixels, pixels)
    assert picture.provenance == SAMPLE
    assert picture.size == 256
    assert [path.name for path in tmp_path.iterdir()] == ["art.png"]


def test_other_readers_see_the_same_pixels_and_text(tmp_path: Path) -> None:
    pixels = noise(32)
    save_picture(tmp_path / "art.png", pixels, SAMPLE)
    with Image.open(tmp_path / "art.png") as image:
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), pixels)
        assert '"base_model": "demo"' in image.info["art-export"]


def test_the_same_picture_is_the_same_file() -> None:
    assert encode_picture(noise(64), SAMPLE) == encode_picture(noise(64), SAMPLE)


def test_a_full_disk_keeps_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_picture(tmp_path / "art.png", noise(16), SAMPLE)
    before = (tmp_path / "art.png").read_bytes()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DiskFullError):
        save_picture(tmp_path / "art.png", noise(16, seed=1), SAMPLE)
    monkeypatch.undo()
    assert (tmp_path / "art.png").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


# -- the object -----------------------------------------------------------------------------------


def test_the_hash_is_of_pixels_and_shape_alone() -> None:
    one = Picture(noise(4))
    assert one.sha256 == Picture(noise(4), SAMPLE, ("a note",)).sha256
    assert one.sha256 == decode(encode_picture(noise(4), None)).sha256
    changed = noise(4)
    changed[3, 3, 2] ^= 1
    assert one.sha256 != Picture(changed).sha256


def test_pixels_are_a_read_only_copy() -> None:
    source = noise(4)
    picture = Picture(source)
    before = picture.sha256
    source[:] = 0
    assert picture.sha256 == before
    with pytest.raises(ValueError, match="read-only"):
        picture.pixels[0, 0, 0] = 1


def test_a_view_is_made_contiguous() -> None:
    turned = noise(4).transpose(1, 0, 2)
    picture = Picture(turned)
    assert picture.pixels.flags.c_contiguous
    assert np.array_equal(picture.pixels, turned)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((4, 5, 3), np.uint8),
        np.zeros((0, 0, 3), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
    ],
)
def test_arrays_of_another_form_are_refused(pixels: Any, tmp_path: Path) -> None:
    for attempt in (Picture, lambda array: save_picture(tmp_path / "art.png", array, None)):
        with pytest.raises(PictureError) as caught:
            attempt(pixels)
        assert str(pixels.shape) in caught.value.got
    assert list(tmp_path.iterdir()) == []


# -- exact conversions ----------------------------------------------------------------------------


def test_greyscale_is_converted_exactly_and_noted() -> None:
    grey = noise(16, None)
    picture = decode(saved(Image.fromarray(grey)))
    assert np.array_equal(picture.pixels, np.stack([grey] * 3, axis=2))
    assert any("greyscale" in note for note in picture.notes)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_shallow_greyscale_is_scaled_to_the_whole_range(depth: int) -> None:
    # One row with all values, packed from the high bits down, repeated.
    side = 8
    values = [column % 2**depth for column in range(side)]
    packed = int("".join(f"{value:0{depth}b}" for value in values), 2).to_bytes(side * depth // 8)
    data = pngs.build(pngs.header(side, side, depth, 0), pngs.rows(*[packed] * side))
    assert decode(data).pixels[3, :, 1].tolist() == [
        value * 255 // (2**depth - 1) for value in values
    ]


@pytest.mark.parametrize("colours", [2, 4, 16, 256])
def test_a_palette_is_looked_up_exactly_and_noted(colours: int) -> None:
    image = Image.fromarray(noise(32)).quantize(colours)
    picture = decode(saved(image))
    assert np.array_equal(picture.pixels, np.asarray(image.convert("RGB")))
    assert any("palette" in note for note in picture.notes)


@pytest.mark.parametrize("channels", [2, 4])
def test_opaque_alpha_is_dropped_and_noted(channels: int) -> None:
    pixels = noise(16, channels)
    pixels[:, :, -1] = 255
    picture = decode(saved(Image.fromarray(pixels)))
    expected = pixels[:, :, :3] if channels == 4 else np.repeat(pixels[:, :, :1], 3, axis=2)
    assert np.array_equal(picture.pixels, expected)
    assert any("every pixel is opaque" in note for note in picture.notes)


def test_an_opaque_palette_and_an_unused_transparent_entry_are_accepted() -> None:
    palette = (b"PLTE", bytes([1, 2, 3, 4, 5, 6]))
    lines = pngs.rows(*[bytes([0, 0])] * 2)
    for transparency in (b"\xff\xff", b"\xff", b"\xff\x00"):
        data = pngs.build(pngs.header(2, 2, 8, 3), palette, (b"tRNS", transparency), lines)
        picture = decode(data)
        assert picture.pixels.reshape(-1, 3).tolist() == [[1, 2, 3]] * 4
        assert any("opaque" in note for note in picture.notes)


def test_interlacing_changes_no_pixel() -> None:
    """One pixel a pass, by hand: a 2x2 picture has passes 1, 6 and 7 of Adam7."""
    raw = bytes([0, 1, 1, 1]) + bytes([0, 2, 2, 2]) + bytes([0, 3, 3, 3, 4, 4, 4])
    data = pngs.build(pngs.header(2, 2, interlace=1), (b"IDAT", zlib.compress(raw)))
    assert decode(data).pixels[:, :, 0].tolist() == [[1, 2], [3, 4]]


def test_colour_management_and_orientation_are_ignored() -> None:
    plain = decode(pngs.rgb(4))
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(np.asarray(plain.pixels))
    turned = decode(saved(image, exif=exif.tobytes(), icc_profile=b"not a profile"))
    darker = decode(pngs.rgb(4, (b"gAMA", (1).to_bytes(4)), (b"sRGB", b"\0")))
    assert plain.sha256 == turned.sha256 == darker.sha256


def test_bytes_after_the_picture_are_noted() -> None:
    picture = decode(pngs.rgb(4) + b"PK\x03\x04")
    assert any("4 bytes after the end" in note for note in picture.notes)


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["I;16", "RGB", "LA"])
def test_sixteen_bits_are_refused(mode: str) -> None:
    colour, channels = {"I;16": (0, 1), "RGB": (2, 3), "LA": (4, 2)}[mode]
    lines = pngs.rows(*[bytes(4 * channels * 2)] * 4)
    error = refused(pngs.build(pngs.header(4, 4, 16, colour), lines))
    assert "16 bits a channel" in error.got
    assert "8 bits" in error.expected


@pytest.mark.parametrize("channels", [2, 4])
def test_one_pixel_of_transparency_is_refused(channels: int) -> None:
    pixels = noise(16, channels)
    pixels[:, :, -1] = 255
    pixels[3, 5, -1] = 254
    assert "1 pixels are transparent" in refused(saved(Image.fromarray(pixels))).got


def test_a_palette_with_transparency_is_refused() -> None:
    image = Image.fromarray(noise(16)).quantize(8)
    error = refused(saved(image, transparency=3))
    assert f"{int((np.asarray(image) == 3).sum())} pixels are transparent" in error.got


@pytest.mark.parametrize(
    ("depth", "colour", "key", "line", "hidden"),
    [
        (8, 2, [7, 8, 9], [7, 8, 9, 7, 8, 10], 2),
        (8, 2, [7, 8, 10], [7, 8, 9, 7, 8, 9], 0),
        (8, 2, [263, 8, 9], [7, 8, 9, 7, 8, 9], 0),
        (8, 0, [7], [7, 8], 2),
        (2, 0, [1], [0b01_11_0000], 2),
        (1, 0, [1], [0b11_000000], 4),
    ],
)
def test_a_transparent_colour_is_refused_where_a_pixel_has_it(
    depth: int, colour: int, key: list[int], line: list[int], hidden: int
) -> None:
    transparency = (b"tRNS", b"".join(value.to_bytes(2) for value in key))
    lines = pngs.rows(*[bytes(line)] * 2)
    data = pngs.build(pngs.header(2, 2, depth, colour), transparency, lines)
    if hidden:
        assert f"{hidden} pixels are transparent" in refused(data).got
    else:
        assert any("opaque" in note for note in decode(data).notes)


def test_a_colour_outside_the_palette_is_refused() -> None:
    palette = (b"PLTE", bytes(6))
    data = pngs.build(pngs.header(2, 2, 8, 3), palette, pngs.rows(b"\0\1", b"\0\2"))
    assert "not in the palette" in refused(data).got


def test_an_unknown_row_filter_is_refused() -> None:
    raw = b"".join(b"\x09" + bytes(12) for _ in range(4))
    data = pngs.build(pngs.header(4, 4), (b"IDAT", zlib.compress(raw)))
    assert "cannot be decoded" in refused(data).got


def test_a_renamed_jpeg_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "art.png"
    Image.fromarray(noise(64)).save(path, "JPEG", quality=95)
    with pytest.raises(PictureError) as caught:
        load_picture(path)
    assert "a JPEG" in caught.value.got
    assert "lossy" in caught.value.expected


def test_an_animation_is_refused() -> None:
    frames = [Image.fromarray(noise(8, seed=seed)) for seed in range(2)]
    data = saved(frames[0], save_all=True, append_images=frames[1:])
    assert "animated" in refused(data).got


@pytest.mark.parametrize(("sides", "size"), [((8, 4), None), ((4, 8), 8), ((8, 8), 16)])
def test_other_sizes_are_refused_and_never_resized(
    sides: tuple[int, int], size: int | None
) -> None:
    error = refused(saved(Image.new("RGB", sides)), size)
    assert f"{sides[0]}x{sides[1]} pixels" in error.got
    assert ("16x16" if size == 16 else "") in error.expected


@pytest.mark.parametrize("kept", [0.05, 0.5, 0.9, 0.999])
def test_a_real_picture_cut_off_anywhere_is_refused(tmp_path: Path, kept: float) -> None:
    data = encode_picture(noise(256), SAMPLE)
    path = tmp_path / "art.png"
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(PictureError, match="truncated"):
        load_picture(path)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_picture_or_one_clear_error(data: bytes) -> None:
    for content in (data, encode_picture(noise(4), SAMPLE)[:60] + data):
        with pytest.raises(PictureError):
            decode(content)


# -- paths ----------------------------------------------------------------------------------------


def test_a_missing_file_a_folder_and_a_pipe_are_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name, what in (
        ("missing.png", "does not exist"),
        ("", "is a folder"),
        ("pipe", "not a regular file"),
        ("loop", "cannot be read"),
        ("x" * 300, "cannot be read"),
        ("zero\0byte", "cannot be read"),
    ):
        with pytest.raises(PictureError) as caught:
            load_picture(tmp_path / name)
        assert what in caught.value.got


def test_an_unreadable_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "art.png"
    path.write_bytes(pngs.rgb(4))
    path.chmod(0)
    if os.geteuid() == 0:  # to whom everything is readable

        def denied(_: Path) -> bytes:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(PictureError, match="Permission denied"):
        load_picture(path)


def test_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "art.png"
    with path.open("wb") as file:
        file.truncate(10**9)
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("it was read"))
    with pytest.raises(PictureError, match=r"1\.0 GB"):
        load_picture(path)


# -- the base model -------------------------------------------------------------------------------


def with_base(base_hash: str) -> Picture:
    return Picture(noise(4), dataclasses.replace(SAMPLE, base_hash=base_hash))


def test_a_picture_for_this_base_passes_without_a_word() -> None:
    assert check_base(with_base("ab" * 32), "ab" * 32) is None
    assert check_base(with_base("AB" * 32), "ab" * 32) is None


def test_a_picture_for_another_base_is_refused_with_both_hashes() -> None:
    with pytest.raises(PictureError) as caught:
        check_base(with_base("cd" * 32), "ab" * 32)
    assert "demo" in caught.value.got
    assert "cdcdcdcdcdcd" in caught.value.got
    assert "abababababab" in caught.value.expected


def test_an_unknown_base_is_warned_of_or_refused() -> None:
    warning = check_base(Picture(noise(4)), "ab" * 32)
    assert warning is not None
    assert "does not say which model" in warning
    with pytest.raises(PictureError, match="does not say which model"):
        check_base(Picture(noise(4)), "ab" * 32, allow_unknown=False)


@pytest.mark.parametrize("text", ["{", '{"format": 1}', "[]"])
def test_malformed_provenance_is_a_note_and_no_obstacle(text: str) -> None:
    picture = decode(pngs.rgb(4, (b"tEXt", b"art-export\0" + text.encode())))
    assert picture.provenance is None
    assert any("provenance" in note for note in picture.notes)


def test_pixels_edited_after_training_are_noted() -> None:
    def record(provenance: Provenance, pixels: Pixels) -> bytes:
        return provenance.to_text(Picture(pixels).sha256).encode()

    elsewhere = record(SAMPLE, noise(4))
    picture = decode(pngs.rgb(4, (b"tEXt", b"art-export\0" + elsewhere)))
    assert picture.provenance == SAMPLE
    assert any("changed after training" in note for note in picture.notes)
