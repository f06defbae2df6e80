"""Subjects under another adapter than a picture: a LoRA, a soft prompt, or a prompt in words.

A compiled graph holds its weights, so a LoRA is merged, exported and built again for the same
engine and precision; the seconds that this takes are part of the result. A soft prompt needs no
build where the engine takes embeddings.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from art_export.subject import Asked, Base, Served, Subject, find_base, is_bundle, open_subject
from engines.adapter import LORA, SOFT_PROMPT, read_adapter
from engines.bundle import NO_ART, BundleFolder
from engines.chat import Chat
from engines.contract import EngineOptions
from engines.errors import BundleError
from engines.model import load_config, load_model, resolve_model, weights_sha256
from engines.runtime import Completion, Runtime
from engines.soft_prompt import load_soft_prompt
from engines.vllm_completions import complete, ids_prompt, vectors_prompt
from engines.vllm_server import ServerOptions, VllmServer

Words = Callable[[Chat, str], Sequence[int]]
"""How a question is asked: (chat, question) -> the tokens of the whole chat."""


@contextmanager
def open_lora(
    target: str, lora: Path, size: int | None, options: EngineOptions
) -> Iterator[Subject]:
    """A bundle or a model with the adapter in folder `lora` merged into its weights.

    Raises:
        DataError, CheckFailed: the adapter is for another model, or without effect.
        UserError: as `open_subject`.
    """
    base = _checked_base(target, lora, LORA, size)
    if is_bundle(Path(target)):
        with tempfile.TemporaryDirectory(prefix="art-export-lora-") as folder:
            built, seconds = _rebuilt(Path(target), base, lora, Path(folder))
            with open_subject(str(built), NO_ART, None, options) as subject:
                told = ", ".join(f"{stage} {spent:.1f} s" for stage, spent in seconds.items())
                note = f"a new bundle was made with the LoRA in its weights: {told}"
                yield replace(subject, notes=(note,), deploy=seconds)
        return
    from engines.lora import merge
    from engines.torch_engine import TorchEngine

    model = merge(load_model(resolve_model(target)), lora)
    engine = TorchEngine(model, base.size, device=options.device or "cpu")
    runtime = Runtime(engine, Chat.load(base.folder, base.size))
    yield Subject(runtime, runtime.prefix(None), None, ())


@contextmanager
def open_soft_prompt(
    target: str, folder: Path, size: int | None, options: EngineOptions
) -> Iterator[Subject]:
    """A bundle or a model with the soft prompt in `folder` before every chat.

    Raises:
        DataError: the soft prompt is for another model. UserError: as `open_subject`.
    """
    vectors = _vectors(_checked_base(target, folder, SOFT_PROMPT, size), folder)
    with open_subject(target, NO_ART, size, options) as subject:
        yield replace(subject, prefix=subject.runtime.prefix_from_embeddings(vectors))


@contextmanager
def open_served_lora(server: ServerOptions, target: str, lora: Path) -> Iterator[Served]:
    """A vLLM server with the adapter loaded for the time being; see `engines.vllm_lora`."""
    from engines.vllm_lora import lora_on_server

    base = _checked_base(target, lora, LORA, None)
    with lora_on_server(server, Chat.load(base.folder, base.size), lora) as adapted:
        yield Served(adapted, None, None, ())


def open_served_soft_prompt(server: ServerOptions, target: str, folder: Path) -> Asked:
    """A vLLM server that is sent embeddings: the soft prompt, then those of the chat's tokens."""
    base = _checked_base(target, folder, SOFT_PROMPT, None)
    vectors = _vectors(base, folder)
    table = load_model(resolve_model(base.model)).get_input_embeddings().weight
    embeddings: NDArray[np.float32] = table.detach().float().numpy()
    chat = Chat.load(base.folder, base.size)

    def row(prompt: str) -> Mapping[str, Any]:
        return vectors_prompt(np.concatenate([vectors, embeddings[chat.full_ids(prompt)]]))

    return ServedRows(VllmServer(server, chat), row)


def in_words(asked: Asked, words: Words, questions: Sequence[str]) -> Asked:
    """`asked` with questions put as `words` puts them. What all of `questions` begin with is
    computed once, where the engine is in this process.

    Raises:
        PromptError: it does not fit the model.
    """
    if isinstance(asked, Served):
        chat = asked.server.chat
        return ServedRows(asked.server, lambda prompt: ids_prompt(words(chat, prompt)))
    if not isinstance(asked, Subject):
        raise TypeError(f"{type(asked).__name__} cannot be asked in words")
    runtime = asked.runtime
    rows = [list(words(runtime.chat, question)) for question in questions]
    shared = _shared(rows)
    prefix = runtime.prefix(None)
    if shared:
        embeddings = runtime.engine.embed(np.array([shared], np.int64))[0]
        prefix = runtime.prefix_from_embeddings(embeddings)
    after = len(shared)
    return replace(asked, prefix=prefix, ids=lambda asked: list(words(runtime.chat, asked))[after:])


@dataclass(frozen=True, eq=False)
class ServedRows(Asked):
    """A vLLM server that is sent whole prompts; `row` makes them for
    `engines.vllm_completions.complete`."""

    server: VllmServer
    row: Callable[[str], Mapping[str, Any]]
    art: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def engine(self) -> str:
        return self.server.name

    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[Completion]:
        rows = [self.row(prompt) for prompt in prompts]
        return complete(self.server.options, self.server.model.name, rows, max_new_tokens)


def _checked_base(target: str, adapter: Path, kind: str, size: int | None) -> Base:
    base = find_base(target, NO_ART, size)
    read_adapter(adapter, kind).check_base(base.model, base.weights)
    return base


def _shared(rows: Sequence[list[int]]) -> list[int]:
    """What all rows begin with, less than the whole of any."""
    room = min(map(len, rows)) - 1
    # What the first and the last in order share, all between them share too.
    pairs = zip(min(rows)[:room], max(rows), strict=False)
    return [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]


def _vectors(base: Base, folder: Path) -> NDArray[np.float32]:
    return load_soft_prompt(folder, load_config(base.folder).get_text_config().hidden_size)


def _rebuilt(bundle: Path, base: Base, lora: Path, folder: Path) -> tuple[Path, dict[str, float]]:
    """A bundle like `bundle` with the adapter in its weights, and seconds by stage."""
    from art_export.build import BuildOptions, build
    from engines.lora import save_merged

    manifest = BundleFolder.open(bundle).manifest
    found = weights_sha256(resolve_model(base.model).path)
    if found != base.weights:
        raise BundleError(
            got=f"{bundle}, built from weights {base.weights[:12]}; {base.model} has {found[:12]}",
            expected="the model that it was built from, into which the adapter is merged",
            fix="put that model back in its place, or build the bundle again",
        )
    began = time.perf_counter()
    merged = save_merged(base.model, lora, folder / "merged")
    seconds = {"merge": time.perf_counter() - began}
    built = build(
        BuildOptions(
            str(merged),
            folder / "bundle",
            engine=manifest.engine,
            precision=manifest.precision,
            size=manifest.picture_size,
            max_length=manifest.max_length,
        )
    )
    seconds["build"] = built.seconds["total"]
    return folder / "bundle", seconds
