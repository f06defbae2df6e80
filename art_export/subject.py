"""What can be asked and scored, under a picture or none: a bundle, a model in PyTorch, or a vLLM
server that serves the model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from art_export.bundle import Bundle
from engines.bundle import ARTS, NO_ART, PICTURE_NAME, BundleFolder
from engines.chat import Chat
from engines.contract import EngineOptions
from engines.errors import OptionError
from engines.families import picture_layout
from engines.manifest import MANIFEST_NAME
from engines.model import load_config, resolve_model, weights_sha256
from engines.names import choose
from engines.picture import Picture, check_base, load_picture
from engines.prefix import PrefixState
from engines.runtime import Completion, Runtime
from engines.vllm_server import ServerOptions, VllmServer, WirePicture, read_wire_picture


class Asked(ABC):
    """`engine` answers; `art` names the picture that it sees, None is no picture."""

    art: str | None
    notes: tuple[str, ...]

    @property
    @abstractmethod
    def engine(self) -> str:
        """The engine's name."""

    @abstractmethod
    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[Completion]:
        """Greedy answers, in order."""

    def answerer(self, max_new_tokens: int) -> Callable[[Sequence[str]], list[Completion]]:
        """Prompts -> greedy answers, as `evaluate` takes it."""
        return lambda prompts: self.generate(prompts, max_new_tokens)

    def completer(self, max_new_tokens: int) -> Callable[[Sequence[str]], list[str]]:
        """The same, as text alone."""

        def complete(prompts: Sequence[str]) -> list[str]:
            return [answer.text for answer in self.generate(prompts, max_new_tokens)]

        return complete


@dataclass(frozen=True, eq=False)
class Subject(Asked):
    """An engine in this process.

    prefix: the state after the picture, or whatever else stands before every prompt. ids: a prompt
    -> the tokens that follow it; None is the chat's own way to ask. deploy: seconds by stage of
    putting an adapter in use, where that was more than loading it.
    """

    runtime: Runtime
    prefix: PrefixState
    art: str | None
    notes: tuple[str, ...]
    ids: Callable[[str], Sequence[int]] | None = None
    deploy: Mapping[str, float] = field(default_factory=dict)

    @property
    def engine(self) -> str:
        return self.runtime.engine.name

    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[Completion]:
        prefixes = [self.prefix] * len(prompts)
        if self.ids is None:
            return self.runtime.generate(prompts, prefixes, max_new_tokens)
        return self.runtime.answer([self.ids(p) for p in prompts], prefixes, max_new_tokens)


@dataclass(frozen=True, eq=False)
class Served(Asked):
    """A vLLM server; `picture` goes with every prompt."""

    server: VllmServer
    picture: WirePicture | None
    art: str | None
    notes: tuple[str, ...]

    @property
    def engine(self) -> str:
        return self.server.name

    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[Completion]:
        png = None if self.picture is None else self.picture.png
        return self.server.generate(prompts, [png] * len(prompts), max_new_tokens)


@dataclass(frozen=True, eq=False)
class Base:
    """What a server is expected to serve, as known here.

    model: name of the untouched model. folder: its configuration and tokenizer. weights: their
    SHA-256. size: pixels a side of its pictures. picture, art, notes: as in `Served`.
    """

    model: str
    folder: Path
    weights: str
    size: int
    picture: WirePicture | None
    art: str | None
    notes: tuple[str, ...]


def open_served(
    server: ServerOptions, target: str, art: str | None = None, size: int | None = None
) -> Served:
    """As `open_subject` for a server; `target` is what it is to serve: a model, or a bundle built
    from it.

    Raises:
        UserError: target, picture or server cannot be used.
    """
    base = find_base(target, art, size)
    chat = Chat.load(base.folder, base.size)
    return Served(VllmServer(server, chat), base.picture, base.art, base.notes)


def find_base(target: str, art: str | None = None, size: int | None = None) -> Base:
    """The base model behind a bundle's folder or a model's name, and the picture to be sent.

    Raises:
        UserError: as `open_subject`.
    """
    path = Path(target)
    if is_bundle(path):
        folder = BundleFolder.open(path)
        manifest = folder.manifest
        model, place, weights = manifest.base_model, folder.path, manifest.weights_sha256
        name, pixels = _art_of(folder, art), manifest.picture_size
        file = None if name is None else _art_file(folder, name)
    else:
        source = resolve_model(target)
        model, place, weights = target, source.path, weights_sha256(source.path)
        name, pixels = _png_of_model(art), picture_layout(load_config(place), size).size
        file = None if name is None else Path(name)
    if file is None:
        return Base(model, place, weights, pixels, None, None, ())
    picture = read_wire_picture(file, pixels)
    return Base(model, place, weights, pixels, picture, name, _notes(picture.picture, weights))


def own_engine(target: str) -> str:
    """The engine that answers for a target when no server is asked."""
    path = Path(target)
    return BundleFolder.open(path).manifest.engine if is_bundle(path) else "torch"


@contextmanager
def open_subject(
    target: str,
    art: str | None = None,
    size: int | None = None,
    options: EngineOptions = EngineOptions(),  # noqa: B008 - frozen
) -> Iterator[Subject]:
    """Load a bundle's folder, or a model by name, and the picture that it is to see.

    Args:
        art: a picture stored in the bundle, a PNG file, or "none"; None means the picture that
            the bundle has in use, and no picture for a model.
        size: of a model's pictures, in pixels, None is its usual one; a bundle knows its own.
        options: where and how the engine runs.

    Raises:
        UserError: target or picture cannot be used, or the picture was made for other weights.
    """
    path = Path(target)
    if is_bundle(path):
        with Bundle.load(path, options) as bundle:
            yield _of_bundle(bundle, art)
    else:
        yield _of_model(target, art, size, options)


def is_bundle(path: Path) -> bool:
    """Whether a path is to be read as a bundle: also one whose build never ended, so that the
    message is about that, and not about an unknown model."""
    return (path / MANIFEST_NAME).is_file() or (path / "onnx").is_dir()


def _of_bundle(bundle: Bundle, art: str | None) -> Subject:
    name = _art_of(bundle.folder, art)
    if name is None or name in bundle.folder.art_names():
        return Subject(bundle.runtime, bundle.prefix(name), name, ())
    manifest = bundle.folder.manifest
    picture = load_picture(name, manifest.picture_size)
    return _seeing(bundle.runtime, picture, name, manifest.weights_sha256)


def _of_model(target: str, art: str | None, size: int | None, options: EngineOptions) -> Subject:
    from engines.torch_engine import TorchEngine

    source = resolve_model(target)
    name = _png_of_model(art)
    chat = Chat.load(source.path, size)
    picture = None if name is None else load_picture(name, chat.layout.size)
    engine = TorchEngine.from_source(source, chat.layout.size, device=options.device or "cpu")
    runtime = Runtime(engine, chat)
    if picture is None or name is None:
        return Subject(runtime, runtime.prefix(None), None, ())
    return _seeing(runtime, picture, name, weights_sha256(source.path))


def _seeing(runtime: Runtime, picture: Picture, name: str, weights: str) -> Subject:
    return Subject(runtime, runtime.prefix(picture.pixels), name, _notes(picture, weights))


def _notes(picture: Picture, weights: str) -> tuple[str, ...]:
    """What to be told of a picture; PictureError when it was made for other weights."""
    warning = check_base(picture, weights)
    return (*picture.notes, *([warning] if warning else []))


def _art_of(folder: BundleFolder, art: str | None) -> str | None:
    """The name of a stored picture, or a PNG's path, or None for no picture."""
    name = folder.active() if art is None else _named(art)
    if name is not None and name not in folder.art_names() and not _looks_like_a_file(name):
        choose("art", name, folder.art_names())
    return name


def _art_file(folder: BundleFolder, name: str) -> Path:
    if name not in folder.art_names():
        return Path(name)
    folder.read_art(name)  # refuses one that was edited
    return folder.path / ARTS / name / PICTURE_NAME


def _png_of_model(art: str | None) -> str | None:
    name = None if art is None else _named(art)
    if name is not None and not _looks_like_a_file(name):
        raise OptionError(
            got=f"--art {name} for a model",
            expected="a PNG file or none: a model stores no pictures",
            fix="give the PNG's path, or a bundle in the model's place",
        )
    return name


def _named(art: str) -> str | None:
    return None if art == NO_ART else art


def _looks_like_a_file(name: str) -> bool:
    return name.lower().endswith(".png") or Path(name).is_file()
