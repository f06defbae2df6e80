"""BFCL's simple category: a function's schema and a request, answered by one call in JSON.

Berkeley Function Calling Leaderboard, gorilla.cs.berkeley.edu/leaderboard.html.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.sources.base import Fields, Format, Hub, Line, Reading
from training.sources.bfcl_rules import ABSENT, TYPES, accepts, options, right_argument
from training.sources.calls import Call, read_answer
from training.tasks.base import Example

LINE = (
    '{"question": [{"role": "user", "content": "..."}], "functions": [{"name": "f", "parameters": '
    '{"type": "dict", "properties": {...}, "required": [...]}}], '
    '"ground_truth": [{"f": {"x": [5]}}]}'
)
REQUEST = 'Reply with one call as JSON: {"name": ..., "arguments": {...}}'
NEW_TOKENS = 256
PARSED, NAMED, ARGUMENTS = 0.1, 0.2, 0.6
"""Parts of the reward, as those of the reward `tool`; the rest is for a call that counts."""


@dataclass(frozen=True)
class Truth:
    """The function that must be called: its schema, and the allowed values of each argument."""

    name: str
    schema: Mapping[str, Any]
    allowed: Mapping[str, Sequence[Any]]

    @property
    def needed(self) -> list[str]:
        """Arguments that cannot be left out."""
        required = self.schema.get("required", ())
        return [key for key, v in self.allowed.items() if ABSENT not in v or key in required]

    def accepts(self, call: Call) -> bool:
        """Whether BFCL counts this call."""
        return call.name == self.name and accepts(self.schema, self.allowed, call.arguments)

    def reward(self, call: Call | None) -> float:
        """0.1 for a call, 0.2 for its name, 0.6 by the share of right arguments, of all that must
        be there or are; 1 for a call that counts."""
        if call is None:
            return 0.0
        if self.accepts(call):
            return 1.0
        if call.name != self.name:
            return PARSED
        names = {*self.needed, *call.arguments}
        right = sum(
            name in call.arguments
            and right_argument(self.schema, self.allowed, name, call.arguments[name])
            for name in names
        )
        return PARSED + NAMED + (ARGUMENTS * right / len(names) if names else 0.0)


@dataclass(frozen=True)
class Truths:
    """What is allowed, by reference answer: a scorer compares a completion with that text alone.
    Requests with one reference share what is allowed for any of them."""

    by_reference: Mapping[str, Sequence[Truth]]

    def is_correct(self, completion: str, reference: str) -> bool:
        """Whether the completion is one call, nothing beside it, that counts."""
        call = only_call(completion)
        return call is not None and any(t.accepts(call) for t in self.by_reference[reference])

    def reward(self, completion: str, reference: str) -> float:
        """See `Truth.reward`; the best of the reference's."""
        call = only_call(completion)
        return max(truth.reward(call) for truth in self.by_reference[reference])


def only_call(completion: str) -> Call | None:
    """The call that a completion consists of, if it is one alone."""
    answer = read_answer(completion)
    return answer.calls[0] if len(answer.calls) == 1 and not answer.text else None


def read_bfcl(lines: Sequence[Line]) -> Reading:
    """Answers are a call with the first allowed value of each argument that has to be there."""
    truths: dict[str, list[Truth]] = {}
    examples = []
    for line in lines:
        fields = Fields.of(line, LINE)
        functions = _functions(fields)
        truth = _truth(fields, functions)
        arguments = {key: _first(truth.allowed[key]) for key in truth.needed}
        answer = json.dumps({"name": truth.name, "arguments": arguments}, ensure_ascii=False)
        if not truth.accepts(Call(truth.name, arguments)):
            raise fields.wrong(f"'ground_truth' allows no call of its own schema: {answer}")
        request = _request(fields)
        prompt = "\n".join(json.dumps(function, ensure_ascii=False) for function in functions)
        prompt = f"Functions:\n{prompt}\n\n{request}\n\n{REQUEST}"
        examples.append(Example(prompt, answer, f"bfcl/{truth.name}/{request}"))
        truths.setdefault(answer, []).append(truth)
    scorer = Truths(truths)
    return Reading(tuple(examples), scorer.is_correct, scorer.reward)


def _request(fields: Fields) -> str:
    turns = fields.get("question")
    while isinstance(turns, list) and len(turns) == 1:
        turns = turns[0]
    if not isinstance(turns, dict) or turns.get("role") != "user":
        raise fields.wrong("a 'question' that is not one message of the user")
    return fields.said("request", turns.get("content")).strip()


def _functions(fields: Fields) -> list[dict[str, Any]]:
    found = fields.get("function" if "function" in fields.row else "functions")
    found = found if isinstance(found, list) else [found]
    if not found or not all(isinstance(one, dict) and _is_schema(one) for one in found):
        raise fields.wrong("functions without a name, or with parameters of unknown types")
    return found


def _is_schema(function: Mapping[str, Any]) -> bool:
    parameters = function.get("parameters")
    if not isinstance(function.get("name"), str) or not isinstance(parameters, dict):
        return False
    properties = parameters.get("properties")
    return isinstance(properties, dict) and all(map(_is_property, properties.values()))


def _is_property(declared: object) -> bool:
    if not isinstance(declared, dict) or declared.get("type") not in TYPES:
        return False
    if declared["type"] not in ("array", "tuple"):
        return True
    items = declared.get("items")
    return isinstance(items, dict) and items.get("type") in TYPES


def _truth(fields: Fields, functions: Sequence[Mapping[str, Any]]) -> Truth:
    found = fields.get("ground_truth")
    found = found[0] if isinstance(found, list) and len(found) == 1 else found
    if not isinstance(found, dict) or len(found) != 1:
        raise fields.wrong("a 'ground_truth' that is not one call")
    ((name, allowed),) = found.items()
    schemas = {function["name"]: function["parameters"] for function in functions}
    if name not in schemas:
        raise fields.wrong(f"a 'ground_truth' for {name!r}, which is none of the functions")
    if not isinstance(allowed, dict) or not all(isinstance(v, list) for v in allowed.values()):
        raise fields.wrong("a 'ground_truth' without lists of allowed values")
    return Truth(name, schemas[name], allowed)


def _first(values: Any) -> Any:
    """The first allowed value; in objects, which hold lists of values again, of every key."""
    return _settled(next((value for value in options(values) if value != ABSENT), ABSENT))


def _settled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _first(one) for key, one in value.items() if ABSENT not in options(one)}
    if isinstance(value, list):
        return [_settled(item) for item in value]
    return value


def _is_bfcl(row: Mapping[str, Any]) -> bool:
    return "question" in row and ("function" in row or "functions" in row)


BFCL = Format(
    "bfcl",
    LINE,
    _is_bfcl,
    read_bfcl,
    NEW_TOKENS,
    Hub(
        "gorilla-llm/Berkeley-Function-Calling-Leaderboard",
        "ba55ab5da12bf93c0d64c7a5ecab10740fb73fe5",
        ("BFCL_v3_simple.json",),
        answers=("possible_answer/BFCL_v3_simple.json",),
    ),
)
