"""What can be asked and scored: a bundle or a model in PyTorch, under a picture or none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from art_export.bundle import Bundle
from engines.bundle import NO_ART
from engines.chat import Chat
from engines.errors import OptionError
from engines.manifest import MANIFEST_NAME
from engines.model import resolve_model, weights_sha256
from engines.names import choose
from engines.picture import Picture, check_base, load_picture
from engines.prefix import PrefixState
from engines.runtime import Runtime


@dataclass(frozen=True, eq=False)
class Subject:
    """`prefix` is the state after the picture; `art` names the picture, None is no picture."""

    runtime: Runtime
    prefix: PrefixState
    art: str | None
    notes: tuple[str, ...]

    @property
    def engine(self) -> str:
        return self.runtime.engine.name

    def completer(self, max_new_tokens: int) -> Callable[[Sequence[str]], list[str]]:
        """Prompts -> greedy completions, as `evaluate` takes it."""

        def complete(prompts: Sequence[str]) -> list[str]:
            answers = self.runtime.generate(prompts, [self.prefix] * len(prompts), max_new_tokens)
            return [answer.text for answer in answers]

        return complete


@contextmanager
def open_subject(target: str, art: str | None = None, size: int = 256) -> Iterator[Subject]:
    """Load a bundle's folder, or a model by name, and the picture that it is to see.

    Args:
        art: a picture stored in the bundle, a PNG file, or "none"; None means the picture that
            the bundle has in use, and no picture for a model.
        size: of a model's pictures, in pixels; a bundle knows its own.

    Raises:
        UserError: target or picture cannot be used, or the picture was made for other weights.
    """
    path = Path(target)
    if is_bundle(path):
        with Bundle.load(path) as bundle:
            yield _of_bundle(bundle, art)
    else:
        yield _of_model(target, art, size)


def is_bundle(path: Path) -> bool:
    """Whether a path is to be read as a bundle: also one whose build never ended, so that the
    message is about that, and not about an unknown model."""
    return (path / MANIFEST_NAME).is_file() or (path / "onnx").is_dir()


def _of_bundle(bundle: Bundle, art: str | None) -> Subject:
    name = bundle.folder.active() if art is None else _named(art)
    if name is None or name in bundle.folder.art_names():
        return Subject(bundle.runtime, bundle.prefix(name), name, ())
    if not _looks_like_a_file(name):
        choose("art", name, bundle.folder.art_names())
    manifest = bundle.folder.manifest
    picture = load_picture(name, manifest.picture_size)
    return _seeing(bundle.runtime, picture, name, manifest.weights_sha256)


def _of_model(target: str, art: str | None, size: int) -> Subject:
    from engines.torch_engine import TorchEngine

    source = resolve_model(target)
    name = None if art is None else _named(art)
    if name is not None and not _looks_like_a_file(name):
        raise OptionError(
            got=f"--art {name} for a model",
            expected="a PNG file or none: a model stores no pictures",
            fix="give the PNG's path, or a bundle in the model's place",
        )
    picture = None if name is None else load_picture(name, size)
    runtime = Runtime(TorchEngine.from_source(source, size), Chat.load(source.path, size))
    if picture is None or name is None:
        return Subject(runtime, runtime.prefix(None), None, ())
    return _seeing(runtime, picture, name, weights_sha256(source.path))


def _seeing(runtime: Runtime, picture: Picture, name: str, weights: str) -> Subject:
    warning = check_base(picture, weights)
    notes = (*picture.notes, *([warning] if warning else []))
    return Subject(runtime, runtime.prefix(picture.pixels), name, notes)


def _named(art: str) -> str | None:
    return None if art == NO_ART else art


def _looks_like_a_file(name: str) -> bool:
    return name.lower().endswith(".png") or Path(name).is_file()
