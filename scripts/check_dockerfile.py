"""Check the Dockerfile without a Docker engine: what it names must be there, and fit together.

    python scripts/check_dockerfile.py [--root FOLDER]

1. hadolint, shell inside of RUN included.
2. Every RUN step is taken apart into commands. One that is not known here is a failure, so that no
   step goes unchecked unnoticed.
3. COPY sources exist in the build context, as .dockerignore leaves it.
4. `apt-get install` is simulated on the base's release of Ubuntu, with nothing installed yet.
5. `pip install` is resolved in full for the image's Python and platform; nothing is downloaded.
6. The project is built from the copied files alone. Then every step of pip is really done, in
   order, in a fresh environment that is removed afterwards; but for `tensorrt`, which fetches
   gigabytes from NVIDIA's own index: its name and version are looked up.
7. There the programs of RUN steps, ENTRYPOINT with CMD and the health check are run, and the
   shipped model is built for CUDA, a picture swapped in, and a question answered, on the CPU.

What cannot be reached from here is listed as "not checked", with the reason, and does not fail. The
base image is never pulled, and nothing runs on a GPU. Needs: pip install 'art-export[dev]', and
2 GB of disk if pip's torch is the one for CPUs.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import venv
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from email.parser import Parser
from pathlib import Path
from typing import TypeVar

from docker.utils import exclude_paths
from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement

Result = TypeVar("Result")

ARCHIVE = "http://archive.ubuntu.com/ubuntu"
NVIDIA_INDEX = "https://pypi.nvidia.com"
"""Where the package `tensorrt` fetches its libraries from while it is installed."""
RELEASES = {"24.04": ("noble", "3.12", 39)}
"""Release of Ubuntu -> its code name, its Python, and the minor version of its glibc."""
NVIDIAS = r"tensorrt\b(?!-)"
PYPI = "https://pypi.org/simple/pip/"
PICTURE = Path("docs", "art-tools.png")
QUESTION, ANSWER = "Wake me up at 07:30 on Monday.", '{"name": "set_alarm"'
"""What the picture makes of a question, and would be a sentence without it."""
SHIPPED = "model.safetensors"
"""A file that is no Python source, and must be in the package."""
SHOWN = ("torch", "onnxruntime-gpu", "transformers", "starlette")
LARGEST_CONTEXT = 100_000_000
"""Bytes. Weights and runs do not belong into the context."""
HARMLESS = ("groupadd", "useradd", "install -d", "rm -rf /var/lib/apt/lists/*")
"""Commands that only need a base image to work, and name nothing from outside."""
IMPORT = "import onnxruntime;"
"""The one program that the image runs while it is built."""


class WrongError(Exception):
    """The Dockerfile, or what it names, is at fault."""


@dataclass
class Steps:
    """What the Dockerfile does, taken apart.

    base: the image of the first stage. copies: sources of every COPY from the context. packages:
    of apt-get. pip: every step of pip as its arguments, `install` or `uninstall` first. programs:
    of Python, run while the image is built. start: ENTRYPOINT and CMD. health: of HEALTHCHECK.
    """

    base: str = ""
    copies: list[str] = field(default_factory=list)
    packages: list[str] = field(default_factory=list)
    pip: list[list[str]] = field(default_factory=list)
    programs: list[list[str]] = field(default_factory=list)
    start: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def requirements(self) -> list[list[str]]:
        """The arguments of every `pip install`."""
        return [words[1:] for words in self.pip if words[0] == "install"]


def read_steps(root: Path) -> Steps:
    """Take the Dockerfile in `root` apart."""
    steps = Steps()
    for item in DockerfileParser(str(root / "Dockerfile")).structure:
        kind, value = item["instruction"], item["value"]
        if kind == "FROM" and not steps.base:
            steps.base = value.split()[0]
        elif kind in ("COPY", "ADD"):
            words = value.split()
            if not any(word.startswith("--from=") for word in words):
                steps.copies += [word for word in words[:-1] if not word.startswith("--")]
        elif kind == "RUN":
            for words in commands(re.sub(r"--mount=\S+", "", value)):
                read_command(steps, words)
        elif kind in ("ENTRYPOINT", "CMD"):
            steps.start += json.loads(value)
        elif kind == "HEALTHCHECK":
            steps.health = json.loads(value[value.index("[") :])
    return steps


def commands(line: str) -> list[list[str]]:
    """The commands of a line of shell, each as its words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("&|;()<>"):
            found.append([])
        else:
            found[-1].append(word)
    return [words for words in found if words]


def read_command(steps: Steps, words: list[str]) -> None:
    """Add one command of a RUN step to `steps`."""
    command = " ".join(words)
    options = [word for word in words if word.startswith("-")]
    rest = [word for word in words if word not in options]
    if rest[:2] == ["apt-get", "install"]:
        steps.packages += rest[2:]
    elif rest[:1] == ["pip"] and rest[1] in ("install", "uninstall"):
        steps.pip.append([*rest[1:], *(o for o in options if o in ("--no-deps", "-y"))])
    elif words[:2] == ["python", "-c"] and words[2].startswith(IMPORT):
        steps.programs.append(words)
    elif not (
        words[:2] == ["apt-get", "update"]
        or words[:3] == ["python3", "-m", "venv"]
        or command.startswith(HARMLESS)
    ):
        steps.unknown.append(command)


def run(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, **options)  # type: ignore[call-overload, no-any-return]


def must(done: subprocess.CompletedProcess[str], what: str) -> str:
    """The output of a command that has to succeed."""
    if done.returncode:
        raise WrongError(f"{what}:\n{(done.stdout + done.stderr).strip()[-3000:]}")
    return done.stdout


def lint(root: Path) -> str:
    name = shutil.which("hadolint") or Path(sys.executable).with_name("hadolint")
    must(run(name, root / "Dockerfile"), "hadolint")
    return "hadolint has nothing to say"


def copy_context(root: Path, steps: Steps, target: Path) -> str:
    """Put into `target` what the Dockerfile copies."""
    ignored = root / ".dockerignore"
    lines = ignored.read_text().splitlines() if ignored.exists() else []
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    context = [name for name in exclude_paths(str(root), patterns) if (root / name).is_file()]
    size = sum((root / name).stat().st_size for name in context)
    if size > LARGEST_CONTEXT:
        raise WrongError(f"a context of {size:,} bytes: leave more out by .dockerignore")
    for source in steps.copies:
        found = [n for n in context if n == source or n.startswith(source.rstrip("/") + "/")]
        if not found:
            raise WrongError(f"COPY {source}: not in the context")
        for name in found:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)
    return f"{len(context)} files in the context, {size:,} bytes; every COPY finds its source"


def simulate_apt(release: str, packages: list[str], folder: Path) -> str | None:
    """Resolve `packages` in a release of Ubuntu; None if its archive cannot be reached."""
    for name in ("etc/apt.conf.d", "etc/preferences.d", "state/lists/partial", "cache/archives"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    sources = folder / "sources.list"
    # The lists are only looked at, and the keys of Ubuntu are not on every machine.
    sources.write_text(
        "".join(
            f"deb [trusted=yes] {ARCHIVE} {release}{pocket} main universe\n"
            for pocket in ("", "-updates")
        )
    )
    settings = {
        "Dir::Etc": folder / "etc",
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "-",
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "APT::Architecture": "amd64",
        "APT::Architectures::": "amd64",
        "APT::Update::Error-Mode": "any",
    }
    apt = ["apt-get", *(f"-o{name}={value}" for name, value in settings.items())]
    if shutil.which("apt-get") is None or run(*apt, "update").returncode:
        return None
    listed = must(
        run(*apt, "install", "--simulate", "--no-install-recommends", *packages), "apt-get install"
    )
    return f"{' '.join(packages)}: {listed.count('Inst ')} packages of Ubuntu {release}"


def new_environment(folder: Path) -> Path:
    """An environment with the newest pip, which resolves without downloading; its interpreter."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    must(run(*pip(python), "install", "--upgrade", "pip"), "installing pip")
    return python


def pip(python: Path) -> list[object]:
    return [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]


def build_wheel(source: Path, folder: Path, python: Path) -> tuple[Path, str]:
    """Build a wheel from the copied files alone."""
    must(run(*pip(python), "wheel", "--no-deps", "-w", folder, source), "building the project")
    wheel = next(folder.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    if not any(name.endswith(SHIPPED) for name in names):
        raise WrongError(f"{SHIPPED} is not in the package that the copied files give")
    return wheel, f"{wheel.name}, {len(names)} files"


def install(steps: Steps, wheel: Path, python: Path) -> str:
    """Do every step of pip, in order, leaving out what NVIDIA's index would have to give."""
    started = time.monotonic()
    for kind, *words in steps.pip:
        wanted = words
        if kind == "install":
            wanted = [word for word in named(words, wheel) if not re.match(NVIDIAS, word)]
            # Most of it is never imported here.
            wanted.append("--no-compile")
        must(run(*pip(python), kind, *wanted), f"pip {kind} {' '.join(wanted)}")
    # Being quiet would keep the list back too.
    listed = run(python, "-m", "pip", "--disable-pip-version-check", "list", "--format=json")
    found = json.loads(must(listed, "pip list"))
    versions = {item["name"]: item["version"] for item in found}
    shown = [f"{name} {versions[name]}" for name in SHOWN if name in versions]
    version = ".".join(map(str, sys.version_info[:2]))
    return (
        f"{len(steps.pip)} steps done, {len(versions)} packages for Python {version}, with "
        f"{', '.join(shown)}; {time.monotonic() - started:.0f} s"
    )


def start(steps: Steps, python: Path, folder: Path) -> str:
    """Run, in the environment, what the image runs while it is built and when it is started."""
    for words in (*steps.programs, steps.start, steps.health, [steps.start[0], "serve", "--help"]):
        if words:
            program = python.with_name(words[0])
            must(run(program, *words[1:], cwd=folder), f"running {shlex.join(words)}")
    return f"`{shlex.join(steps.start)}`, the health check and the programs of RUN end well"


def use(steps: Steps, python: Path, picture: Path, folder: Path) -> str:
    """Build the shipped model for CUDA, and swap and ask on the CPU, as a container would."""
    started = time.monotonic()
    program = python.with_name(steps.start[0])
    for words in (
        ("build", "demo", "-o", "bundle", "--provider", "cuda"),
        ("swap", "bundle", picture, "--name", "tools"),
        ("generate", "bundle", QUESTION),
    ):
        printed = must(run(program, *words, cwd=folder), f"art-export {words[0]}")
    if ANSWER not in printed:
        raise WrongError(f"art-export generate answered {printed.strip()!r}")
    return f"build, swap and generate end well; {time.monotonic() - started:.0f} s"


def named(words: list[str], wheel: Path) -> list[str]:
    """The arguments of a `pip install`, the project itself as its wheel and what extras add."""
    found = []
    for word in words:
        match = re.fullmatch(r"\.(?:\[(.*)\])?", word)
        if match is None:
            found.append(word)
            continue
        found.append(str(wheel))
        with zipfile.ZipFile(wheel) as archive:
            name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
            metadata = Parser().parsestr(archive.read(name).decode())
        known = metadata.get_all("Provides-Extra") or []
        for extra in (match[1] or "").split(","):
            if extra and extra not in known:
                raise WrongError(f"pip install {word}: the project has no extra {extra!r}")
            for line in metadata.get_all("Requires-Dist") or []:
                requirement = Requirement(line)
                marker, extras = requirement.marker, ("", extra)
                if marker and [marker.evaluate({"extra": e}) for e in extras] == [False, True]:
                    requirement.marker = None
                    found.append(str(requirement))
    return found


def resolve_pip(python: Path, wanted: list[str], target: str, glibc: int, folder: Path) -> str:
    """Resolve a `pip install` for the image's Python; nothing is installed."""
    tags = [f"manylinux_2_{minor}_x86_64" for minor in range(glibc, 16, -1)]
    platform = [f"--platform={tag}" for tag in (*tags, "manylinux2014_x86_64", "any")]
    platform += ["--only-binary=:all:", f"--python-version={target}", "--implementation=cp"]
    dry = [*pip(python), "install", "--dry-run", "--ignore-installed", "--report", "-"]
    printed = must(
        run(*dry, "--target", folder, *platform, *wanted), f"pip install {' '.join(wanted)}"
    )
    found = [item["metadata"] for item in json.loads(printed)["install"]]
    chosen = {item["name"]: item["version"] for item in found}
    shown = [f"{name} {chosen[name]}" for name in SHOWN if name in chosen]
    return f"{len(chosen)} packages for Python {target}, with {', '.join(shown)}"


def look_up(python: Path, requirement: str) -> None:
    """Name and version of one package, without what it needs."""
    dry = [*pip(python), "install", "--dry-run", "--ignore-installed", "--no-deps"]
    must(run(*dry, requirement), f"pip install {requirement}")


def reachable(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


class Report:
    """Lines on stdout, and whether anything was wrong."""

    def __init__(self) -> None:
        self.failed = False

    def line(self, mark: str, what: str, text: str) -> None:
        sys.stdout.write(f"{mark:<11} {what}: {text}\n")
        sys.stdout.flush()

    def check(
        self, what: str, function: Callable[..., Result], *arguments: object
    ) -> Result | None:
        """Call one check and print what it says."""
        try:
            found = function(*arguments)
        except WrongError as error:
            self.failed = True
            self.line("WRONG", what, str(error))
            return None
        text = found[-1] if isinstance(found, tuple) else found
        if text is None:
            self.line("not checked", what, f"{ARCHIVE} cannot be reached")
        else:
            self.line("ok", what, str(text))
        return found


def check(root: Path, work: Path, report: Report) -> None:
    """All checks of the Dockerfile in `root`, with `work` for files."""
    steps = read_steps(root)
    report.check("lint", lint, root)
    report.check("steps", known_steps, steps)
    release = next((known for known in RELEASES if steps.base.endswith(f"ubuntu{known}")), None)
    if release is None or ":" not in steps.base:
        report.failed = True
        report.line("WRONG", "base", f"{steps.base}: not pinned to a release that is known here")
        return
    report.line("not checked", "base", f"{steps.base}: no image is pulled here")
    code, python, glibc = RELEASES[release]
    source = work / "source"
    source.mkdir()
    report.check("apt", simulate_apt, code, steps.packages, work / "apt")
    if report.check("context", copy_context, root, steps, source) is None:
        return
    if not reachable(PYPI):
        report.line("not checked", "pip", f"{PYPI} cannot be reached")
        return
    fresh = new_environment(work / "environment")
    built = report.check("build", build_wheel, source, work, fresh)
    if built is None:
        return
    check_pip(report, steps, built[0], fresh, (python, glibc, work / "target"))
    if report.check("install", install, steps, built[0], fresh) is not None:
        report.check("start", start, steps, fresh, work)
        report.check("use", use, steps, fresh, root / PICTURE, work)


def check_pip(
    report: Report, steps: Steps, wheel: Path, fresh: Path, place: tuple[str, int, Path]
) -> None:
    """Resolve everything that pip installs, for the image."""
    for words in steps.requirements:
        found = report.check("pip arguments", lambda words=words: (named(words, wheel), "read"))
        if found is None:
            continue
        theirs = [word for word in found[0] if re.match(NVIDIAS, word)]
        for word in theirs:
            report.check("pip", lambda word=word: look_up(fresh, word) or f"{word} exists")
        if theirs:
            why = "gigabytes for a GPU" if reachable(NVIDIA_INDEX) else "cannot be reached"
            what = f"{theirs[0]} is not installed: its libraries are on {NVIDIA_INDEX}"
            report.line("not checked", "pip", f"{what} ({why})")
        report.check("pip", resolve_pip, fresh, [w for w in found[0] if w not in theirs], *place)


def known_steps(steps: Steps) -> str:
    if steps.unknown:
        raise WrongError(f"steps that this check does not know: {steps.unknown}")
    if not (steps.packages and steps.copies and steps.requirements and steps.start):
        raise WrongError(f"a Dockerfile that installs or starts nothing: {steps}")
    return f"{len(steps.packages)} of apt, {len(steps.requirements)} of pip, all commands known"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).parent.parent)
    root = parser.parse_args().root.resolve()
    report = Report()
    with tempfile.TemporaryDirectory() as work:
        check(root, Path(work), report)
    report.line("not checked", "GPU", "nothing of the image has run on one")
    return int(report.failed)


if __name__ == "__main__":
    sys.exit(main())
