"""What answers, and where: options that several commands share.

`--engine`, `--url` and `--served-model` choose between a target's own engine and a vLLM server;
`--device`, `--provider` and `--threads` say how the target's own engine runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engines.contract import EngineOptions
from engines.errors import OptionError
from engines.names import choose
from engines.registry import ENGINES

if TYPE_CHECKING:
    from art_export.subject import Asked
    from engines.vllm_server import ServerOptions

VLLM = "vllm"


@dataclass(frozen=True)
class EngineChoice:
    """The options as given; None where one was not."""

    engine: str | None = None
    url: str | None = None
    served_model: str | None = None
    device: str | None = None
    provider: str | None = None
    threads: int | None = None

    @property
    def own(self) -> EngineOptions:
        """How the target's own engine is to run."""
        return EngineOptions(self.device, self.provider, self.threads)

    def server(self, target: str) -> ServerOptions | None:
        """Where the server is that answers for `target`; None: its own engine does.

        Raises:
            OptionError: there is no such engine, `target` does not run on it, or the options do
                not go together.
        """
        from engines.vllm_server import ServerOptions

        if self.engine is not None:
            choose("engine", self.engine, (*ENGINES, VLLM))
        if self.engine != VLLM:
            self._check_own(target)
            return None
        foreign = [name for name in ("device", "provider", "threads") if getattr(self, name)]
        if self.url is None or foreign:
            raise OptionError(
                got="--engine vllm " + (f"with --{foreign[0]}" if foreign else "without --url"),
                expected="the address of a running vLLM server, which itself chose where it runs",
                fix="give --engine vllm --url http://localhost:8000 or the like, and no more",
            )
        return ServerOptions(self.url, self.served_model)

    @contextmanager
    def open(
        self,
        target: str,
        art: str | None,
        size: int | None,
        lora: Path | None = None,
        soft_prompt: Path | None = None,
    ) -> Iterator[Asked]:
        """What answers for `target` under the picture `art`, or under another adapter; see
        `art_export.subject` and `art_export.adapted`.

        Raises:
            OptionError: more than one adapter. UserError: as the functions there.
        """
        from engines.bundle import NO_ART

        server = self.server(target)
        check_one({"--art": art if art != NO_ART else None, **_adapters(lora, soft_prompt)})
        if server is None:
            with self._own(target, art, size, lora, soft_prompt) as subject:
                yield subject
        else:
            with _served(server, target, art, size, lora, soft_prompt) as asked:
                yield asked

    def _own(
        self,
        target: str,
        art: str | None,
        size: int | None,
        lora: Path | None,
        soft_prompt: Path | None,
    ) -> AbstractContextManager[Asked]:
        from art_export.adapted import open_lora, open_soft_prompt
        from art_export.subject import open_subject

        if lora is not None:
            return open_lora(target, lora, size, self.own)
        if soft_prompt is not None:
            return open_soft_prompt(target, soft_prompt, size, self.own)
        return open_subject(target, art, size, self.own)

    def _check_own(self, target: str) -> None:
        from art_export.subject import own_engine

        if self.url is not None or self.served_model is not None:
            raise OptionError(
                got=f"{'--url' if self.url else '--served-model'} without --engine vllm",
                expected="a server's options together",
                fix="add --engine vllm",
            )
        if self.engine is not None and self.engine != own_engine(target):
            raise OptionError(
                got=f"--engine {self.engine} for {target}, which runs on {own_engine(target)}",
                expected=f"that engine (a bundle runs on what it was built for), or {VLLM}",
                fix=f"leave --engine out, or build a bundle with --engine {self.engine}",
            )


def check_one(given: Mapping[str, object]) -> None:
    """OptionError if more than one of these options, name -> value, was given."""
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise OptionError(
            got=" and ".join(names),
            expected="one of them at a time: an adapter is trained for the untouched model",
            fix=f"leave all but one of {', '.join(names)} out",
        )


def _adapters(lora: Path | None, soft_prompt: Path | None) -> dict[str, object]:
    return {"--lora": lora, "--soft-prompt": soft_prompt}


def _served(
    server: ServerOptions,
    target: str,
    art: str | None,
    size: int | None,
    lora: Path | None,
    soft_prompt: Path | None,
) -> AbstractContextManager[Asked]:
    from art_export.adapted import open_served_lora, open_served_soft_prompt
    from art_export.subject import open_served

    if lora is not None:
        return open_served_lora(server, target, lora)
    if soft_prompt is not None:
        return nullcontext(open_served_soft_prompt(server, target, soft_prompt))
    return nullcontext(open_served(server, target, art, size))


def engine_options(*, server: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options, handed to the command as one `choice`.

    Args:
        server: with those for asking a vLLM server in the place of the target's own engine.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def collected(**arguments: Any) -> None:
            names = [field.name for field in fields(EngineChoice) if field.name in arguments]
            choice = EngineChoice(**{name: arguments.pop(name) for name in names})
            function(**arguments, choice=choice)

        decorated: Callable[..., None] = collected
        for option in reversed((*_SERVER, *_OWN) if server else _OWN):
            decorated = option(decorated)
        return decorated

    return decorate


_SERVER = (
    click.option(
        "--engine", help="vllm, to ask a server at --url.  [default: the bundle's own; torch]"
    ),
    click.option("--url", help="Address of the vLLM server that serves the untouched model."),
    click.option(
        "--served-model", help="Name that the server gives the model.  [default: its only one]"
    ),
)
_OWN = (
    click.option("--device", help="cpu, cuda, cuda:1, or a name that the engine knows."),
    click.option("--provider", help="Of ONNX Runtime: cpu, cuda or tensorrt."),
    click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all]"),
)
