"""Baselines from the command line, and their adapters in `eval`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.art_export.cli.conftest import Command

FEW = (
    *("--task", "tools", "--steps", 2, "--batch-size", 2, "--examples", 6),
    *("--validation-examples", 2, "--validate-every", 2),
)


@pytest.mark.parametrize(
    ("kind", "option", "own"),
    [("lora", "--lora", ("--rank", 2)), ("soft-prompt", "--soft-prompt", ("--tokens", 3))],
)
def test_trained_and_scored(
    command: Command,
    tiny_model_dir: Path,
    tmp_path: Path,
    kind: str,
    option: str,
    own: tuple[object, ...],
) -> None:
    out = tmp_path / "run"
    trained = command("baseline", kind, tiny_model_dir, *FEW, *own, "-o", out)
    assert trained["steps"] == 2
    assert Path(trained["adapter"]) == out / "adapter"
    scored = command(
        "eval", tiny_model_dir, "--task", "tools", "-n", 2, option, out / "adapter", "--size", 64
    )
    assert scored[option[2:].replace("-", "_")] == str(out / "adapter")
    assert scored["n"] == 2


def test_a_wrong_start_is_told(command: Command, tiny_model_dir: Path, tmp_path: Path) -> None:
    given = ("baseline", "soft-prompt", tiny_model_dir, *FEW, "-o", tmp_path / "run")
    assert "did you mean 'RANDOM'" in command(*given, "--init", "RANDM", code=2)["error"]["fix"]
