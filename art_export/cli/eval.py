"""`art-export eval`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from art_export.cli.engine_options import EngineChoice, engine_options
from art_export.cli.options import example, json_option, size_option
from art_export.cli.output import facts, percent, print_json, seconds
from art_export.cli.progress import StageDisplay
from engines.errors import OptionError

if TYPE_CHECKING:
    from art_export.evaluate import Score
    from training.data import Source
    from training.tasks import Example


@click.command(
    epilog=example(
        "art-export eval bundle --task tools -n 500",
        "art-export eval bundle --task tools --art none",
        "art-export eval demo --task math --art run/art.png",
        "art-export eval demo --engine vllm --url http://localhost:8000 --task math --art art.png",
    )
)
@click.argument("target", metavar="BUNDLE|MODEL")
@click.option("--task", required=True, help="math, tools, or a JSONL file of prompts and answers.")
@click.option("--art", help="Stored picture, PNG file or none.  [default: the one in use]")
@click.option(
    "-n", "count", type=click.IntRange(min=1), default=500, show_default=True, help="Examples."
)
@click.option("--hint", is_flag=True, help="Ask for the wanted form in words, in every prompt.")
@engine_options()
@size_option
@json_option
def command(
    target: str,
    task: str,
    art: str | None,
    count: int,
    hint: bool,
    size: int | None,
    as_json: bool,
    choice: EngineChoice,
) -> None:
    """Score a bundle, a model in PyTorch or a vLLM server on held-out examples of a task.

    --size counts for a MODEL alone: a bundle knows the size of its pictures.
    """
    from art_export.evaluate import evaluate
    from training.data import find_source

    source = find_source(task)
    examples = held_out(source, count, hint)
    with StageDisplay(as_json=as_json) as progress:
        progress("load", 0, 1)
        with choice.open(target, art, size) as subject:
            complete = subject.completer(source.max_new_tokens)
            score = evaluate(complete, examples, source.is_correct, progress=progress)
    asked: dict[str, object] = {
        "target": target,
        "engine": subject.engine,
        "task": source.name,
        "split": "test",
        "hint": hint,
        "art": subject.art,
        "notes": subject.notes,
    }
    if as_json:
        print_json(asked | vars(score))
    else:
        click.echo(_describe(asked, score))
    if score.n < count:
        click.echo(f"note: {source.name} has no more than {score.n} test examples", err=True)
    for note in subject.notes:
        click.echo(f"note: {note}", err=True)


def held_out(source: Source, count: int, hint: bool) -> list[Example]:
    """Test examples of a task; with `hint`, their prompts say which form is wanted.

    Raises:
        OptionError: there are none, or the task has no hints (a JSONL file).
    """
    from training.tasks import Task

    if hint and not isinstance(source, Task):
        raise OptionError(
            got=f"--hint with {source.name}",
            expected="a shipped task, which knows how to ask for its form in words",
            fix="leave --hint out, or put the words into the file's prompts",
        )
    if isinstance(source, Task):
        return source.examples("test", count, hint=hint)
    examples = source.examples("test", count)
    if not examples:
        raise OptionError(
            got=f"{source.name}, which has no test examples",
            expected="a file with at least three distinct prompts",
            fix="add examples",
        )
    return examples


def _describe(asked: dict[str, object], score: Score) -> str:
    return facts(
        [
            ("scored", f"{asked['target']} ({asked['engine']})"),
            ("task", f"{asked['task']}, {score.n} test examples"),
            ("hint in words", "yes" if asked["hint"] else "no"),
            ("picture", asked["art"] or "none"),
            ("accuracy", f"{percent(score.accuracy)}  ({score.correct}/{score.n})"),
            ("95 % interval", f"{percent(score.low)} to {percent(score.high)} (Wilson)"),
            ("time", seconds(score.seconds)),
        ]
    )
