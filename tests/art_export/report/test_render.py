"""The page as a browser shows it: on a phone and on a desk, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from art_export.report.page import write_report
from tests.art_export.report.chromium import browser, needs_playwright
from tests.art_export.report.test_page import EVIL, options

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = needs_playwright
WIDTHS = (360, 1280)
READABLE, VISIBLE = 4.5, 3.0
"""Least contrast of text, and of what a chart draws: WCAG 2.2, 1.4.3 and 1.4.11."""
SHORTEST = 9.0
"""CSS pixels of the smallest letters."""

# Contrast by WCAG's relative luminance, of every text and every drawn shape with what is behind it.
CONTRASTS = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const level = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * level(r) + 0.7152 * level(g) + 0.0722 * level(b);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const ratio = (colour, element) => {
    const pair = [light(parse(colour)), light(behind(element))].sort((a, b) => b - a);
    return (pair[0] + 0.05) / (pair[1] + 0.05);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const drawn = element instanceof SVGElement;
    found.push(["text", node.data, ratio(drawn ? style.fill : style.color, element)]);
  }
  for (const shape of document.querySelectorAll("svg .bar, svg .line, svg .mark")) {
    const style = getComputedStyle(shape);
    const colour = shape.matches(".bar") ? style.fill : style.stroke;
    found.push(["shape", shape.getAttribute("class"), ratio(colour, shape)]);
  }
  return found;
}"""
CHARTS = """() => [...document.querySelectorAll("svg[role=img]")].map((svg) => {
  const outer = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll("text")].map((text) => {
    const box = text.getBoundingClientRect();
    return {text: text.textContent, left: box.left, right: box.right, top: box.top,
            bottom: box.bottom, size: parseFloat(getComputedStyle(text).fontSize)
              * outer.width / svg.viewBox.baseVal.width};
  });
  return {label: svg.getAttribute("aria-label"), left: outer.left, right: outer.right,
          width: outer.width, height: outer.height, texts};
})"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(options(tmp_path_factory.mktemp("report"))).out


@pytest.fixture(params=[(w, s) for w in WIDTHS for s in ("light", "dark")], ids=str)
def page(chromium: Browser, report: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page with everything unfolded; whatever it says or asks for is kept."""
    width, scheme = request.param
    context = chromium.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, locale="en-GB"
    )
    opened = context.new_page()
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda asked: said.append(asked.url))
    opened.goto(report.as_uri())
    opened.evaluate("document.querySelectorAll('details').forEach((d) => d.open = true)")
    yield opened
    context.close()
    asked = [text for text in said if not text.startswith("data:image/")]
    assert asked == [report.as_uri()], "the page said something or asked for something"


def test_nothing_is_wider_than_the_screen(page: Page) -> None:
    wide, screen = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= screen


def test_pictures_are_shown_and_described(page: Page) -> None:
    images = page.evaluate(
        "[...document.images].map((i) => [i.alt, i.complete && i.naturalWidth, i.width])"
    )
    assert len(images) == 4
    for alt, natural, shown in images:
        assert alt
        assert natural > 0
        assert shown >= 100


def test_text_and_shapes_stand_out(page: Page) -> None:
    found = page.evaluate(CONTRASTS)
    assert {kind for kind, _, _ in found} == {"text", "shape"}
    least = {"text": READABLE, "shape": VISIBLE}
    assert [one for one in found if one[2] < least[one[0]]] == []


def test_charts_are_drawn_and_their_texts_do_not_meet(page: Page) -> None:
    charts = page.evaluate(CHARTS)
    assert len(charts) == 8
    for chart in charts:
        assert chart["label"]
        assert chart["width"] >= 250
        assert chart["height"] >= 50
        for text in chart["texts"]:
            assert text["size"] >= SHORTEST
            assert text["left"] >= chart["left"] - 4, text
            assert text["right"] <= chart["right"] + 8, text
        assert _meetings(chart["texts"]) == []


def _meetings(texts: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Pairs of texts that lie over each other by more than a pixel."""
    return [
        (one["text"], other["text"])
        for number, one in enumerate(texts)
        for other in texts[number + 1 :]
        if min(one["right"], other["right"]) - max(one["left"], other["left"]) > 1
        and min(one["bottom"], other["bottom"]) - max(one["top"], other["top"]) > 3
    ]


def test_light_and_dark_differ(chromium: Browser, report: Path) -> None:
    grounds = []
    for scheme in ("light", "dark"):
        context = chromium.new_context(color_scheme=scheme)
        opened = context.new_page()
        opened.goto(report.as_uri())
        grounds.append(opened.evaluate("getComputedStyle(document.body).backgroundColor"))
        context.close()
    assert grounds[0] != grounds[1]


def test_a_hostile_name_is_only_text(chromium: Browser, tmp_path: Path) -> None:
    asked = options(tmp_path, title=EVIL)
    context = chromium.new_context(viewport={"width": 360, "height": 800})
    opened = context.new_page()
    dialogs: list[str] = []
    opened.on("dialog", lambda dialog: dialogs.append(dialog.message))
    opened.goto(write_report(asked).out.as_uri())
    assert opened.title() == EVIL
    assert opened.locator("h1").inner_text() == EVIL
    assert dialogs == []
    # The policy would stop even a script that had slipped through.
    opened.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        " document.body.append(s); }"
    )
    assert opened.evaluate("window.ran") is None
    context.close()
