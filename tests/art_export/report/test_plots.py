from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from art_export.report.blocks import Chart
from art_export.report.charts import Bar, BarChart
from art_export.report.plots import SCALE, find_browser, write_plots
from engines.errors import MissingEngineError, OutputExistsError
from tests.art_export.report.chromium import needs_chromium


def chart(slug: str, count: int) -> Chart:
    bars = tuple(Bar(f"bar {n}", float(n), str(n)) for n in range(1, count + 1))
    return Chart(slug, BarChart("title", "alt", "seconds", bars))


@needs_chromium
def test_every_chart_is_drawn_as_large_as_it_is(tmp_path: Path) -> None:
    charts = [chart("two bars/../<x>", 2), chart("six", 6), chart("two bars x", 2)]
    paths = write_plots(charts, tmp_path / "plots", find_browser())
    assert [path.name for path in paths] == ["two-bars-x.png", "six.png", "two-bars-x-2.png"]
    heights = []
    for path in paths:
        with Image.open(path) as image:
            heights.append(image.height)
            assert image.width >= 500 * SCALE
            # Bars, letters and grid on a plain ground.
            assert len(image.convert("RGB").getcolors(1 << 20) or []) > 5
    # Four more bars of 50 units; the drawing is as wide as the page.
    assert heights[1] - heights[0] == pytest.approx(200 * SCALE, rel=0.1)
    with pytest.raises(OutputExistsError, match="--replace"):
        write_plots(charts, tmp_path / "plots", find_browser())


def test_without_a_browser_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingEngineError, match="apt-get install chromium"):
        find_browser()
