"""Scoring answers that may call tools: by the calls, whatever their order and the text beside."""

from __future__ import annotations

import re
from collections.abc import Sequence

from engines.conversation import Conversation, Message
from training.sources.calls import Call, as_call, equal, matched, read_answer

PARSED, NAMED, ARGUMENTS = 0.1, 0.2, 0.6
"""Parts of the reward, as those of the reward `tool`; the rest is for all calls and no others."""
_THOUGHT = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)


def is_correct(completion: str, reference: str) -> bool:
    """Whether the completion calls what the reference calls; of a reference without calls, whether
    the text is the same without outer white space."""
    wanted = calls_of(reference)
    if not wanted:
        return completion.strip() == reference.strip()
    return matched(read_answer(completion).calls, wanted)


def reward(completion: str, reference: str) -> float:
    """0.1 for a call that can be read, 0.2 by the share of names that are right, 0.6 by the share
    of right arguments, the rest if all is; 1 or 0 without calls in the reference."""
    wanted = calls_of(reference)
    if not wanted or is_correct(completion, reference):
        return float(is_correct(completion, reference))
    found = read_answer(completion).calls
    if not found:
        return 0.0
    pairs = _paired(found, wanted)
    # A call too many counts as one that is wrong.
    count = max(len(wanted), len(found))
    named = sum(call is not None for call, _ in pairs) / count
    shares = sum(_share(*pair) for pair in pairs) / count
    return PARSED + NAMED * named + ARGUMENTS * shares


def calls_of(answer: str) -> tuple[Call, ...]:
    """The calls of an answer made by `answer_of`; none of a plain text."""
    if not isinstance(answer, Conversation):
        return ()
    calls = (as_call(call) for call in answer.messages[-1].get("tool_calls", ()))
    return tuple(call for call in calls if call is not None)


def answer_of(message: Message) -> str:
    """The assistant's message as an answer: its text, or a `Conversation` if it calls tools.

    Raises:
        PromptError: it is no message of the assistant, or an empty one.
    """
    answer = Conversation.answer(message)
    said = answer.messages[-1]
    return answer if "tool_calls" in said else str(said["content"])


def without_thoughts(message: Message) -> Message:
    """A message of the assistant without what it thinks between <think> tags."""
    content = message.get("content")
    if message.get("role") != "assistant" or not isinstance(content, str):
        return message
    return {**message, "content": _THOUGHT.sub("", content)}


def _paired(found: Sequence[Call], wanted: Sequence[Call]) -> list[tuple[Call | None, Call]]:
    """Each wanted call with one found of its name, the equal one if there is, or None."""
    left = list(found)
    pairs: list[tuple[Call | None, Call]] = []
    for one in wanted:
        named = [call for call in left if call.name == one.name]
        best = max(named, key=lambda call: (equal(call, one), _share(call, one)), default=None)
        if best is not None:
            left.remove(best)
        pairs.append((best, one))
    return pairs


def _share(found: Call | None, wanted: Call) -> float:
    """Of all arguments wanted or given, how many are right."""
    if found is None:
        return 0.0
    names = {*found.arguments, *wanted.arguments}
    if not names:
        return 1.0
    right = sum(found.has(name, wanted.arguments[name]) for name in wanted.arguments)
    return right / len(names)
