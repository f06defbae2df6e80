"""PNGs of the page's charts, for a README or a slide.

A browser draws them: the same SVG and the same style as on the page, and no second plotting code.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path

from art_export.report.blocks import Chart
from art_export.report.render import render_chart
from engines.errors import MissingEngineError, OutputExistsError
from engines.files import write_bytes

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Names that Chromium is installed under, in the order of preference."""
SCALE = 2
"""Pixels of the PNG to one of the style sheet."""
_WIDTH, _TALLEST = 592, 2400
_MARGIN = 12
_SECONDS = 60
_FLAGS = (
    "--headless",
    "--disable-gpu",
    "--disable-extensions",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
    f"--force-device-scale-factor={SCALE}",
    f"--window-size={_WIDTH},{_TALLEST}",
)


def find_browser() -> str:
    """The path of Chromium or Chrome.

    Raises:
        MissingEngineError: there is none.
    """
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        raise MissingEngineError(
            got="--png without Chromium",
            expected=f"one of these on the PATH: {', '.join(BROWSERS)}",
            fix="install it (Debian: apt-get install chromium), or leave --png out",
        )
    return found


def write_plots(
    charts: Sequence[Chart], folder: Path, browser: str, *, replace: bool = False
) -> tuple[Path, ...]:
    """Draw every chart as FOLDER/SLUG.png, in light colours.

    Raises:
        OutputExistsError: one of them exists and may not be replaced; nothing was written then.
        OutputError: `folder` cannot be written.
    """
    paths = tuple(folder / f"{name}.png" for name in _file_names(charts))
    there = [path for path in paths if path.exists()]
    if there and not replace:
        raise OutputExistsError(
            got=f"{there[0]}, which exists already",
            expected="a folder without plots of these names: nothing is overwritten unasked",
            fix="add --replace, or choose another folder",
        )
    for chart, path in zip(charts, paths, strict=True):
        write_bytes(path, _draw(render_chart(chart), browser))
    return paths


def _draw(page: str, browser: str) -> bytes:
    """What the browser shows of a page, as a PNG without the empty part below."""
    with tempfile.TemporaryDirectory() as home:
        source, target = Path(home, "chart.html"), Path(home, "chart.png")
        source.write_bytes(page.encode("utf-8", "replace"))
        # The browser's own sandbox refuses to start for root; the page has no script to confine.
        root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        line = [browser, *_FLAGS, *root, f"--user-data-dir={home}/profile",
                f"--screenshot={target}", source.as_uri()]  # fmt: skip
        subprocess.run(line, check=True, capture_output=True, timeout=_SECONDS)
        return _cropped(target)


def _cropped(path: Path) -> bytes:
    from PIL import Image, ImageChops

    with Image.open(path) as image:
        picture = image.convert("RGB")
    empty = Image.new("RGB", picture.size, picture.getpixel((0, picture.height - 1)))
    box = ImageChops.difference(picture, empty).getbbox()
    bottom = picture.height if box is None else min(picture.height, box[3] + _MARGIN * SCALE)
    buffer = io.BytesIO()
    picture.crop((0, 0, picture.width, bottom)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _file_names(charts: Sequence[Chart]) -> tuple[str, ...]:
    """Only what is safe in a file's name, and no name twice; slugs hold names of tasks and runs."""
    names: list[str] = []
    for chart in charts:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", chart.slug).strip("-")[:80] or "chart"
        others = (f"{plain}-{number}" for number in count(2))
        name = next(each for each in chain([plain], others) if each not in names)
        names.append(name)
    return tuple(names)
