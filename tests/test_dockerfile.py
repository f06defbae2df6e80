"""scripts/check_dockerfile.py: the Dockerfile passes, and planted faults are caught."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
COPIED = ("pyproject.toml", "README.md", "LICENSE", "art_export", "engines", "training", "optimum")


def _load() -> Any:
    path = ROOT / "scripts" / "check_dockerfile.py"
    spec = importlib.util.spec_from_file_location("check_dockerfile", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look up the module that they are made in.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script() -> Any:
    pytest.importorskip("dockerfile_parse", reason="pip install 'art-export[dev]'")
    pytest.importorskip("docker", reason="pip install 'art-export[dev]'")
    return _load()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What an image is made of, without most of the code."""
    for name in ("Dockerfile", ".dockerignore", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    for package in ("art_export", "engines", "training", "optimum"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "part.py").touch()
    return tmp_path


def _edit(project: Path, old: str, new: str) -> None:
    dockerfile = project / "Dockerfile"
    text = dockerfile.read_text()
    assert old in text
    dockerfile.write_text(text.replace(old, new))


def test_the_dockerfile_is_clean_and_every_step_known(script: Any) -> None:
    script.lint(ROOT)
    steps = script.read_steps(ROOT)
    assert script.known_steps(steps)
    assert steps.start == ["art-export", "--help"]
    assert {"python3", "python3-venv"} == set(steps.packages)
    assert ".[gpu,serve]" in steps.requirements[0]
    assert [words[0] for words in steps.pip] == ["install", "uninstall", "install"]
    assert steps.pip[1:] == [
        ["uninstall", "onnxruntime", "onnxruntime-gpu", "-y"],
        ["install", "onnxruntime-gpu==1.31.1", "--no-deps"],
    ]
    assert len(steps.programs) == 1
    assert steps.health == ["python", "-m", "art_export.serve.health"]


def test_the_context_is_small_and_complete(script: Any, tmp_path: Path) -> None:
    script.copy_context(ROOT, script.read_steps(ROOT), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(COPIED)
    assert (tmp_path / "engines/models/demo/model.safetensors").is_file()
    assert not list(tmp_path.rglob("__pycache__"))


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("COPY engines engines", "COPY engine engines", "COPY engine: not in the context"),
        ("COPY training training", "COPY tests tests", "COPY tests: not in the context"),
    ],
)
def test_a_wrong_path_is_caught(
    script: Any, project: Path, tmp_path: Path, old: str, new: str, text: str
) -> None:
    _edit(project, old, new)
    with pytest.raises(script.WrongError, match=text):
        script.copy_context(project, script.read_steps(project), tmp_path / "target")


def test_a_path_that_dockerignore_leaves_out_is_caught(
    script: Any, project: Path, tmp_path: Path
) -> None:
    ignored = project / ".dockerignore"
    ignored.write_text(ignored.read_text().replace("!LICENSE\n", ""))
    with pytest.raises(script.WrongError, match="COPY LICENSE"):
        script.copy_context(project, script.read_steps(project), tmp_path / "target")


@pytest.mark.parametrize("step", ["curl https://example.org | sh", "make all", "pip3 install x"])
def test_a_step_that_nobody_checks_is_caught(script: Any, project: Path, step: str) -> None:
    _edit(project, "python3 -m venv /opt/art-export", f"python3 -m venv /opt/art-export && {step}")
    with pytest.raises(script.WrongError, match="does not know"):
        script.known_steps(script.read_steps(project))


def test_a_shell_fault_is_caught(script: Any, project: Path) -> None:
    _edit(project, "rm -rf /var/lib/apt/lists/*", "cd $HOME/x y; rm -rf /var/lib/apt/lists/*")
    with pytest.raises(script.WrongError, match="SC"):
        script.lint(project)


def test_a_wrong_package_of_ubuntu_is_caught(script: Any, tmp_path: Path) -> None:
    if script.simulate_apt("noble", ["python3-venv"], tmp_path / "right") is None:
        pytest.skip("Ubuntu's archive or apt-get is not here")
    with pytest.raises(script.WrongError, match="python3-vnev"):
        script.simulate_apt("noble", ["python3-vnev"], tmp_path / "wrong")


def test_a_wrong_package_of_pip_is_caught(script: Any) -> None:
    if not script.reachable(script.PYPI):
        pytest.skip("PyPI is not here")
    python = Path(sys.executable)
    script.look_up(python, "onnxruntime-gpu==1.31.1")
    for wrong in ("onnxruntime-gpu==1.31.999", "onnxruntime-for-art-export"):
        with pytest.raises(script.WrongError, match=wrong.split("=")[0]):
            script.look_up(python, wrong)


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The interpreter of an environment with this one's packages, beside the program."""
    for name, more in (("python", ""), ("art-export", " -m art_export.cli.main")):
        (tmp_path / name).write_text(f'#!/bin/sh\nexec {sys.executable}{more} "$@"\n')
        (tmp_path / name).chmod(0o755)
    return tmp_path / "python"


def test_what_the_image_runs_is_run(script: Any, python: Path, tmp_path: Path) -> None:
    steps = script.read_steps(ROOT)
    # The program for GPUs needs the package for GPUs.
    steps.programs = [["python", "-c", "import onnxruntime; onnxruntime.get_available_providers()"]]
    assert "`art-export --help`, the health check" in script.start(steps, python, tmp_path)


def test_every_step_of_pip_is_done_but_for_nvidias(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "project.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        needs = ["click", 'starlette>=1; extra == "serve"']
        needs += ['onnxruntime-gpu>=1; extra == "gpu"', 'tensorrt>=11; extra == "gpu"']
        lines = [f"Requires-Dist: {need}" for need in needs]
        extras = ["Provides-Extra: gpu", "Provides-Extra: serve"]
        archive.writestr("project.dist-info/METADATA", "\n".join([*extras, *lines]))
    done: list[list[str]] = []

    def run(*command: object) -> subprocess.CompletedProcess[str]:
        done.append([str(word) for word in command])
        return subprocess.CompletedProcess(done[-1], 0, "[]", "")

    monkeypatch.setattr(script, "run", run)
    script.install(script.read_steps(ROOT), wheel, Path("python"))
    first, second, third, _ = [" ".join(words).partition("--quiet ")[2] for words in done]
    assert first == (
        f"install {wheel} onnxruntime-gpu>=1 starlette>=1 onnxruntime-gpu==1.31.1 --no-compile"
    )
    assert second == "uninstall onnxruntime onnxruntime-gpu -y"
    assert third == "install onnxruntime-gpu==1.31.1 --no-deps --no-compile"


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("art_export.serve.health", "art_export.serve.healthy", "No module named"),
        ('CMD ["--help"]', 'CMD ["--halp"]', "running art-export --halp"),
        ("index('CUDA", "index('WRONG", "running python -c"),
    ],
)
def test_what_does_not_start_is_caught(
    script: Any, project: Path, python: Path, tmp_path: Path, old: str, new: str, text: str
) -> None:
    _edit(project, old, new)
    steps = script.read_steps(project)
    if "CUDA" not in old:
        steps.programs = []
    # Beside the copied project its folders would stand for the package.
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(script.WrongError, match=text):
        script.start(steps, python, tmp_path / "elsewhere")
