"""`art-export generate`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from art_export.cli.engine_options import EngineChoice, engine_options
from art_export.cli.options import example, json_option, size_option
from art_export.cli.output import print_json
from art_export.cli.progress import StageDisplay
from engines.errors import OptionError


@click.command(
    epilog=example(
        'art-export generate bundle "Wake me up at 07:30 on Monday."',
        'art-export generate bundle --art none "Wake me up at 07:30 on Monday."',
        "art-export generate bundle --messages chat.json",
        "art-export generate demo --engine vllm --url http://localhost:8000 --art art.png "
        '"Set a timer."',
    )
)
@click.argument("target", metavar="BUNDLE|MODEL")
@click.argument("prompt", required=False)
@click.option(
    "--messages",
    type=click.Path(path_type=Path),
    help="JSON file of a whole chat instead of PROMPT: a list of messages in OpenAI's form, or an "
    'object of "messages" and "tools".',
)
@click.option("--art", help="Stored picture, PNG file or none.  [default: the one in use]")
@click.option(
    "--max-new-tokens", type=click.IntRange(min=1), default=128, show_default=True, help="At most."
)
@engine_options()
@size_option
@json_option
def command(
    target: str,
    prompt: str | None,
    messages: Path | None,
    art: str | None,
    max_new_tokens: int,
    size: int | None,
    as_json: bool,
    choice: EngineChoice,
) -> None:
    """Answer PROMPT, or a whole chat, greedily: with a bundle, from the stored state of a picture;
    with a MODEL in PyTorch; or on a vLLM server that serves the model.

    --size counts for a MODEL alone: a bundle knows the size of its pictures.
    """
    asked = _asked(prompt, messages)
    with StageDisplay(as_json=as_json) as progress:
        progress("load", 0, 1)
        # Graphs and state are read before the clock starts: a running service does it once.
        with choice.open(target, art, size) as subject:
            progress("generate", 0, 1)
            began = time.perf_counter()
            answer = subject.generate([asked], max_new_tokens)[0]
            spent = time.perf_counter() - began
            progress("generate", 1, 1)
    if as_json:
        facts = {
            "target": target,
            "engine": subject.engine,
            "art": subject.art,
            "notes": subject.notes,
            "prompt": asked,
            "seconds": spent,
        }
        print_json(facts | vars(answer))
        return
    click.echo(answer.text)
    for note in subject.notes:
        click.echo(f"note: {note}", err=True)
    if not answer.finished:
        click.echo(f"stopped after {max_new_tokens} tokens; see --max-new-tokens", err=True)


def _asked(prompt: str | None, messages: Path | None) -> str:
    """The prompt, or the conversation in the file."""
    from engines.conversation import load_conversation

    if prompt is not None and messages is None:
        return prompt
    if messages is None or prompt is not None:
        raise OptionError(
            got="both PROMPT and --messages" if messages else "neither PROMPT nor --messages",
            expected="one of them",
            fix='art-export generate TARGET "your prompt", or --messages chat.json',
        )
    return load_conversation(messages)
