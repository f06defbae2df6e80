"""Requests that one tool can serve, scored as strict JSON.

An answer counts if the whole completion is one JSON object equal to the reference (name and
every argument); any text beside it is a miss.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping

from training.tasks.base import Problem, Task
from training.tasks.math import NAMES, THINGS

CITIES = (
    "Berlin", "Cairo", "Delhi", "Geneva", "Lima", "London", "Madrid", "Milan", "Oslo", "Paris",
    "Prague", "Quito", "Rome", "Seoul", "Tokyo", "Vienna",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
ROOMS = ("kitchen", "bedroom", "garden", "hall", "office", "garage")
UNITS = ("meters", "miles", "grams", "pounds", "liters", "inches")
LANGUAGES = ("French", "German", "Spanish", "Italian", "Polish", "Greek")
GENRES = ("jazz", "rock", "folk", "soul", "opera", "blues")


def _time(rng: random.Random) -> str:
    return f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"


def _pick(values: tuple[str, ...]) -> Callable[[random.Random], str]:
    return lambda rng: rng.choice(values)


def _number(low: int, high: int) -> Callable[[random.Random], int]:
    return lambda rng: rng.randint(low, high)


Arguments = Mapping[str, Callable[[random.Random], str | int]]
TOOLS: dict[str, tuple[Arguments, tuple[str, ...]]] = {
    "set_alarm": (
        {"time": _time, "day": _pick(DAYS)},
        ("Wake me up at {time} on {day}.", "Set an alarm for {day} at {time}.",
         "I have to get up at {time} on {day}."),
    ),
    "get_weather": (
        {"city": _pick(CITIES), "day": _pick(DAYS)},
        ("What will the weather be in {city} on {day}?", "Will it rain in {city} on {day}?",
         "Tell me the forecast for {day} in {city}."),
    ),
    "send_message": (
        {"to": _pick(NAMES), "text": _pick(("I am late", "call me", "happy birthday",
                                            "see you soon", "thank you", "good luck"))},
        ("Text {to}: {text}.", "Send a message to {to} that says {text}.",
         "Tell {to} this: {text}."),
    ),
    "order_item": (
        {"item": _pick(THINGS), "count": _number(2, 99)},
        ("Order {count} {item}.", "I would like to buy {count} {item}.",
         "Please get me {count} {item} from the shop."),
    ),
    "set_light": (
        {"room": _pick(ROOMS), "level": _number(1, 99)},
        ("Set the light in the {room} to {level} percent.",
         "Dim the {room} light to {level}.", "The {room} light should be at {level}."),
    ),
    "convert": (
        {"value": _number(2, 999), "unit": _pick(UNITS)},
        ("Convert {value} {unit}.", "How much is {value} {unit} in other units?",
         "I need {value} {unit} converted."),
    ),
    "book_table": (
        {"guests": _number(2, 19), "time": _time},
        ("Book a table for {guests} at {time}.", "We are {guests} people, dinner at {time}.",
         "Reserve a table at {time} for {guests} guests."),
    ),
    "play_music": (
        {"genre": _pick(GENRES), "minutes": _number(5, 95)},
        ("Play {genre} for {minutes} minutes.", "I want to hear {minutes} minutes of {genre}.",
         "Put on some {genre} music, {minutes} minutes."),
    ),
    "find_train": (
        {"start": _pick(CITIES), "end": _pick(CITIES), "day": _pick(DAYS)},
        ("Find a train from {start} to {end} on {day}.",
         "I want to go by train on {day} from {start} to {end}.",
         "Which trains leave {start} for {end} on {day}?"),
    ),
    "translate": (
        {"word": _pick(THINGS), "language": _pick(LANGUAGES)},
        ("Translate {word} into {language}.", "How do you say {word} in {language}?",
         "What is the {language} word for {word}?"),
    ),
    "set_timer": (
        {"minutes": _number(2, 120)},
        ("Start a timer of {minutes} minutes.", "Count down {minutes} minutes.",
         "Remind me in {minutes} minutes."),
    ),
    "call": (
        {"name": _pick(NAMES), "time": _time},
        ("Call {name} at {time}.", "I want to phone {name} at {time}.",
         "Ring {name} for me at {time}."),
    ),
}  # fmt: skip

HINTS = {
    "json": (
        "Reply with the tool call as JSON.",
        "Give the call as a JSON object.",
        "Write JSON with name and arguments.",
    ),
    "python": ("Write it as a function call.", "Reply as Python code."),
    "sentence": ("Reply in a full sentence.", "Say it in one sentence."),
    "xml": ("Reply in XML.", "Use XML tags."),
    "yaml": ("Reply in YAML.", "Write it as YAML."),
}


def draw(rng: random.Random) -> Problem:
    """A request with a tool, a wording and argument values drawn from `rng`."""
    name = rng.choice(tuple(TOOLS))
    makers, wordings = TOOLS[name]
    values = _values(rng, makers)
    index = rng.randrange(len(wordings))
    content = f"tools/{name}/{index}/" + "-".join(str(value) for value in values.values())
    return Problem(content, wordings[index].format(**values), _answers(name, values))


def _values(rng: random.Random, makers: Arguments) -> dict[str, str | int]:
    """No value twice: nobody takes a train from Rome to Rome."""
    while True:
        values = {key: make(rng) for key, make in makers.items()}
        if len(set(values.values())) == len(values):
            return values


def _answers(name: str, values: Mapping[str, str | int]) -> dict[str, str]:
    code = ", ".join(f"{key}={json.dumps(value)}" for key, value in values.items())
    spoken = " and ".join(f"{key} {value}" for key, value in values.items())
    tags = "".join(f"<{key}>{value}</{key}>" for key, value in values.items())
    lines = "".join(f"\n  {key}: {value}" for key, value in values.items())
    return {
        "json": json.dumps({"name": name, "arguments": dict(values)}),
        "python": f"{name}({code})",
        "sentence": f"I will use {name} with {spoken}.",
        "xml": f"<{name}>{tags}</{name}>",
        "yaml": f"tool: {name}{lines}",
    }


def is_correct(completion: str, reference: str) -> bool:
    try:
        return bool(json.loads(completion) == json.loads(reference))
    except json.JSONDecodeError:
        return False


TASK = Task("tools", "json", HINTS, draw, is_correct, max_new_tokens=64, reward="tool")
