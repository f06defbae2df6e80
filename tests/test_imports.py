"""What CONTRIBUTING.md says about structure, held by reading the source, not by running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("engines", "training", "art_export")
FORBIDDEN = {
    "engines": {"training", "art_export"},
    "training": {"art_export"},
    "art_export": {"training"},
}
COMMANDS = ROOT / "art_export" / "cli"
HEAVY = {
    "accelerate", "huggingface_hub", "numpy", "onnx", "onnxruntime", "onnxscript", "openvino",
    "optimum", "peft", "PIL", "safetensors", "tensorrt", "tokenizers", "torch", "transformers",
}  # fmt: skip
LONGEST_FILE, LONGEST_FUNCTION = 500, 60

SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(node: ast.AST) -> Iterator[str]:
    """Top-level packages that one statement imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name.split(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module.split(".")[0]


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node that runs when the module is imported: nothing inside functions, and nothing
    that only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from at_import(node)


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_imports_run_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    tree = parse(path)
    # A command may import `training`, inside its function.
    nodes = at_import(tree) if path.is_relative_to(COMMANDS) else ast.walk(tree)
    found = {module for node in nodes for module in imported(node)}
    assert not found & FORBIDDEN[package]


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_imports_are_absolute(path: Path) -> None:
    relative = [n for n in ast.walk(parse(path)) if isinstance(n, ast.ImportFrom) and n.level]
    assert not relative


@pytest.mark.parametrize("path", sorted(COMMANDS.glob("*.py")), ids=name)
def test_commands_import_nothing_heavy_at_the_top(path: Path) -> None:
    found = {module for node in at_import(parse(path)) for module in imported(node)}
    assert not found & HEAVY


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=name)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_FILE
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    long = {
        node.name: length
        for node in ast.walk(parse(path))
        if isinstance(node, functions)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > LONGEST_FUNCTION
    }
    assert not long


def test_no_drawer_for_odds_and_ends() -> None:
    assert not [name(path) for path in [*SOURCES, *TESTS] if path.stem in ("utils", "helpers")]


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_check_is_swallowed_or_asserted(path: Path) -> None:
    tree = parse(path)
    assert not [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Assert)]
    swallowed = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and all(isinstance(step, (ast.Pass, ast.Continue)) for step in node.body)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
    ]
    assert not swallowed


def test_every_test_file_mirrors_a_source_file() -> None:
    mirrored = [path for path in TESTS if path.parent.parent != ROOT and path.stem[:5] == "test_"]
    homeless = [
        name(path)
        for path in mirrored
        if path.relative_to(ROOT / "tests").parts[0] in PACKAGES
        and not _source_of(path).exists()
        and not _source_of(path).with_suffix("").is_dir()
        # A package's own __init__ is tested beside the tests of its modules.
        and path.stem != f"test_{path.parent.name}"
    ]
    assert not homeless


def _source_of(test: Path) -> Path:
    below = test.relative_to(ROOT / "tests")
    return ROOT / below.with_name(below.name.removeprefix("test_"))
