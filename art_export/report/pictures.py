"""The pictures: before, after, their difference, and the development between."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from art_export.report.blocks import Block, Heading, Image, Images, Section
from art_export.report.numbers import quantity
from art_export.report.sources import Run, Sources

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image as Pillow

_GREY, _REACH, _LEVELS = 128, 127, 255
_FRAME = 128
"""Pixels a side of a frame of the development, as shown."""
_QUALITY = 90


def section(sources: Sources) -> Section | None:
    """The pictures of every run that trained one."""
    runs = [run for run in sources.runs if run.picture is not None]
    if not runs:
        return None
    blocks: list[Block] = []
    for run in runs:
        blocks += [Heading(f"{run.name}: {run.task}"), *_of(run)]
    return Section("pictures", "Pictures", tuple(blocks))


def difference(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The change of every colour, uint8 (height, width, 3): grey is none, and the largest reaches
    the end of the range."""
    import numpy as np

    change = after.astype(np.float32) - before
    largest = max(1.0, float(np.abs(change).max(initial=0.0)))
    shown: NDArray[np.uint8] = np.rint(_GREY + change * (_REACH / largest)).astype(np.uint8)
    return shown


def _of(run: Run) -> tuple[Block, ...]:
    from engines.picture import encode_picture

    if run.picture is None:
        return ()
    after, size = run.picture.pixels, run.picture.size
    kept = Image(
        uri=_uri("png", encode_picture(after, run.picture.provenance)),
        alt=f"The trained picture of {run.name}, {size} by {size} pixels of coloured texture.",
        caption=f"After, step {run.step:,}: this is the adapter, bit for bit. "
        "Saved from here, it can be swapped in.",
        pixels=(size, size),
    )
    if run.start is None or run.strip is None:
        return (Images((kept,)),)
    shown = [_before(run, run.start), kept, _change(run, run.start, after)]
    return (Images(tuple(shown)), Images((_development(run, run.strip, size),)))


def _before(run: Run, start: NDArray[np.uint8]) -> Image:
    origin = run.options.get("init", "grey with a little noise")
    return Image(
        uri=_lossy(start),
        alt=f"The picture that training of {run.name} started from: {origin}.",
        caption=f"Before: {origin}",
        pixels=(len(start), len(start)),
    )


def _change(run: Run, start: NDArray[np.uint8], after: NDArray[np.uint8]) -> Image:
    import numpy as np

    change = np.abs(after.astype(np.int16) - start)
    largest, mean = int(change.max(initial=0)), float(change.mean())
    return Image(
        uri=_lossy(difference(start, after)),
        alt=f"The difference of {run.name} before and after, around grey.",
        caption=f"Difference: grey is no change. Colours moved by {quantity(mean)} of {_LEVELS} "
        f"on average, by {largest} at most.",
        pixels=(len(start), len(start)),
    )


def _development(run: Run, strip: NDArray[np.uint8], size: int) -> Image:
    from PIL import Image as Pillow

    frames = max(1, round(strip.shape[1] / size))
    width = frames * _FRAME
    height = max(1, round(strip.shape[0] * width / strip.shape[1]))
    smaller = Pillow.fromarray(strip).resize((width, height))
    return Image(
        uri=_uri("jpeg", _jpeg(smaller)),
        alt=f"The picture of {run.name} at {frames} moments of its training, from left to right.",
        caption="Its development, at even distances from the first step to the last (made smaller)",
        pixels=(width, height),
        wide=True,
    )


def _lossy(pixels: NDArray[np.uint8]) -> str:
    """Only to be looked at: noise as a PNG would take four times the bytes."""
    from PIL import Image as Pillow

    return _uri("jpeg", _jpeg(Pillow.fromarray(pixels)))


def _jpeg(image: Pillow.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return buffer.getvalue()


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
