"""The record of a measurement names what it was taken on."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version

from engines.environment import environment, versions


def test_versions_are_those_installed() -> None:
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["torch"] == version("torch")
    assert "a-package-that-is-not-there" not in found


def test_environment_is_json_and_complete() -> None:
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["cpu"] and int(found["cores"]) >= 1 and int(found["memory_gib"]) >= 1
