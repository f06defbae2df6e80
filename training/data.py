"""Where examples come from: a shipped task by name, or a JSONL file of chats.

Both are a `Source`. Splits are made by the SHA-256 of what an example is about, so that train,
validation and test share nothing, whatever the order of the file.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from engines.errors import DataError
from engines.names import choose
from training.tasks import SPLITS, TASKS, Example, Split, split_of

JSONL_NEW_TOKENS = 512
"""The limit on generated tokens for JSONL files, as in the released evaluation of ART."""
FORMS = (
    '{"prompt": "...", "answer": "..."} or {"messages": [{"role": "user", "content": "..."}, '
    '{"role": "assistant", "content": "..."}]} or {"prompt": "...", "chosen": "...", '
    '"rejected": "..."}'
)


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
class JsonlTask:
    """Examples from a file, scored by the exact match of the text without outer white space."""

    name: str
    splits: dict[Split, tuple[Example, ...]]
    max_new_tokens: int = JSONL_NEW_TOKENS

    def examples(self, split: Split, count: int, seed: int = 0) -> list[Example]:
        chosen = sorted(self.splits[split], key=lambda example: example.content)
        random.Random(f"{split}/{seed}").shuffle(chosen)
        return chosen[:count]

    @staticmethod
    def is_correct(completion: str, reference: str) -> bool:
        return completion.strip() == reference.strip()


def find_source(name: str) -> Source:
    """The task called `name`, or the JSONL file at that path.

    Raises:
        OptionError: neither a shipped task nor a path (with "did you mean").
        DataError: the file is missing, malformed or too small.
    """
    if name in TASKS:
        return TASKS[name]
    path = Path(name)
    if path.suffix in (".jsonl", ".json") or len(path.parts) > 1 or path.exists():
        return load_jsonl(path)
    return TASKS[choose("task", name, TASKS)]


def load_jsonl(path: Path) -> JsonlTask:
    """Read and check every line of `path`; blank lines are skipped, repeated lines count once."""
    found: dict[Example, None] = {}
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            found[_parse(line, f"line {number} of {path.name}")] = None
    if not found:
        raise DataError(f"{path.name} without any example", f"lines like {FORMS}", "add lines")
    return JsonlTask(path.name, _split(tuple(found), path))


def data_hash(examples: Iterable[Example]) -> str:
    """SHA-256 over the examples, sorted, so that it does not depend on their order."""
    lines = sorted(json.dumps(_plain(example), sort_keys=True) for example in examples)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _plain(example: Example) -> dict[str, str]:
    # Without what is not there: hashes of data without pairs are older than pairs.
    return {name: value for name, value in asdict(example).items() if value is not None}


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise DataError(
            got=f"{path}, which is {'a folder' if path.is_dir() else 'not there'}",
            expected="a JSONL file",
            fix="check the path",
        )
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(
            got=f"{path.name}, whose byte {error.start} is not UTF-8",
            expected="a JSONL file in UTF-8",
            fix="save it as UTF-8",
        ) from error


def _parse(line: str, where: str) -> Example:
    try:
        value = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        reason = getattr(error, "msg", "nested too deeply")
        raise DataError(
            got=f"{where}: not JSON ({reason}): {_short(line)}",
            expected=FORMS,
            fix="write one JSON object a line",
        ) from error
    given = _fields(value, where)
    prompt, answer = _text("prompt", given[0], where), _text("answer", given[1], where)
    rejected = None if given[2] is None else _text("rejected answer", given[2], where)
    # The prompt alone decides the split: two answers to one prompt must not straddle it.
    return Example(prompt, answer, f"jsonl/{prompt.strip()}", rejected)


def _fields(value: object, where: str) -> tuple[object, object, object]:
    """Prompt, answer and worse answer (None without one) of any form."""
    if not isinstance(value, dict):
        raise _wrong_form(where, f"{type(value).__name__} instead of an object")
    if "messages" in value:
        return (*_from_messages(value["messages"], where), None)
    paired = "chosen" in value or "rejected" in value
    keys = ("prompt", "chosen", "rejected") if paired else ("prompt", "answer")
    for key in keys:
        if key not in value:
            raise _wrong_form(where, f"no key '{key}' (keys: {', '.join(value) or 'none'})")
    prompt, answer, *worse = (value[key] for key in keys)
    return prompt, answer, worse[0] if worse else None


def _from_messages(messages: object, where: str) -> tuple[object, object]:
    if not isinstance(messages, list) or not all(isinstance(item, dict) for item in messages):
        raise _wrong_form(where, "'messages' is not a list of objects")
    roles = [item.get("role") for item in messages]
    if roles != ["user", "assistant"]:
        raise _wrong_form(where, f"messages with the roles {roles}")
    for role, item in zip(roles, messages, strict=True):
        if "content" not in item:
            raise _wrong_form(where, f"no 'content' in the message of the {role}")
    return messages[0]["content"], messages[1]["content"]


def _text(name: str, text: object, where: str) -> str:
    if not isinstance(text, str):
        raise _wrong_form(where, f"the {name} is {type(text).__name__}, not text")
    if not text.strip():
        raise _wrong_form(where, f"the {name} is empty")
    return text


def _wrong_form(where: str, what: str) -> DataError:
    return DataError(got=f"{where}: {what}", expected=FORMS, fix="correct that line")


def _short(line: str, limit: int = 60) -> str:
    return line if len(line) <= limit else line[:limit] + "..."


def _split(examples: Sequence[Example], path: Path) -> dict[Split, tuple[Example, ...]]:
    """Examples by split. A small file may leave validation or test empty: the contents whose
    hashes come last in train then move there, one content each."""
    contents = {example.content: split_of(example.content) for example in examples}
    if len(contents) < 2:
        raise DataError(
            got=f"{path.name} with {len(contents)} distinct prompt",
            expected="at least two, one to train on and one to validate with",
            fix="add examples",
        )
    for split in SPLITS[: len(contents)]:
        if split not in contents.values():
            contents[_spare(contents)] = split
    return {
        split: tuple(example for example in examples if contents[example.content] == split)
        for split in SPLITS
    }


def _spare(contents: dict[str, Split]) -> str:
    """A content of the split that has the most, the last one by hash; of equal splits the one
    that can best do without."""
    sizes = {split: list(contents.values()).count(split) for split in SPLITS}
    largest = max(reversed(SPLITS), key=lambda split: sizes[split])
    return max(
        (content for content, split in contents.items() if split == largest),
        key=lambda content: hashlib.sha256(content.encode()).digest(),
    )
