"""Where examples come from: a shipped task by name, a file, or a data set on the hub.

All are a `Source`. Splits are made by the SHA-256 of what an example is about, so that train,
validation and test share nothing, whatever the order of the file.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from engines.errors import DataError
from engines.names import choose
from training.sources import FORMATS, Format, Line
from training.sources.base import Reward, Scorer
from training.sources.chats import CHATS, NEW_TOKENS
from training.sources.files import read_lines
from training.sources.hub import download
from training.sources.tool_answers import is_correct
from training.tasks import SPLITS, TASKS, Example, Split, split_of


class Source(Protocol):
    """What training and evaluation need of a task; `training.tasks.Task` is one."""

    @property
    def name(self) -> str: ...
    @property
    def max_new_tokens(self) -> int: ...
    def examples(self, split: Split, count: int, seed: int = 0) -> list[Example]:
        """At most `count` examples of `split`, the same for the same seed."""

    @property
    def is_correct(self) -> Any:
        """(completion, reference answer) -> bool"""


@dataclass(frozen=True)
class FileSource:
    """Examples from files. `reward` is a name in `training.rewards`, or a function."""

    name: str
    splits: dict[Split, tuple[Example, ...]]
    max_new_tokens: int = NEW_TOKENS
    is_correct: Scorer = is_correct
    reward: str | Reward = "exact"

    def examples(self, split: Split, count: int, seed: int = 0) -> list[Example]:
        """At most `count` examples of `split`, in an order drawn from the seed."""
        chosen = sorted(self.splits[split], key=lambda example: example.content)
        random.Random(f"{split}/{seed}").shuffle(chosen)
        return chosen[:count]


def find_source(name: str) -> Source:
    """The task, file or data set called `name`.

    Args:
        name: a shipped task; a path, whose format its first line tells; FORMAT:PATH; or
            FORMAT:TRAIN,TEST with the official test split in a file of its own. `gsm8k`, `svamp`,
            `bfcl` and `toolmind` alone come from the Hugging Face hub.

    Raises:
        OptionError: none of these (with "did you mean").
        DataError: a file is missing, malformed or too small, or the hub does not give it.
    """
    if name in TASKS:
        return TASKS[name]
    kind, _, paths = name.partition(":")
    if kind in FORMATS and paths:
        train, _, test = paths.partition(",")
        return load_files(Path(train), Path(test) if test else None, FORMATS[kind])
    on_hub = {kind: form.hub for kind, form in FORMATS.items() if form.hub}
    if name in on_hub:
        train_files, test_files = download(name, on_hub[name])
        form = FORMATS[name]
        return _source(name, form, _all_lines(train_files, form), _all_lines(test_files, form))
    path = Path(name)
    if path.suffix in (".jsonl", ".json", ".parquet") or len(path.parts) > 1 or path.exists():
        return load_files(path)
    return TASKS[choose("task", name, (*TASKS, *on_hub))]


def load_files(path: Path, test: Path | None = None, form: Format | None = None) -> FileSource:
    """Read and check every line of `path`; repeated examples count once.

    Args:
        test: a file that is the test split. What it has in common with `path` is left out there.
        form: the format; by default the first that knows the first line.
    """
    lines = read_lines(path, (form or CHATS).expected)
    known = form or _format_of(lines[0])
    held_out = [] if test is None else read_lines(test, known.expected)
    name = path.name if known is CHATS else f"{known.name}:{path.name}"
    return _source(name, known, lines, held_out)


def _format_of(line: Line) -> Format:
    row = line.value if isinstance(line.value, dict) else {}
    return next(form for form in FORMATS.values() if form.known_by(row))


def _all_lines(paths: Sequence[Path], form: Format) -> list[Line]:
    return [line for path in paths for line in read_lines(path, form.expected)]


def _source(name: str, form: Format, lines: list[Line], held_out: list[Line]) -> FileSource:
    # Read as one: a scorer has to know the answers of all splits.
    reading = form.read([*lines, *held_out])
    examples = tuple(dict.fromkeys(reading.examples[: len(lines)]))
    tests = tuple(dict.fromkeys(reading.examples[len(lines) :]))
    splits = _splits_beside(examples, tests, name) if tests else _splits(examples, name)
    return FileSource(name, splits, form.max_new_tokens, reading.is_correct, reading.reward)


def data_hash(examples: Iterable[Example]) -> str:
    """SHA-256 over the examples, sorted, so that it does not depend on their order."""
    lines = sorted(json.dumps(_plain(example), sort_keys=True) for example in examples)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _plain(example: Example) -> dict[str, str]:
    # Without what is not there: hashes of data without pairs are older than pairs.
    return {name: value for name, value in asdict(example).items() if value is not None}


def normalised(content: str) -> str:
    """`content` without case, punctuation and white space: what near-duplicates share. The name of
    its format, up to the first slash, is left out; what has no letters is itself."""
    text = content.partition("/")[2]
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).casefold()) or text


Splits = dict[Split, tuple[Example, ...]]


def _splits(examples: Sequence[Example], name: str) -> Splits:
    """Examples by split; near-duplicates together. A small file may leave validation or test
    empty: the contents whose hashes come last in train then move there, one at a time."""
    keys = _keys(examples)
    groups = {key: split_of(key) for key in sorted(set(keys.values()))}
    _check_enough(groups, name)
    for split in SPLITS[: len(groups)]:
        if split not in groups.values():
            groups[_spare(groups)] = split
    return {
        split: tuple(example for example in examples if groups[keys[example.content]] == split)
        for split in SPLITS
    }


def _splits_beside(examples: Sequence[Example], tests: Sequence[Example], name: str) -> Splits:
    """The official test split as it is; the others by hash, without what the test split has."""
    known = {normalised(example.content) for example in tests}
    rest = [example for example in examples if normalised(example.content) not in known]
    made = _splits(rest, name)
    return {
        "train": (*made["train"], *made["test"]),
        "validation": made["validation"],
        "test": tuple(tests),
    }


def _keys(examples: Sequence[Example]) -> dict[str, str]:
    """Content -> the content that stands for all its near-duplicates: the first by name."""
    first: dict[str, str] = {}
    for content in sorted({example.content for example in examples}):
        first.setdefault(normalised(content), content)
    return {example.content: first[normalised(example.content)] for example in examples}


def _check_enough(groups: Sequence[str] | dict[str, Split], name: str) -> None:
    if len(groups) < 2:
        raise DataError(
            got=f"{name} with {len(groups)} distinct prompt{'' if len(groups) == 1 else 's'}",
            expected="at least two, one to train on and one to validate with",
            fix="add examples",
        )


def _spare(groups: dict[str, Split]) -> str:
    """A content of the split that has the most, the last one by hash; of equal splits the one
    that can best do without."""
    sizes = {split: list(groups.values()).count(split) for split in SPLITS}
    largest = max(reversed(SPLITS), key=lambda split: sizes[split])
    return max(
        (content for content, split in groups.items() if split == largest),
        key=lambda content: hashlib.sha256(content.encode()).digest(),
    )
