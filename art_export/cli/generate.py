"""`art-export generate`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from art_export.cli.options import bundle_argument, example, json_option
from art_export.cli.output import print_json
from art_export.cli.progress import StageDisplay

NO_ART = "none"


@click.command(
    epilog=example(
        'art-export generate bundle "Wake me up at 07:30 on Monday."',
        'art-export generate bundle --art none "Wake me up at 07:30 on Monday."',
    )
)
@bundle_argument
@click.argument("prompt")
@click.option("--art", help="Stored picture to use, or none.  [default: the one in use]")
@click.option(
    "--max-new-tokens", type=click.IntRange(min=1), default=128, show_default=True, help="At most."
)
@json_option
def command(bundle: Path, prompt: str, art: str | None, max_new_tokens: int, as_json: bool) -> None:
    """Answer PROMPT greedily with BUNDLE, from the stored state of a picture."""
    from art_export.bundle import Bundle

    with StageDisplay(as_json=as_json) as progress:
        progress("load", 0, 1)
        with Bundle.load(bundle) as loaded:
            name = loaded.folder.active() if art is None else None if art == NO_ART else art
            # Read before the clock starts, like the graphs: a server does it once.
            loaded.prefix(name)
            progress("generate", 0, 1)
            began = time.perf_counter()
            answer = loaded.generate([prompt], name, max_new_tokens)[0]
            spent = time.perf_counter() - began
            progress("generate", 1, 1)
    if as_json:
        print_json({"art": name, "prompt": prompt, "seconds": spent} | vars(answer))
        return
    click.echo(answer.text)
    if not answer.finished:
        click.echo(f"stopped after {max_new_tokens} tokens; see --max-new-tokens", err=True)
