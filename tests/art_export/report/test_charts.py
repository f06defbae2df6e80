from __future__ import annotations

import xml.etree.ElementTree as Xml

import pytest

from art_export.report.charts import Bar, BarChart, LineChart, Series, thinned

EVIL = '</svg><script>alert("&")</script>'


def bars(*values: float, log: bool = False) -> BarChart:
    drawn = tuple(Bar(f"bar {value}", value, str(value)) for value in values)
    return BarChart("title", "what is seen", "seconds", drawn, log=log)


def of_class(root: Xml.Element, tag: str, kind: str) -> list[Xml.Element]:
    return [found for found in root.iter(tag) if kind in found.get("class", "").split()]


def test_a_bar_is_as_long_as_its_value() -> None:
    root = Xml.fromstring(bars(10.0, 20.0, 40.0).svg())
    widths = [float(bar.attrib["width"]) for bar in of_class(root, "rect", "bar")]
    assert widths[1] == pytest.approx(2 * widths[0], rel=1e-3)
    assert widths[2] == pytest.approx(4 * widths[0], rel=1e-3)


def test_on_a_logarithmic_scale_equal_ratios_are_equal_lengths() -> None:
    root = Xml.fromstring(bars(0.1, 1.0, 10.0, log=True).svg())
    ends = [float(bar.attrib["width"]) for bar in of_class(root, "rect", "bar")]
    assert ends[2] - ends[1] == pytest.approx(ends[1], rel=0.01)
    assert "logarithmic scale" in "".join(root.itertext())


def test_a_zero_has_a_place_on_a_logarithmic_scale() -> None:
    root = Xml.fromstring(bars(0.0, 1e-3, log=True).svg())
    zero, other = (float(bar.attrib["width"]) for bar in of_class(root, "rect", "bar"))
    assert 0 < zero < other


def test_an_interval_has_two_ends_and_a_limit_is_marked() -> None:
    bar = Bar("a", 0.5, "0.5", low=0.4, high=0.6, mark=0.9)
    chart = BarChart("title", "alt", "share", (bar,), limits=(0.0, 1.0), dots=True)
    root = Xml.fromstring(chart.svg())
    lines = of_class(root, "line", "whisker")
    assert len(lines) == 3
    low, high = float(lines[0].attrib["x1"]), float(lines[0].attrib["x2"])
    point = float(next(root.iter("circle")).attrib["cx"])
    assert low < point < high
    assert float(of_class(root, "line", "mark")[0].attrib["x1"]) > high


def test_a_line_passes_through_its_points() -> None:
    line = Series("a", ((0.0, 0.0), (50.0, 0.5), (100.0, 1.0)))
    chart = LineChart("title", "alt", "step", "share", (line,), limits=(0.0, 1.0))
    root = Xml.fromstring(chart.svg())
    points = [tuple(map(float, p.split(","))) for p in next(root.iter("polyline"))
              .attrib["points"].split()]  # fmt: skip
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    # Upwards is less, in SVG.
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert y2 < y1 < y0
    assert chart.legend == ()


def test_every_line_has_a_shape_of_its_own() -> None:
    lines = tuple(Series(f"line {n}", ((1.0, n), (4.0, n))) for n in range(7))
    chart = LineChart("title", "alt", "adapters", "tokens", lines, doubling=True)
    shapes = {path.attrib["d"] for path in Xml.fromstring(chart.svg()).iter("path")}
    assert len(shapes) == 7
    assert [name for name, _ in chart.legend] == [line.name for line in lines]


def test_long_lines_are_averaged() -> None:
    points = [(float(x), 2.0 * x) for x in range(12_345)]
    fewer = thinned(points)
    assert len(fewer) <= 500
    assert all(y == pytest.approx(2 * x) for x, y in fewer)
    assert thinned(points[:300]) == points[:300]
    assert thinned([]) == []


@pytest.mark.parametrize(
    "chart",
    [
        BarChart(EVIL, EVIL, EVIL, (Bar(EVIL, 1.0, "1"),)),
        LineChart(EVIL, EVIL, EVIL, EVIL, (Series(EVIL, ((1.0, 1.0),)),)),
    ],
    ids=["bars", "lines"],
)
def test_texts_stay_texts(chart: BarChart | LineChart) -> None:
    text = str(chart.svg())
    assert "<script" not in text
    root = Xml.fromstring(text)
    assert root.get("aria-label") == EVIL
    assert root.get("role") == "img"
