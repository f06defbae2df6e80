"""Headless Chromium for tests: the system's own browser, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from art_export.report.plots import BROWSERS

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FOUND = next((path for name in BROWSERS if (path := shutil.which(name))), None)
needs_chromium = pytest.mark.skipif(FOUND is None, reason="no Chromium is installed here")
needs_playwright = pytest.mark.skipif(
    FOUND is None or find_spec("playwright") is None,
    reason="no Chromium or no playwright is installed here",
)


@contextmanager
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    # Its own sandbox refuses to start for root, which CI is.
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=FOUND, args=flags)
        try:
            yield opened
        finally:
            opened.close()
