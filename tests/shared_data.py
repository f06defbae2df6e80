"""Public benchmark files that lie beside a checkout, where they do."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent.parent / "shared" / "data"


def shared(name: str) -> Path:
    """The file `name`, or a skip that says what is missing."""
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"{name} of the public data sets is not beside this checkout")
    return path
