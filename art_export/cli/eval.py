"""`art-export eval`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from art_export.cli.engine_options import EngineChoice, check_one, engine_options
from art_export.cli.options import FilePath, example, json_option, size_option
from art_export.cli.output import facts, percent, print_json, seconds
from art_export.cli.progress import StageDisplay
from engines.errors import OptionError, OutputExistsError

if TYPE_CHECKING:
    from art_export.evaluate import Answered, Score
    from art_export.paired import McNemar
    from art_export.subject import Asked
    from training.data import Source
    from training.tasks import Example


@dataclass(frozen=True)
class Way:
    """How the model is brought to the task; at most one is given, and none is the base model, or
    the picture that a bundle has in use."""

    art: str | None
    lora: Path | None
    soft_prompt: Path | None
    prompt: str | None

    def check(self) -> None:
        """OptionError if a prompt in words is to go with an adapter."""
        if self.prompt is not None:
            art = None if self.art == "none" else self.art
            given = {"--art": art, "--lora": self.lora, "--soft-prompt": self.soft_prompt}
            check_one({"--prompt": self.prompt, **given})

    @contextmanager
    def open(
        self,
        choice: EngineChoice,
        target: str,
        size: int | None,
        source: Source,
        examples: Sequence[Example],
    ) -> Iterator[Asked]:
        """What answers in this way."""
        if self.prompt is None:
            with choice.open(target, self.art, size, self.lora, self.soft_prompt) as asked:
                yield asked
            return
        from art_export.adapted import in_words
        from training.teacher import load_teacher

        words = load_teacher(source, self.prompt).ids
        with choice.open(target, "none", size) as asked:
            yield in_words(asked, words, [one.prompt for one in examples])


@click.command(
    epilog=example(
        "art-export eval bundle --task tools -n 500",
        "art-export eval bundle --task tools --art none",
        "art-export eval demo --task math --art run/art.png",
        "art-export eval bundle --task math --lora run-lora/adapter",
        "art-export eval bundle --task math --soft-prompt run-soft/adapter",
        "art-export eval bundle --task math --prompt few_shot.json --examples-out words.jsonl",
        "art-export eval bundle --task math --art math --against words.jsonl",
        "art-export eval demo --engine vllm --url http://localhost:8000 --task math --art art.png",
    )
)
@click.argument("target", metavar="BUNDLE|MODEL")
@click.option("--task", required=True, help="A task's name, or a file of prompts and answers.")
@click.option("--art", help="Stored picture, PNG file or none.  [default: the one in use]")
@click.option("--lora", type=FilePath, help="Folder of a LoRA, instead of a picture.")
@click.option("--soft-prompt", type=FilePath, help="Folder of a soft prompt, instead of a picture.")
@click.option("--prompt", help="File with a prompt in words, instead of a picture.")
@click.option(
    "-n", "count", type=click.IntRange(min=1), default=500, show_default=True, help="Examples."
)
@click.option("--hint", is_flag=True, help="Ask for the wanted form in words, in every prompt.")
@click.option("--examples-out", type=FilePath, help="JSONL file to write, one line an example.")
@click.option("--against", type=FilePath, help="Earlier --examples-out to compare with, in pairs.")
@engine_options()
@size_option
@json_option
def command(
    target: str,
    task: str,
    art: str | None,
    lora: Path | None,
    soft_prompt: Path | None,
    prompt: str | None,
    count: int,
    hint: bool,
    examples_out: Path | None,
    against: Path | None,
    size: int | None,
    as_json: bool,
    choice: EngineChoice,
) -> None:
    """Score a bundle, a model in PyTorch or a vLLM server on held-out examples of a task.

    As it is, or with one of --art, --lora, --soft-prompt and --prompt; docs/evaluation.md tells
    what each does. --size counts for a MODEL alone: a bundle knows the size of its pictures.
    """
    from art_export.evaluate import evaluate
    from art_export.paired import compare, read_outcomes
    from training.data import find_source

    way = Way(art, lora, soft_prompt, prompt)
    way.check()
    check_new(examples_out)
    earlier = None if against is None else read_outcomes(against)
    source = find_source(task)
    examples = held_out(source, count, hint)
    answered: list[Answered] = []
    with StageDisplay(as_json=as_json) as progress:
        progress("load", 0, 1)
        with way.open(choice, target, size, source, examples) as asked:
            generate = asked.answerer(source.max_new_tokens)
            score = evaluate(
                generate, examples, source.is_correct, progress=progress, record=answered.append
            )
    if examples_out is not None:
        write_examples(examples_out, answered)
    paired = None if earlier is None else compare(answered, earlier)
    described = _facts(target, asked, source, way) | {"hint": hint}
    if as_json:
        pairs = {} if paired is None else {"paired": asdict(paired)}
        print_json(described | vars(score) | pairs)
    else:
        click.echo(_describe(described, score, paired))
    if score.n < count:
        click.echo(f"note: {source.name} has no more than {score.n} test examples", err=True)
    for note in asked.notes:
        click.echo(f"note: {note}", err=True)


def check_new(path: Path | None) -> None:
    """OutputExistsError before anything is computed that could then not be written."""
    if path is not None and path.exists():
        raise OutputExistsError(
            got=f"--examples-out {path}, which exists",
            expected="a file that does not exist yet",
            fix="choose another, or remove it",
        )


def write_examples(path: Path, answered: Sequence[Answered]) -> None:
    """One JSON object a line, in the order of the examples' ids; appears whole or not at all."""
    from engines.files import write_bytes

    rows = [asdict(one) for one in sorted(answered, key=lambda one: one.id)]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_bytes(path, text.encode())


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


def _facts(target: str, asked: Asked, source: Source, way: Way) -> dict[str, Any]:
    return {
        "target": target,
        "engine": asked.engine,
        "task": source.name,
        "split": "test",
        "art": asked.art,
        "lora": None if way.lora is None else str(way.lora),
        "soft_prompt": None if way.soft_prompt is None else str(way.soft_prompt),
        "prompt": way.prompt,
        "deploy_seconds": dict(getattr(asked, "deploy", {})),
        "notes": asked.notes,
    }


def _describe(asked: dict[str, Any], score: Score, paired: McNemar | None) -> str:
    ways = [("picture", "art"), ("LoRA", "lora"), ("soft prompt", "soft_prompt")]
    ways += [("prompt in words", "prompt")]
    given = [(label, asked[key]) for label, key in ways if asked[key] is not None]
    rows: list[tuple[str, object]] = [
        ("scored", f"{asked['target']} ({asked['engine']})"),
        ("task", f"{asked['task']}, {score.n} test examples"),
        ("hint in words", "yes" if asked["hint"] else "no"),
        *(given or [("picture", "none")]),
        ("accuracy", f"{percent(score.accuracy)}  ({score.correct}/{score.n})"),
        ("95 % interval", f"{percent(score.low)} to {percent(score.high)} (Wilson)"),
        ("time", seconds(score.seconds)),
    ]
    if paired is not None:
        only = f"right here alone {paired.b}, there alone {paired.c}"
        rows.append(("compared", f"{only}; p = {paired.p_value:.3g} (McNemar, exact)"))
    return facts(rows)
