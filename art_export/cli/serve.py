"""`art-export serve`."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import click

from art_export.cli.engine_options import EngineChoice, engine_options
from art_export.cli.options import bundle_argument, example, json_option
from engines.errors import MissingEngineError

PACKAGES = ("starlette", "uvicorn", "pydantic", "prometheus_client")
POSITIVE = click.IntRange(min=1)
LOOPBACK = ("127.", "::1", "localhost")


@click.command(epilog=example("art-export serve bundle --port 8000"))
@bundle_argument
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: a free one."
)
@click.option("--max-batch", type=POSITIVE, default=32, show_default=True, help="Rows together.")
@click.option(
    "--max-queue", type=click.IntRange(min=0), default=256, show_default=True,
    help="Requests that may wait beside those in the batch.",
)  # fmt: skip
@click.option("--max-new-tokens", type=POSITIVE, help="Of one answer.  [default: what fits]")
@click.option("--allow-swap", is_flag=True, help="Let clients change pictures by PUT and DELETE.")
@click.option(
    "--grace", type=click.IntRange(min=0), default=30, show_default=True,
    help="Seconds that answers under way have when the server is stopped.",
)  # fmt: skip
@engine_options(server=False)
@json_option
def command(
    bundle: Path,
    host: str,
    port: int,
    max_batch: int,
    max_queue: int,
    max_new_tokens: int | None,
    allow_swap: bool,
    grace: int,
    choice: EngineChoice,
    as_json: bool,
) -> None:
    """Answer OpenAI-compatible requests with BUNDLE until stopped.

    A request's `model` is the name of a stored picture, or of the bare model. When ready, one line
    of JSON with url and arts is printed (with or without --json). SIGINT and SIGTERM end it:
    requests under way are answered first. The API key that clients must give, if any, is read from
    the environment variable ART_EXPORT_API_KEY.
    """
    _check_packages()
    from art_export.bundle import Bundle
    from art_export.serve.scheduler import Limits
    from art_export.serve.server import ServeOptions, listen, log_to_stderr, serve

    limits = Limits(max_batch, max_queue, max_new_tokens)
    options = ServeOptions(host, port, grace, allow_swap, limits)
    with listen(options) as place, Bundle.load(bundle, choice.own) as loaded:
        log_to_stderr()
        if not host.startswith(LOOPBACK):
            click.echo(
                "warning: other machines may reach this server; see docs/serving.md", err=True
            )

        def ready(url: str) -> None:
            click.echo(json.dumps({"url": url, "arts": loaded.folder.art_names()}))

        complete = serve(loaded, options, place, ready)
    if not complete:
        click.echo("stopped before every request was answered", err=True)
        sys.exit(1)


def _check_packages() -> None:
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise MissingEngineError(
            got=f"serve without the package '{missing[0]}'",
            expected="the packages of the HTTP server",
            fix="pip install 'art-export[serve]'",
        )
