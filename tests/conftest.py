"""What tests of all three packages share: a random model of the shipped model's architecture."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models import tiny_model

TINY_SIZE = 64
"""Pixels a side of the tiny bundle's pictures: four visual tokens."""


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder: Qwen3.5 with one linear and one full attention layer, random weights,
    about 0.2M parameters; pictures from 32x32 (one visual token) up, 64x64 is handy."""
    return tiny_model("qwen3_5", tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_bundle_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_model_dir` built for pictures of 64x64. Shared: copy it before changing anything."""
    from art_export.build import BuildOptions, build

    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    build(BuildOptions(str(tiny_model_dir), folder, size=TINY_SIZE))
    return folder
