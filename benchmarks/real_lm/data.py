"""Examples of a public data file, carved into three splits of our own.

Each file is all that there is of its data here, so its test split has to come out of it. Which
split an example belongs to is told by the SHA-256 of what it is about, near-duplicates together.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import replace
from pathlib import Path

from engines.errors import DataError
from training.data import FileSource, load_files
from training.sources import FORMATS
from training.tasks import SPLITS, Example, Split

FILES = {"bfcl": "bfcl/simple_train.jsonl", "svamp": "svamp/train.jsonl"}
"""task -> its file in the folder of data."""
SHARES: dict[Split, int] = {"train": 52, "validation": 12, "test": 36}
"""In percent. More for the test than is usual: the files are small."""
NEW_TOKENS = {"bfcl": 96, "svamp": 64}
"""Limits on generated tokens; every reference answer is shorter."""


def open_task(task: str, folder: Path) -> FileSource:
    """The task's file under `folder`, carved.

    Raises:
        DataError: it is not there, or not what it should be.
    """
    path = folder / FILES[task]
    if not path.is_file():
        raise DataError(
            got=f"{path}, which is not there",
            expected="BFCL's simple category or SVAMP, one JSON object a line",
            fix="give the folder that holds it with --data",
        )
    found = load_files(path, form=FORMATS[task])
    return replace(found, splits=carved(found), max_new_tokens=NEW_TOKENS[task])


def carved(source: FileSource) -> dict[Split, tuple[Example, ...]]:
    """All examples of `source`, split anew."""
    every = [example for split in SPLITS for example in source.splits[split]]
    made: dict[Split, tuple[Example, ...]] = {}
    for split in SPLITS:
        made[split] = tuple(example for example in every if split_of(example.content) == split)
    return made


def split_of(content: str) -> Split:
    """The split of what an example is about, whatever its case, punctuation and white space.
    Written out here, so that results of one day can be gone on with on another."""
    plain = re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", content).casefold())
    digest = hashlib.sha256(f"real_lm/{plain}".encode()).digest()
    bucket = int.from_bytes(digest[:4], "big") % 100
    if bucket < SHARES["train"]:
        return "train"
    return "validation" if bucket < SHARES["train"] + SHARES["validation"] else "test"
