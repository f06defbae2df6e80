from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import training.plugins as plugins
from engines.errors import OptionError
from training.plugins import load_callable

OURS = {"root": "math:sqrt"}


def test_ours_by_name_anybodys_by_module_or_file(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text("def double(x):\n    return 2 * x\n")
    assert load_callable("reward", "root", OURS)(9) == 3
    assert load_callable("reward", "operator:neg", OURS)(9) == -9
    assert load_callable("reward", f"{path}:double", OURS)(9) == 18


def test_an_installed_package_may_bring_one(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("negative", "operator:neg", "our.group")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point])
    assert load_callable("reward", "negative", OURS, "our.group")(9) == -9
    with pytest.raises(OptionError, match="did you mean 'negative'"):
        load_callable("reward", "negativ", OURS, "our.group")


@pytest.mark.parametrize(
    "name", ["no_such_module:f", "math:no_such", "missing.py:f", "math:pi", "empty.py:f"]
)
def test_what_cannot_be_loaded_is_told(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(OptionError, match=name.replace(".", r"\.")):
        load_callable("reward", name, OURS)
