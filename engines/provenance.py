"""Where a picture comes from: one JSON record in a text chunk of the PNG itself.

So one file is the whole adapter, and a tool that shows a PNG's texts shows what it was trained for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

KEYWORD = "art-export"
_FORMAT = 1


@dataclass(frozen=True)
class Provenance:
    """Where a picture comes from; stored in the PNG as JSON in a text chunk.

    Attributes:
        base_model: name or path of the frozen model that it was trained for.
        base_hash: SHA-256 of that model's weights, in hex.
        size: pixels a side.
        objective: name of the training objective.
        task: name of the task, or of the data file.
        data_hash: SHA-256 of the training data, in hex.
        seed: seed of the run.
        step: training step that the picture was taken at.
        score: validation score as reloaded from disk, or None where none was measured.
        version: version of art-export that wrote it.
    """

    base_model: str
    base_hash: str
    size: int
    objective: str
    task: str
    data_hash: str
    seed: int
    step: int
    score: float | None
    version: str

    def to_text(self, pixels_sha256: str) -> str:
        """Return the record as ASCII JSON, bound to the pixels that it belongs to.

        Raises:
            ValueError: the score is not a finite number.
        """
        record = {"format": _FORMAT, **asdict(self), "pixels_sha256": pixels_sha256}
        return json.dumps(record, allow_nan=False)


def read_provenance(
    texts: Sequence[tuple[str, str]], pixels_sha256: str
) -> tuple[Provenance | None, list[str]]:
    """Find the provenance among a PNG's texts.

    A bad one never stops a reader: the pixels are whole, and `check_base` warns of every picture
    whose base is unknown.

    Args:
        texts: (keyword, text) of each text chunk.
        pixels_sha256: `Picture.sha256` of the pixels that were read.

    Returns:
        The provenance, or None where there is none or it cannot be used; and what to tell the user.
    """
    found = [text for keyword, text in texts if keyword == KEYWORD]
    if not found:
        return None, ["it carries no provenance"]
    record = _parse(found[0])
    if len(found) > 1 or record.get("format") != _FORMAT:
        return None, ["its provenance cannot be understood and was ignored"]
    if not _is_valid(record):
        return None, ["its provenance is incomplete or of wrong types and was ignored"]
    provenance = Provenance(**{name: record[name] for name in Provenance.__annotations__})
    if record.get("pixels_sha256") != pixels_sha256:
        return provenance, ["its pixels were changed after training: they are not what was scored"]
    return provenance, []


def _parse(text: str) -> dict[str, Any]:
    """The JSON object in `text`, or an empty one."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _is_valid(record: Mapping[str, Any]) -> bool:
    """Whether every field of Provenance is there with its type. (A bool is an int to Python.)"""
    texts = ("base_model", "base_hash", "objective", "task", "data_hash", "version")
    score = record.get("score", "missing")
    number = isinstance(score, (int, float)) and not isinstance(score, bool)
    return (
        all(isinstance(record.get(name), str) for name in texts)
        and all(type(record.get(name)) is int for name in ("size", "seed", "step"))
        # A comparison, since math.isfinite overflows on a very large integer.
        and (score is None or (number and abs(score) < math.inf))
    )
