"""What is refused before the server starts; what it does then: tests/art_export/serve."""

from __future__ import annotations

import socket
from importlib.util import find_spec
from pathlib import Path

import pytest

from art_export.cli import serve
from tests.art_export.cli.conftest import Command


def test_an_address_that_is_taken(command: Command, bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = command("serve", bundle, "--port", port, code=2)["error"]
    assert error["kind"] == "OptionError"
    assert f"127.0.0.1:{port}" in error["got"]


def test_an_address_of_another_machine(command: Command, bundle: Path) -> None:
    error = command("serve", bundle, "--host", "192.0.2.1", "--port", 0, code=2)["error"]
    assert "address of this machine" in error["expected"]


def test_what_is_no_bundle(command: Command, tmp_path: Path) -> None:
    assert command("serve", tmp_path, "--port", 0, code=2)["error"]["kind"] == "BundleError"


@pytest.mark.parametrize("package", serve.PACKAGES)
def test_a_missing_package_names_the_extra(
    command: Command, bundle: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setattr(serve, "find_spec", lambda n: None if n == package else find_spec(n))
    error = command("serve", bundle, code=2)["error"]
    assert error["kind"] == "MissingEngineError"
    assert "art-export[serve]" in error["fix"]
