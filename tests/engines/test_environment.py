"""The record of a measurement names what it was taken on."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version

import pytest

from engines import environment as module
from engines.environment import cpu, environment, versions


def test_versions_are_those_installed() -> None:
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["torch"] == version("torch")
    assert "a-package-that-is-not-there" not in found


def test_environment_is_json_and_complete() -> None:
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["cpu"] and int(found["cores"]) >= 1 and int(found["memory_gib"]) >= 1


def test_a_cpu_is_told_from_another_that_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"model name": "AMD EPYC", "cpu family": "25", "model": "1", "flags": "sse avx2"}
    more = one | {"flags": "avx2 sse avx512f avx512_vnni avx512_bf16"}
    found = []
    for info in (one, more, more | {"flags": " ".join(reversed(more["flags"].split()))}, {}):
        monkeypatch.setattr(module, "_cpuinfo", lambda info=info: info)
        found.append(cpu())
        assert json.loads(json.dumps(found[-1])) == found[-1]
    assert found[0]["name"] == found[1]["name"] == "AMD EPYC"
    assert found[0]["flags"] != found[1]["flags"] == found[2]["flags"]
    kinds = ("avx2", "avx512", "vnni", "bf16")
    assert [found[0][kind] for kind in kinds] == [True, False, False, False]
    assert [found[1][kind] for kind in kinds] == [True] * 4
    assert found[3]["flags"] is None and found[3]["name"]
